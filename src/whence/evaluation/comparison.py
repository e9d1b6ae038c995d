"""Which attributor to trust on a recorded run: all of them against the same real trainings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from whence._errors import ArgumentError, ShapeError
from whence.attribution import Attributor, as_trained, attribute
from whence.audit.chunks import chosen_ids
from whence.datasets import as_examples
from whence.evaluation.datamodeling import linear_datamodeling_score
from whence.evaluation.inputs import as_count, as_help, as_share, named
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
    processes: int | None = None,
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
        sets: How many trainings, at least 3: fewer have no rank correlation.
        processes: How many to run at once, each forked and on one thread, sharing the data until it is
            changed. None is all usable cores on Linux without a GPU, else one.
        path: A folder in which to keep the result of each training: a call that was interrupted goes on there.

    Returns:
        As `linear_datamodeling_score`; ``data.attrs`` also say of which run.

    Raises:
        ArgumentError: If a number is outside what is listed, a method is none, or scores are of other targets.
        ShapeError: If scores are of other training examples.
        ReplayError: If the run does not replay.
        DataError: If targets, or files of ``path``, cannot be read.
        DiskError: If the disk is full or refuses to write.
    """
    as_count(sets, "sets", 3)
    as_share(share, "share")
    examples, trained = as_examples(targets), as_trained(run)
    chosen: list[int] = chosen_ids(ids, len(examples)).tolist()
    scores = {}
    for name, one in named(methods, "method").items():
        ready = isinstance(one, xr.DataArray)
        given = one if ready else attribute(one, trained, examples, ids=chosen)
        scores[name] = scores_of(name, given, chosen, len(trained.examples))
    truth = removal_losses(run, examples, share=share, sets=sets, processes=processes, path=path)
    return linear_datamodeling_score(Truth(truth.data.isel(target=chosen)), scores)


def scores_of(name: str, scores: xr.DataArray, chosen: list[int], train: int) -> xr.DataArray:
    """Return scores, checked before anything is trained.

    Args:
        name: What they are called.
        scores: The scores.
        chosen: Ids of the targets that they should be of.
        train: How many training examples they should be of.

    Raises:
        ArgumentError: If these are no scores, one is no finite number, or they are of other targets.
        ShapeError: If they are of another number of training examples.
    """
    known = scores.coords["target"].values.tolist() if "target" in scores.coords else None
    if known != chosen:
        raise ArgumentError(
            f'Scores {name!r} must have the targets `ids` as their coordinate "target", in that order: {len(chosen)} '
            f"from {chosen[0]} to {chosen[-1]}. Score those, or give the attributor itself."
        )
    if as_help(scores).shape[1] != train:
        raise ShapeError(
            f"Scores {name!r} are of {scores.sizes['train']} training examples; the run has {train}. Score those of "
            "this run, or give the attributor itself."
        )
    return scores
