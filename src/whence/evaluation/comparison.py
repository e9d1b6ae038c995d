"""Which attributor to trust on a recorded run: all of them against the same real trainings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from whence._errors import ArgumentError
from whence.attribution import Attributor, as_trained, attribute
from whence.audit.chunks import chosen_ids
from whence.datasets import as_examples
from whence.evaluation.datamodeling import linear_datamodeling_score
from whence.evaluation.inputs import named
from whence.evaluation.table import Table
from whence.evaluation.truth import Truth, removal_losses
from whence.runs import Run


def compare_attributors(
    run: Run,
    targets: Any,
    methods: Mapping[str, Attributor | xr.DataArray],
    *,
    ids: list[int] | None = None,
    share: float = 0.01,
    sets: int = 30,
    processes: int = 1,
    path: str | Path | None = None,
) -> Table:
    """Measure which attributor says what this run would have become without some of its examples.

    `removal_losses`, then `linear_datamodeling_score` of every method on the same trainings. Methods are scored
    first: one that cannot be used is known before anything is trained.

    Args:
        run: The run.
        targets: Where the targets are: anything `as_examples` takes.
        methods: Attributors by name, or scores that are there already, of exactly the targets ``ids``.
        ids: Which of ``targets`` to score; all by default. Trainings do not depend on it.
        share: Of the training examples that each training leaves out.
        sets: How many trainings.
        processes: How many to run at once, on the CPU, each on one thread.
        path: A folder in which to keep the result of each training: a call that was interrupted goes on there.

    Returns:
        As `linear_datamodeling_score`; ``data.attrs`` also say of which run.

    Raises:
        ArgumentError: If a number is outside what is listed, a method is none, or scores are of other targets.
        ReplayError: If the run does not replay.
        DataError: If targets, or files of ``path``, cannot be read.
        DiskError: If the disk is full or refuses to write.
    """
    examples, trained = as_examples(targets), as_trained(run)
    chosen: list[int] = chosen_ids(ids, len(examples)).tolist()
    scores = {}
    for name, one in named(methods, "method").items():
        ready = isinstance(one, xr.DataArray)
        scores[name] = scores_of(name, one, chosen) if ready else attribute(one, trained, examples, ids=chosen)
    truth = removal_losses(run, examples, share=share, sets=sets, processes=processes, path=path)
    return linear_datamodeling_score(Truth(truth.data.isel(target=chosen)), scores)


def scores_of(name: str, scores: xr.DataArray, chosen: list[int]) -> xr.DataArray:
    """Return scores that a caller gave.

    Args:
        name: What they are called.
        scores: The scores.
        chosen: Ids of the targets that they should be of.

    Raises:
        ArgumentError: If they are of other targets.
    """
    known = scores.coords["target"].values.tolist() if "target" in scores.coords else None
    if known != chosen:
        raise ArgumentError(
            f'Scores {name!r} must have the targets `ids` as their coordinate "target", in that order: {len(chosen)} '
            f"from {chosen[0]} to {chosen[-1]}. Score those, or give the attributor itself."
        )
    return scores
