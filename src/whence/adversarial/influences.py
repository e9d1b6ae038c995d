"""What training did to groups of inputs over time: net and gross influence, layer by layer and along a path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from whence._errors import ArgumentError, ShapeError
from whence._numbers import is_whole
from whence._progress import progress
from whence.adversarial.groups import ADVERSARIAL, CLEAN, Groups
from whence.audit import Audit, audit
from whence.runs import Run


def audit_groups(run: Run, groups: Groups, *, path: str | Path | None = None, **options: Any) -> Audit:
    """Audit all inputs of the groups, by layer and epoch; the targets are ``groups.data``.

    Args:
        run: The recorded run.
        groups: What to audit.
        path: Where to keep the audit, as in `whence.audit`: influences by layer and epoch are large.
        options: Passed to `whence.audit`; ``by`` is ``("layer", "epoch")`` if left out.

    Errors are those of `whence.audit`.
    """
    return audit(run, groups.data, path=path, **{"by": ("layer", "epoch"), **options})


def influence_over_time(influence: xr.DataArray, groups: Groups) -> xr.Dataset:
    """Return net and gross influence of the training examples on each input (PLGK, section 6.3, figures 10, 12, 13).

    With P̃_mn the influence of example m on input n: the net influence is Σ_m P̃_mn and the gross one Σ_m |P̃_mn|. Where
    the net one stops while the gross one grows, influences cancel.

    Args:
        influence: Of the groups, by epoch, or by layer and epoch: ``audit_groups(...).influence``.
        groups: The groups.

    Returns:
        ``net`` and ``gross``, of one epoch's steps, dims ``("group", "example", "epoch")`` and ``"layer"`` where the
        audit has it; ``cumulative_net`` and ``cumulative_gross``, of all steps up to an epoch's end and all layers,
        dims ``("group", "example", "epoch")``.

    Raises:
        ArgumentError: If the influence does not keep epochs and training examples apart.
        ShapeError: If the audit is not of these groups.
    """
    if not {"epoch", "train"} <= set(influence.dims):
        raise ArgumentError(
            "Influence over time needs an audit that keeps epochs and training examples apart; this one has the dims "
            f"{', '.join(map(str, influence.dims))}. Audit with by=('layer', 'epoch'), or use audit_groups()."
        )
    _check_targets(influence, groups)
    rest = [dim for dim in ("layer", "epoch") if dim in influence.dims]
    parts: dict[str, list[xr.DataArray]] = {name: [] for name in ("net", "gross", "cumulative_net", "cumulative_gross")}
    with progress("influence over time", influence.sizes["target"]) as advance:
        for row in range(influence.sizes["target"]):
            one = influence.isel(target=[row]).transpose("target", "train", *rest).load()
            whole = one.sum("layer") if "layer" in rest else one
            course = whole.cumsum("epoch")
            parts["net"].append(one.sum("train"))
            parts["gross"].append(abs(one).sum("train"))
            parts["cumulative_net"].append(course.sum("train"))
            parts["cumulative_gross"].append(abs(course).sum("train"))
            advance(1)
    joined = {name: xr.concat(rows, "target") for name, rows in parts.items()}
    split = {name: groups.split(one, "target") for name, one in joined.items()}
    data = xr.Dataset({name: one.drop_attrs() for name, one in split.items()})
    return data.assign_coords(epoch=influence.coords["epoch"].values).assign_attrs(unit=influence.attrs.get("unit", ""))


def influence_agreement(influence: xr.DataArray, groups: Groups, of: str = ADVERSARIAL, to: str = CLEAN) -> xr.Dataset:
    """Return how far the influences on one group are those on another, larger or smaller (PLGK, figure 9).

    Args:
        influence: Of the groups, as in `influence_over_time`.
        groups: The groups.
        of, to: Which groups.

    Returns:
        By ``example``: ``correlation`` of the influences of all training examples on the two inputs, ``slope`` of the
        straight line through 0 that gives the first from the second, ``ratio`` of the gross influences, and
        ``fraction_larger``, the share of training examples whose influence is larger in size.

    Raises:
        ArgumentError: If there is no such group, or the audit has no single training examples.
        ShapeError: If the audit is not of these groups.
    """
    groups.only([of, to])
    if "train" not in influence.dims:
        raise ArgumentError("This audit summed its training examples by label. Audit without 'label' in `by`.")
    _check_targets(influence, groups)
    rows: dict[str, list[float]] = {name: [] for name in ("correlation", "slope", "ratio", "fraction_larger")}
    for place in range(len(groups)):
        x, y = (_influences(influence, groups, name, place) for name in (to, of))
        rows["correlation"].append(float(np.corrcoef(x, y)[0, 1]))
        rows["slope"].append(float(x @ y / (x @ x)))
        rows["ratio"].append(float(abs(y).sum() / abs(x).sum()))
        rows["fraction_larger"].append(float((abs(y) > abs(x)).mean()))
    return xr.Dataset({name: ("example", values) for name, values in rows.items()}, {"example": list(groups.ids)})


def _check_targets(influence: xr.DataArray, groups: Groups) -> None:
    """Refuse influences on other inputs, before they are read: they may be many.

    Raises:
        ShapeError: If there are not as many targets as inputs in the groups.
    """
    wanted = len(groups) * len(groups.names)
    if influence.sizes.get("target") != wanted:
        raise ShapeError(
            f"{len(groups.names)} groups of {len(groups)} inputs are {wanted} targets, and this audit has "
            f"{influence.sizes.get('target', 'no dim of them')}. "
            "Give the influences on these groups: audit_groups(run, groups).influence."
        )


def _influences(influence: xr.DataArray, groups: Groups, name: str, place: int) -> Float[np.ndarray, " train"]:
    row = influence.isel(target=groups.names.index(name) * len(groups) + place)
    values: np.ndarray = row.sum([dim for dim in row.dims if dim != "train"]).values.astype(np.float64)
    return values


def perturbation_path(
    groups: Groups, place: int = 0, *, points: int = 11, towards: str = ADVERSARIAL
) -> tuple[Float[Tensor, "points ..."], Tensor]:
    """Return inputs evenly spaced on the straight line from a clean input to its changed twin, and their labels.

    They are targets for `whence.audit`; `path_profile` reads it (PLGK, figure 11).

    Args:
        groups: The groups.
        place: Which of their examples.
        points: How many inputs, both ends among them.
        towards: The group of the other end.

    Raises:
        ArgumentError: If there is no such group or place, or there are fewer than 2 points.
    """
    groups.only([towards])
    if not is_whole(place) or not 0 <= place < len(groups) or not is_whole(points) or points < 2:
        raise ArgumentError(
            f"A path has at least 2 points, from one of the {len(groups)} examples; got {points!r} points, place "
            f"{place!r}."
        )
    clean, other = groups.inputs[CLEAN][place], groups.inputs[towards][place]
    share = torch.linspace(0, 1, points, dtype=clean.dtype, device=clean.device)
    inputs = torch.lerp(clean, other, share.reshape(-1, *[1] * clean.ndim))
    return inputs, groups.labels[place : place + 1].repeat(points)


def path_profile(influence: xr.DataArray) -> xr.Dataset:
    """Return how influence builds up along a path from a clean input to another (PLGK, figure 11).

    Args:
        influence: Of the inputs of `perturbation_path`, by epoch or by layer and epoch.

    Returns:
        By ``position`` from 0 (clean) to 1: ``share`` ("position", "epoch"), the gross influence of all steps up to an
        epoch's end as a share of that at the end of the run; ``total`` ("position",), the gross influence there.

    Raises:
        ArgumentError: If the influence does not keep epochs and training examples apart, or has fewer than 2 targets.
    """
    if influence.sizes.get("target", 1) < 2 or not {"epoch", "train"} <= set(influence.dims):
        raise ArgumentError(
            "A path has at least 2 points, and its influence by epoch and training example; this has the sizes "
            f"{dict(influence.sizes)}. Audit perturbation_path() with by='epoch'."
        )
    points = influence.sizes["target"]
    gross = []
    for row in range(points):
        one = influence.isel(target=row).load()
        whole = one.sum("layer") if "layer" in one.dims else one
        gross.append(abs(whole.cumsum("epoch")).sum("train"))
    course = xr.concat(gross, "position").assign_coords(
        position=np.linspace(0, 1, points), epoch=influence.coords["epoch"].values
    )
    total = course.isel(epoch=-1, drop=True)
    return (
        xr.Dataset({"share": course / total, "total": total})
        .drop_attrs()
        .assign_attrs(unit=influence.attrs.get("unit", ""))
    )
