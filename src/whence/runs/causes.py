"""What is said when a replay does not give what was recorded."""

import math

from whence.runs.statistics import GradientStatistics
from whence.runs.step_record import StepRecord

_LIKELY = (
    "Likely causes: the loop minimises another loss than the one given ({loss}), or adds a penalty to it; the loop "
    "changes the batch between recorder and model; random draws in the dataset without a stored seed "
    "(use datasets.Augmented) or in the model by other means than torch; gradients that are not zeroed between steps "
    "or are changed in another way than by one factor for each parameter or by clipping, such as noise; "
    "parameters or buffers changed by hand between steps; another version of torch, another device or "
    "thread count."
)


def mismatch(record: StepRecord, found: GradientStatistics, loss: str) -> str:
    """Return the message for a step whose gradient is not the recorded one."""
    wanted = record.statistics.whole
    if not math.isfinite(wanted.l2):
        return (
            f"Step {record.step} (epoch {record.epoch}) cannot be walked again: its recorded gradient is not finite, "
            "so the training diverged there. Lower the learning rate or clip the gradient, and record anew."
        )
    cause = _LIKELY.format(loss=loss)
    if record.touched:
        cause = (
            f"Before this step, something other than the optimizer changed {_some(record.touched)}; such changes are "
            "no part of training by gradients and cannot be recorded."
        )
    return (
        f"Step {record.step} (epoch {record.epoch}) cannot be walked again: its gradient has norm {found.l2:.6g}, "
        f"largest value {found.linf:.6g} and sum {found.total:.6g}; recorded were {wanted.l2:.6g}, {wanted.linf:.6g} "
        f"and {wanted.total:.6g}, which no scaling or clipping explains. {cause}"
    )


def missed_landing(
    start: int, stop: int, deviation: float, tolerance: float, touched: dict[int, tuple[str, ...]]
) -> str:
    """Return the message for a segment whose end is not the next snapshot."""
    if touched:
        step, names = next(iter(touched.items()))
        cause = f"Before step {step}, something other than the optimizer changed {_some(names)}; "
        cause += "such changes are no part of training by gradients and cannot be recorded."
    else:
        cause = (
            "Likely causes: parameters or buffers changed by hand between steps (through .data, where no one can see "
            "it); a parameter's learning rate changed inside the step; another version of torch, another device or "
            "thread count."
        )
    return (
        f"Steps {start} to {stop - 1} do not lead from the snapshot before step {start} to the one before step {stop}: "
        f"they miss it by {deviation:.3g} of the way between the two (at most {tolerance:g} is put up with). {cause}"
    )


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
