"""Through which modes groups of inputs differ, and how far what training does to them cancels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from whence._errors import ArgumentError, ShapeError
from whence._numbers import is_whole
from whence._progress import progress
from whence.adversarial.groups import ADVERSARIAL, CLEAN, Groups
from whence.kernel import Modes, Trained, coefficients, input_sensitivity, modes, participation_ratio
from whence.kernel.moments import ends_of_epochs, steps_of, trained_at
from whence.runs import Run, check_run

_TOP = 5  # modes whose share of the change is told


def mode_coefficients(found: Modes, source: Run | Trained, groups: Groups, **options: Any) -> xr.DataArray:
    """Return the mode coefficients of all inputs of the groups, dims ``("group", "example", "mode")``.

    Args:
        found: The modes.
        source: The run whose modes they are, or a trained model.
        groups: The inputs.
        options: Passed to `whence.kernel.coefficients`.

    Errors are those of `whence.kernel.coefficients`.
    """
    return groups.split(coefficients(found, source, groups.data, **options), "example")


def mode_differences(found: Modes, values: xr.DataArray, of: str = ADVERSARIAL, to: str = CLEAN) -> xr.Dataset:
    """Return mode by mode how far the coefficients of two groups are apart (PLGK, figures 15 and 27).

    Args:
        found: The modes.
        values: Their coefficients, from `mode_coefficients`.
        of, to: Which groups.

    Returns:
        By ``mode``: ``difference``, mean over examples of c_of - c_to; ``size``, mean over examples of |c_of - c_to|;
        ``singular_value`` σ_k; ``alignment`` a_k; ``drive`` Λ_k.

    Raises:
        ArgumentError: If there is no such group.
        ShapeError: If there is not one coefficient a mode, or no dim of groups.
    """
    _check_modes(found, values)
    if "group" not in values.dims:
        raise ShapeError(
            f"Differences are between groups, along a dim 'group'; these coefficients have {tuple(values.dims)}."
        )
    for name in (of, to):
        if name not in values.coords["group"].values:
            raise ArgumentError(f"No group {name!r}; the groups are {', '.join(map(str, values.group.values))}.")
    change = values.sel(group=of, drop=True) - values.sel(group=to, drop=True)
    told = {"singular_value": found.singular_values, "alignment": found.alignment, "drive": found.drive}
    return xr.Dataset(
        {
            "difference": change.mean("example"),
            "size": abs(change).mean("example"),
            **{name: ("mode", one.cpu().numpy()) for name, one in told.items()},
        }
    )


def mode_concentration(found: Modes, source: Run | Trained, groups: Groups, values: xr.DataArray) -> dict[str, float]:
    """Return how few modes carry what sets adversarial inputs apart (PLGK, section 6.3).

    Args:
        found: The modes.
        source: The run whose modes they are, or a trained model.
        groups: The inputs, clean and adversarial ones among them.
        values: Their coefficients, from `mode_coefficients`.

    Returns:
        Participation ratios of |Λ_k|, of the mean |Δc_k|, of the mean sensitivity ‖∇_x c_k‖ of the clean inputs, and of
        the product |Λ_k| |Δc_k|; the share of that product in its five largest modes; the correlations over modes
        of |Λ_k| with |Δc_k| and with the sensitivity.

    Errors are those of `whence.kernel.input_sensitivity` and `mode_differences`.
    """
    differences = mode_differences(found, values)
    drive, change = abs(differences["drive"]).values, differences["size"].values
    felt = sensitivity(found, source, groups.only([CLEAN]))["raw"].mean(["group", "example"]).values
    product = drive * change
    return {
        "participation_drive": float(participation_ratio(drive)),
        "participation_change": float(participation_ratio(change)),
        "participation_sensitivity": float(participation_ratio(felt)),
        "participation_product": float(participation_ratio(product)),
        "share_of_top_5": float(np.sort(product)[::-1][:_TOP].sum() / product.sum()),
        "correlation_drive_change": float(np.corrcoef(drive, change)[0, 1]),
        "correlation_drive_sensitivity": float(np.corrcoef(drive, felt)[0, 1]),
    }


def cancellation_ratio(found: Modes, values: xr.DataArray) -> xr.DataArray:
    """Return CR(K) = |Σ_k Λ_k c_k| / Σ_k |Λ_k c_k| over the first K modes (PLGK, section 6.3).

    1 where all modes push the example's loss the same way, 0 where they cancel; NaN where no mode pushes.

    Args:
        found: The modes.
        values: Coefficients with a dim ``"mode"``, such as from `mode_coefficients`.

    Returns:
        The dims of ``values``, with ``"modes"`` (K, from 1) in place of ``"mode"``.

    Raises:
        ShapeError: If there is not one coefficient a mode.
    """
    _check_modes(found, values)
    pushes = values * xr.DataArray(found.drive.cpu().numpy(), dims="mode")
    whole = abs(pushes).cumsum("mode")
    ratio = (abs(pushes.cumsum("mode")) / whole.where(whole > 0)).rename(mode="modes")
    return ratio.assign_coords(modes=np.arange(1, len(found) + 1)).rename("cancellation")


def _check_modes(found: Modes, values: xr.DataArray) -> None:
    if values.sizes.get("mode") != len(found):
        raise ShapeError(
            f"These are {len(found)} modes, and coefficients of dims {dict(values.sizes)}. Give the coefficients in "
            "these modes: mode_coefficients(found, run, groups)."
        )


def modes_over_time(
    run: Run,
    groups: Groups,
    *,
    times: Sequence[int] | None = None,
    count: int = 125,
    sensitive: int = 50,
    ids: Sequence[int] | None = None,
    seed: int = 0,
    memory_budget: int = 2**29,
) -> xr.Dataset:
    """Follow modes and what inputs have to do with them through a run (PLGK, figures 17 and 18).

    Args:
        run: The recorded run.
        groups: The inputs.
        times: The states, after so many steps; the ends of the epochs if left out.
        count: How many modes.
        sensitive: Of how many modes to measure the inputs' sensitivity; it takes one backward pass a mode.
        ids: Training examples whose modes and drives are taken; all if left out.
        seed: Of the modes.
        memory_budget: Bytes that gradients may take.

    Returns:
        ``cancellation`` ("time", "group", "example", "modes"), see `cancellation_ratio`; ``raw`` and ``corrected``
        ("time", "group", "example", "mode"), see `whence.kernel.input_sensitivity`; ``energy`` ("time", "group",
        "example"), Σ_k c_kn²; ``captured`` ("time",), the share of the training gradients' energy in the modes.

    Raises:
        ArgumentError: If there are no such times, ids or so many modes.
        GradientError: If per-example gradients of the model cannot be formed.
    """
    check_run(run, "To follow modes over time")
    if not is_whole(sensitive) or sensitive < 1:
        raise ArgumentError(f"`sensitive` is a number of modes, at least 1; got {sensitive!r}.")
    steps = list(ends_of_epochs(run)) if times is None else list(steps_of(run, times, name="times", least=0))
    parts = []
    with progress("modes over time", len(steps)) as advance:
        for trained in trained_at(run, steps):
            found = modes(trained, count=count, ids=ids, seed=seed, memory_budget=memory_budget)
            values = mode_coefficients(found, trained, groups, memory_budget=memory_budget)
            felt = sensitivity(first_modes(found, min(sensitive, count)), trained, groups, memory_budget=memory_budget)
            one = {"cancellation": cancellation_ratio(found, values), "energy": (values**2).sum("mode")}
            parts.append(xr.Dataset({**one, **felt, "captured": float(found.captured[-1])}).drop_attrs())
            advance(1)
    return xr.concat(parts, "time").assign_coords(time=steps)


def sensitivity(found: Modes, source: Run | Trained, groups: Groups, **options: Any) -> xr.Dataset:
    """Return how strongly the inputs of all groups move their coefficients (PLGK, figure 16).

    Args:
        found: The modes.
        source: The run whose modes they are, or a trained model.
        groups: The inputs.
        options: Passed to `whence.kernel.input_sensitivity`.

    Returns:
        ``raw`` and ``corrected`` of `whence.kernel.input_sensitivity`, dims ``("group", "example", "mode")``.

    Errors are those of `whence.kernel.input_sensitivity`.
    """
    values = input_sensitivity(found, source, groups.data, **options)
    return xr.Dataset({str(name): groups.split(one, "example") for name, one in values.items()})


def first_modes(found: Modes, count: int) -> Modes:
    """Return the first of some modes.

    Raises:
        ArgumentError: If there are not so many.
    """
    if not is_whole(count) or not 1 <= count <= len(found):
        raise ArgumentError(f"{count!r} modes are asked for, and {len(found)} were found. Ask modes() for more.")
    return replace(
        found,
        directions=found.directions[:count],
        singular_values=found.singular_values[:count],
        alignment=found.alignment[:count],
        drive=found.drive[:count],
    )
