"""Sanity tests: top examples of the target's own class, scores that need the trained weights, copies that share."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import nn

from whence._errors import ArgumentError, ShapeError
from whence._statistics import Interval, mean_interval, rank_correlations
from whence.evaluation.inputs import as_count, as_help, named
from whence.evaluation.table import Table, table_of

_SMALL = 1e-12  # of a sum next to the sizes of what is summed: it is 0


def identical_class(
    scores: xr.DataArray | Mapping[str, xr.DataArray],
    target_classes: Any,
    train_classes: Any,
    *,
    tops: Sequence[int] = (1, 10),
) -> Table:
    """Test whether the most helpful examples have the target's class (Hanawa et al., 2021, sections 4.2 and 4.3).

    With the model's predictions as the targets' classes it is the identical-class test. With subclasses that the
    training merged (train on even and odd, test on digits) it is the identical-subclass test.

    Args:
        scores: Of an attributor; or several, by name.
        target_classes: Class of each target, (targets,).
        train_classes: Class of each training example, (train,).
        tops: How many most helpful examples are looked at.

    Returns:
        A row a method, a column each of ``tops``: share of them that have the target's class, mean over targets;
        interval over targets. What random examples would give is stated with it.

    Raises:
        ArgumentError: If these are no scores, or more examples are to be looked at than there are.
        ShapeError: If there is not one class for each target and training example.
    """
    ours, theirs = np.asarray(target_classes), np.asarray(train_classes)
    if not tops or not all(1 <= as_count(one, "tops") <= theirs.size for one in tops):
        raise ArgumentError(f"`tops` must be numbers of examples, 1 to {theirs.size}; got {list(tops)}.")
    found, given = [], named(scores, "scores")
    for name, one in given.items():
        help_ = as_help(one)
        if help_.shape != (ours.size, theirs.size):
            raise ShapeError(
                f"Scores {name!r} are of {help_.shape[0]} targets and {help_.shape[1]} training examples; classes are "
                f"given for {ours.size} and {theirs.size}."
            )
        same = theirs[np.argsort(-help_, axis=1, kind="stable")] == ours[:, None]
        found.append([mean_interval(same[:, :top].mean(1)) for top in tops])
    return table_of(
        found,
        ("method", list(given)),
        ("most helpful", list(tops)),
        title="Identical class",
        measure=f"share of the target's class, mean over {ours.size} targets",
        interval="over targets",
        references={"random examples": float((theirs[None] == ours[:, None]).mean())},
    )


def reinitialised(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """Return a copy of a model with every layer initialised anew, for the model-randomisation test.

    Args:
        model: The trained model.
        seed: Of the initialisation; torch's random state is left as it was.

    Raises:
        ArgumentError: If a layer with parameters of its own has no ``reset_parameters``.
    """
    found = copy.deepcopy(model)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, module in found.named_modules():
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if callable(reset):
                reset()
            elif any(True for _ in module.parameters(recurse=False)):
                raise ArgumentError(
                    f"Layer {name or 'the model itself'!r} ({type(module).__name__}) cannot be initialised anew: it "
                    "has no reset_parameters(). Give it one, or make the random network yourself."
                )
    return found


def model_randomisation(
    trained: Any | Mapping[str, Any], random: Any | Mapping[str, Any], *, targets: Any = None
) -> Table:
    """Compare scores or maps with those of a network with random weights (Adebayo et al., 2018, section 3).

    What stays much the same cannot speak of what was learnt.

    Args:
        trained: Scores (target, train) or maps (pair, height, width) of the trained network; or several, by name.
        random: The same of a network with random weights (`reinitialised`), under the same names.
        targets: Of maps, the target of each: those of one target are drawn together. Without, each is drawn by itself.

    Returns:
        A row a method: mean over targets or pairs of Spearman's rank correlation of values (``signed``) and of their
        absolute values (``absolute``); interval over targets.

    Raises:
        ArgumentError: If the names differ, or a number is not finite.
        ShapeError: If the shapes or the ids of scores differ, or there is not one target a map.
    """
    ours, theirs = named(trained, "scores"), named(random, "scores")
    if set(ours) != set(theirs):
        raise ArgumentError(f"`random` must have the names of `trained`, {sorted(ours)}; it has {sorted(theirs)}.")
    found = []
    for name, given in ours.items():
        one, other = (np.asarray(values, dtype=np.float64) for values in (given, theirs[name]))
        if not (np.isfinite(one).all() and np.isfinite(other).all()):
            raise ArgumentError(f"{name!r} must be finite numbers; some are nan or infinite. Look at these examples.")
        if one.shape != other.shape or one.ndim < 2:
            raise ShapeError(f"{name!r} has shape {one.shape}, and {other.shape} with random weights: not the same.")
        if (
            isinstance(given, xr.DataArray)
            and isinstance(theirs[name], xr.DataArray)
            and not _alike(given, theirs[name])
        ):
            raise ShapeError(
                f"{name!r} is of other ids with random weights. Give scores of the same, in the same order."
            )
        groups = np.arange(len(one)) if targets is None else np.asarray(targets)
        if groups.shape != (len(one),):
            raise ShapeError(f"`targets` are one of each of {len(one)} maps {name!r}; got shape {groups.shape}.")
        rows = [values.reshape(len(values), -1).T for values in (one, other)]
        both = [rank_correlations(*rows), rank_correlations(*(abs(part) for part in rows))]
        found.append([mean_interval(values, groups) for values in both])
    return table_of(
        found,
        ("method", list(ours)),
        ("values", ["signed", "absolute"]),
        title="Model randomisation",
        measure="rank correlation with a network of random weights",
        interval="over targets",
    )


def duplicates(
    scores: xr.DataArray | Mapping[str, xr.DataArray],
    copies: Sequence[Sequence[int]],
    *,
    alone: xr.DataArray | Mapping[str, xr.DataArray] | None = None,
) -> Table:
    """Test how copies of an example share its influence (PLGK, remark 5.3).

    Args:
        scores: Of a training with copies; of an attributor, or of several by name.
        copies: The ids of the copies of each duplicated example.
        alone: Of a training in which each of them is there once, under its first id, the other copies absent or not
            counted; under the same names and with the same ids.

    Returns:
        A row a method. ``unevenness``: largest less smallest score of the copies, relative to the mean of their
        absolute scores; 0 = alike. With ``alone``: ``copy / alone``, the score of a copy relative to that of the
        example by itself, and ``all / alone``, of all copies together. An audit gives a copy about one over their
        number; a counterfactual less. Medians over targets of groups, intervals over groups and targets.

    Raises:
        ArgumentError: If these are no scores, names differ, there is no group, one has fewer than two copies, or a copy
            is no id.
        ShapeError: If scores with and without copies are of other targets or training examples.
    """
    ours = named(scores, "scores")
    theirs = {} if alone is None else named(alone, "scores")
    if alone is not None and set(theirs) != set(ours):
        raise ArgumentError(f"`alone` must have the names of `scores`, {sorted(ours)}; it has {sorted(theirs)}.")
    if len(copies) == 0:
        raise ArgumentError("`copies` are groups of at least two training ids each; there is none. Give one at least.")
    columns = ["unevenness", *(["copy / alone", "all / alone"] if theirs else [])]
    found = []
    for name, one in ours.items():
        ids = one.coords["train"].values.tolist() if "train" in one.coords else list(range(one.sizes["train"]))
        values, single = as_help(one), as_help(theirs[name]) if theirs else None
        if single is not None and not _alike(one, theirs[name]):
            raise ShapeError(
                f"Scores {name!r} of examples alone must have the targets and training ids of those with copies, "
                f"{values.shape}, in the same order; they have {single.shape}. Give the copies that were absent scores "
                "of 0."
            )
        parts = [_shares(values, single, _places(group, ids)) for group in copies]
        found.append([_median(np.concatenate([part[at] for part in parts])) for at in range(len(columns))])
    return table_of(
        found,
        ("method", list(ours)),
        ("measure", columns),
        title=f"Duplicates, {len(copies)} groups of {', '.join(map(str, sorted({len(one) for one in copies})))} copies",
        measure="median over targets and groups",
        interval="over targets and groups",
    )


def _alike(one: xr.DataArray, other: xr.DataArray) -> bool:
    """Say whether scores are of the same targets and training examples."""
    ids = [{dim: part.coords[dim].values.tolist() for dim in part.dims if dim in part.coords} for part in (one, other)]
    return dict(one.sizes) == dict(other.sizes) and all(ids[0][dim] == ids[1][dim] for dim in ids[0].keys() & ids[1])


def _places(group: Sequence[int], ids: list[int]) -> list[int]:
    if len(set(group)) < max(2, len(group)) or not all(one in ids for one in group):
        raise ArgumentError(f"`copies` are groups of at least two training ids each, no id twice; got {list(group)}.")
    return [ids.index(one) for one in group]


def _shares(
    values: NDArray[np.floating], single: NDArray[np.floating] | None, places: list[int]
) -> list[NDArray[np.float64]]:
    ours: NDArray[np.float64] = values[:, places].astype(np.float64)
    size = np.abs(ours).mean(1)
    found = [np.ptp(ours, axis=1) / np.where(size > 0, size, np.nan)]
    if single is not None:
        whole = single[:, places[0]].astype(np.float64)
        whole = np.where(np.abs(whole) > _SMALL * size, whole, np.nan)
        found += [ours.mean(1) / whole, ours.sum(1) / whole]
    return found


def _median(values: NDArray[np.float64]) -> Interval:
    """Return the median of values with its distribution-free interval, from order statistics; nan are left out."""
    known = np.sort(values[~np.isnan(values)])
    if known.size == 0:
        return Interval(*(float("nan"),) * 3)
    half = 1.959964 * np.sqrt(known.size) / 2
    low, high = max(0, int(known.size / 2 - half)), min(known.size - 1, int(np.ceil(known.size / 2 + half)))
    return Interval(float(np.median(known)), float(known[low]), float(known[high]))
