"""Find what a training loop did to its gradient before the optimizer saw it."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from whence.runs.changes import Change, Sought
from whence.runs.changes import divisor as divisor_of
from whence.runs.statistics import GradientTable, are_measured, gradient_table

Scale = float | dict[str, float | Tensor]


def reconcile(gradients: Mapping[str, Tensor], wanted: GradientTable, microbatches: int) -> Scale | None:
    """Change gradients in place into the recorded ones, and return by which factor.

    Tried in order: nothing; one scalar for all (accumulation, clipping by norm, loss scaling), or one scalar and
    clipping by value; the same for each parameter (clipping layer by layer or group by group). Whichever of the two the
    loop did first, and whether it did one of them twice, all come to one scalar and one bound.

    Args:
        gradients: As computed again, by parameter name.
        wanted: Statistics of the gradient that the optimizer saw.
        microbatches: How many batches the step accumulated.

    Returns:
        The factor from the gradient computed to the one used: one number, or by parameter name a number or a tensor of
        its shape. None if none of these gives the recorded statistics.
    """
    if are_measured(gradients, wanted):
        return 1.0
    raw = gradient_table(gradients)
    norms = (raw.whole.l2, raw.whole.linf, wanted.whole.l2, wanted.whole.linf)
    if raw.names != wanted.names or raw.whole.linf == 0.0 or not all(math.isfinite(norm) for norm in norms):
        return None
    sought = Sought(gradients, raw, wanted)
    factors = (1.0, 1.0 / microbatches)
    change = sought.change((), factors)
    changes = _one_by_one(sought, factors) if change is None else None
    if changes is not None:
        return {name: _take(gradients[name], changes[name]) for name in gradients}
    change = change or sought.change((), factors, each=False)
    if change is None:
        return None
    taken = {name: _take(gradient, change) for name, gradient in gradients.items()}
    return change.factor if change.bound == math.inf else taken


def exact(gradients: Mapping[str, Tensor], wanted: GradientTable) -> bool:
    """Return whether gradients are the recorded ones bit by bit."""
    return are_measured(gradients, wanted)


def divisor(scale: Scale) -> int:
    """Return the whole number that a loop may have divided its loss by, 1 if there is none."""
    factors = [scale] if isinstance(scale, float) else scale.values()
    return max((divisor_of(factor) for factor in factors if isinstance(factor, float)), default=1)


def _one_by_one(sought: Sought, factors: tuple[float, ...]) -> dict[str, Change] | None:
    """Return a change for each parameter, None if one has none.

    What explains a larger one is tried first: a loop has few factors, and small gradients tell them less well.
    """
    found: dict[str, Change] = {}
    for name in sorted(sought.gradients, key=lambda name: -sought.gradients[name].numel()):
        known = dict.fromkeys(found.values())
        before = dict.fromkeys((*(change.factor for change in known), *factors))
        change = sought.only(name).change(known, before)
        if change is None:
            return None
        found[name] = change
    return found


def _take(gradient: Tensor, change: Change) -> float | Tensor:
    """Change a gradient in place and return the factor, of each element if it was clipped."""
    changed = change.of(gradient)
    if change.bound == math.inf:
        gradient.copy_(changed)
        return change.factor
    factor = torch.where(gradient == 0, torch.full_like(gradient, change.factor), changed / gradient)
    gradient.copy_(changed)
    return factor
