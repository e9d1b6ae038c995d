"""The applications that train networks to compare, with small networks or the paper's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, final

import torch
import xarray as xr

from whence._errors import ArgumentError
from whence._numbers import is_number
from whence._processes import as_processes
from whence.attribution.recorded import audit_scores
from whence.audit import load_audit
from whence.datasets import as_examples
from whence.evaluation.inputs import as_count
from whence.evaluation.orders import Keep, Order, balanced_at_random, class_balanced, least_absolute, most_harmful
from whence.evaluation.provenance.choices import least_ambiguous, least_diverse, least_prototypical
from whence.evaluation.provenance.findings import Findings
from whence.evaluation.provenance.measures import FIVE, Data, as_data, class_logs, features_of
from whence.evaluation.provenance.memorisation import MIXING, memorisation_curve
from whence.evaluation.provenance.retrieval import some_of
from whence.evaluation.provenance.scaling import SHARES, subset_scaling
from whence.evaluation.provenance.sharing import LEVELS, sharing_by_size
from whence.evaluation.provenance.trainings import MakeNetwork, Trainings
from whence.membership import log_margin
from whence.provenance import (
    Branches,
    Neighbours,
    ProvenanceNetwork,
    single_branch,
    small_backbone,
    train,
    two_branches,
)
from whence.provenance.folders import quick_objective, quick_optimization
from whence.provenance.papers import SIZES
from whence.runs.randomness import kept_randomness

STRATEGIES = ("stratified", "prototypes", "boundary", "diverse")
BY_SCORES = ("influential", "helpful")
_PLAIN_RATE = 2e-3  # the paper's, for networks without batch normalisation: a faster one ends in dead units
_FEW, _SMALL_BATCH = 1024, 32  # pictures under which an epoch of large batches has too few steps


@final
@dataclass(frozen=True)
class Effort:
    """What a comparison may cost.

    Attributes:
        epochs: Of each training.
        seeds: Networks for each setting.
        limit: So many evenly spaced training pictures, and test pictures, at most; None for all.
        processes: How many trainings at once, as in `Trainings`.
        path: A folder that keeps each result as it is found, and a checkpoint of each unfinished training.

    Raises:
        ArgumentError: If a number is no whole one, at least 1.
    """

    epochs: int = 12
    seeds: int = 3
    limit: int | None = None
    processes: int | None = None
    path: str | Path | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("epochs", "seeds"):
            as_count(getattr(self, name), name)
        as_processes(self.processes, 1)
        if self.limit is not None:
            as_count(self.limit, "limit")

    def data(self, train_data: Any, test_data: Any) -> tuple[Data, Data]:
        """Return as many training and test pictures as are allowed."""
        train_part, test_part = (some_of(as_examples(one), self.limit) for one in (train_data, test_data))
        return as_data(train_part, "training"), as_data(test_part, "test")

    def trainings(
        self,
        count: int,
        *,
        warm_up: bool,
        paper: bool = False,
        conditional: bool = False,
        rate: float | None = None,
    ) -> Trainings:
        """Return how to train on so many pictures, or on the smallest of several sets: fast, or as the paper does."""
        if paper:
            return Trainings(self.epochs, self.seeds, processes=self.processes, path=self.path)
        steps = quick_optimization(self.epochs, count, warm_up=warm_up)
        steps = steps if rate is None else replace(steps, rate=rate)
        return Trainings(
            self.epochs,
            self.seeds,
            quick_objective(count, conditional=conditional),
            replace(steps, batch_size=_SMALL_BATCH) if count < _FEW else steps,
            processes=self.processes,
            path=self.path,
        )


def small_single_branch(train_data: Any) -> ProvenanceNetwork:
    """Return a single-branch network on `small_backbone`: the class is that of the example it names."""
    return ProvenanceNetwork(small_backbone(train_data), train_data, branches=Branches(classes=None))


def small_two_branches(train_data: Any) -> ProvenanceNetwork:
    """Return a class-conditional network on `small_backbone`."""
    return ProvenanceNetwork(small_backbone(train_data), train_data, conditional=True)


def curve_findings(
    train_data: Any, test_data: Any, effort: Effort, *, mixing: Sequence[float] = MIXING, paper: bool = False
) -> Findings:
    """Measure memorisation against generalisation; see `memorisation_curve`.

    Args:
        train_data, test_data: Pictures and labels.
        effort: What it may cost.
        mixing: The shares α.
        paper: Train the paper's single-branch network, instead of a small one.

    Raises:
        ArgumentError: As in `memorisation_curve`.
        DataError: If files of ``effort.path`` cannot be read.
        DiskError: If the disk is full or refuses to write.
    """
    data, test = effort.data(train_data, test_data)
    make: MakeNetwork = single_branch if paper else small_single_branch
    how = effort.trainings(len(data[1]), warm_up=False, paper=paper)
    table = memorisation_curve(make, data, test, how, mixing=mixing)
    return Findings({"curve": table}, {"curve": table.figure()})


def scaling_findings(
    train_data: Any,
    test_data: Any,
    effort: Effort,
    *,
    strategies: Sequence[str] = STRATEGIES,
    shares: Sequence[float] = SHARES,
    scores: xr.DataArray | None = None,
    paper: bool = False,
) -> Findings:
    """Train on growing subsets of the data, chosen in several ways; see `subset_scaling`.

    Args:
        train_data, test_data: Pictures and labels.
        effort: What it may cost.
        strategies: Out of `STRATEGIES`; with scores also `BY_SCORES`.
        shares: Of the pictures to keep.
        scores: Of an attributor, such as an audit's, for all of the training data.
        paper: Train the paper's two-branch network, instead of a small one.

    Raises:
        ArgumentError: If there is no such strategy, one needs scores, a share keeps too few pictures of a class, or as
            in `subset_scaling`.
        ShapeError: As in `subset_scaling`.
        DataError: If files of ``effort.path`` cannot be read.
        DiskError: If the disk is full or refuses to write.
    """
    _check_strategies(strategies, scores)
    data, test = effort.data(train_data, test_data)
    make: MakeNetwork = two_branches if paper else small_two_branches
    share = min([one for one in shares if is_number(one)], default=1)
    largest = int(share * int(data[1].bincount().max()))
    if share > 0 and largest < FIVE:
        raise ArgumentError(
            f"A share of {share:g} keeps {largest} picture(s) of the largest class, and five of a class are retrieved. "
            "Keep a larger share, or take more pictures."
        )
    smallest = int(share * len(data[1]))
    how = effort.trainings(smallest, warm_up=True, paper=paper, conditional=True)
    chosen = subset_strategies(strategies, data, effort, scores)
    found = subset_scaling(make, data, test, how, strategies=chosen, shares=shares)
    return Findings(found.parts, {name: one.figure() for name, one in found.parts.items()})


def sharing_findings(
    train_data: Any,
    test_data: Any,
    effort: Effort,
    *,
    sizes: Sequence[str] = tuple(SIZES),
    levels: Sequence[int] = LEVELS,
) -> Findings:
    """Train networks that share more or fewer layers; see `sharing_by_size`.

    Args:
        train_data, test_data: Pictures and labels.
        effort: What it may cost.
        sizes, levels: As in `sharing_by_size`.

    Raises:
        ArgumentError: As in `sharing_by_size`.
        DataError: If files of ``effort.path`` cannot be read.
        DiskError: If the disk is full or refuses to write.
    """
    data, test = effort.data(train_data, test_data)
    how = effort.trainings(len(data[1]), warm_up=False, rate=_PLAIN_RATE)
    found = sharing_by_size(data, test, how, sizes=sizes, levels=levels)
    return Findings(found.parts, {"accuracy": found["accuracy"].figure()})  # parameters: millions beside shares


def subset_strategies(
    names: Sequence[str], data: Data, effort: Effort, scores: xr.DataArray | None = None
) -> Mapping[str, Order | Keep]:
    """Return ways to choose a subset with the classes' shares; what is near or far is said by a first classifier.

    Args:
        names: Out of `STRATEGIES`; with scores also `BY_SCORES`.
        data: The training data.
        effort: What training the first classifier on all of it may cost.
        scores: Of an attributor, for all of the training data.

    Raises:
        ArgumentError: If the scores are of another number of training examples.
    """
    if scores is not None and scores.sizes["train"] != len(data[1]):
        raise ArgumentError(
            f"The scores are of {scores.sizes['train']:,} training examples, and here are {len(data[1]):,}. Give the "
            "data that they are of, and no limit."
        )
    orders: dict[str, Order | Keep] = {"stratified": balanced_at_random(data[1])}
    if set(names) & set(STRATEGIES[1:]):
        network = _first(data, effort)
        seen = features_of(network, data[0])
        orders["prototypes"] = class_balanced(least_prototypical(seen, data[1]), data[1])
        orders["boundary"] = class_balanced(least_ambiguous(log_margin(class_logs(network, data[0]), data[1])), data[1])
        if "diverse" in names:
            orders["diverse"] = class_balanced(least_diverse(seen), data[1])  # slow
    if scores is not None:
        orders["influential"] = class_balanced(least_absolute(scores), data[1])
        orders["helpful"] = class_balanced(most_harmful(scores), data[1])
    return {name: orders[name] for name in names}


def scores_of(audit: str | Path | None) -> xr.DataArray | None:
    """Return the scores of an audit on disk; None of none.

    Raises:
        AuditError: If there is no audit.
        ArgumentError: If it has no shares of single examples.
    """
    return None if audit is None else audit_scores(load_audit(audit))


def _first(data: Data, effort: Effort) -> ProvenanceNetwork:
    """Return a classifier trained on all of the data; with a path, one that was cut off goes on there."""
    with kept_randomness(torch.device("cpu")):
        torch.manual_seed(0)
        network = ProvenanceNetwork(small_backbone(data), data, head=Neighbours)
    name = f"first-{effort.epochs}-{network.fingerprint.rpartition(':')[2]}"
    train(
        network,
        data,
        effort.epochs,
        objective=quick_objective(len(data[1])),
        optimization=quick_optimization(effort.epochs, len(data[1]), warm_up=False),
        path=None if effort.path is None else Path(effort.path) / name,
    )
    return network


def _check_strategies(names: Sequence[str], scores: xr.DataArray | None) -> None:
    """Refuse strategies that are not there, or lack what they need.

    Raises:
        ArgumentError: If there are some.
    """
    every = (*STRATEGIES, *BY_SCORES)
    for name in names:
        if name not in every:
            near = " or ".join(get_close_matches(name, every)) or "none is close"
            raise ArgumentError(f"No strategy {name!r} (similar: {near}). Choose of {', '.join(every)}.")
        if name in BY_SCORES and scores is None:
            raise ArgumentError(
                f"The strategy {name!r} needs scores of all training examples, such as an audit's: give --audit, or "
                "`scores`."
            )
    if not names:
        raise ArgumentError(f"Give at least one strategy: {', '.join(every)}.")
