"""Memorisation against generalisation, as the mixing of labels moves a single-branch network between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Int
from torch import Tensor

from whence._errors import ArgumentError
from whence._numbers import is_number
from whence.datasets import as_examples
from whence.evaluation.provenance.measures import FEW, Data, agreement, as_data, exemplars
from whence.evaluation.provenance.trainings import MakeNetwork, Setting, Trainings, over, trained
from whence.evaluation.table import Table, table_of
from whence.provenance import Objective, ProvenanceNetwork

MIXING = (0.0, 0.25, 0.5, 0.75, 1.0)
COLUMNS = ("index, training", *(f"class, {data}: {few}" for data in ("training", "test") for few in FEW))


def memorisation_curve(
    make_network: MakeNetwork,
    train_data: Any,
    test_data: Any,
    trainings: Trainings,
    *,
    mixing: Sequence[float] = MIXING,
) -> Table:
    """Train with a growing share α of mixed labels, and measure index and class (Provenance Networks, 4.1, figure 2).

    At α = 0 each example's target is itself, at α = 1 another of its class, any of them. Index accuracy is how many
    training examples, undistorted, are the first that is retrieved for themselves; class accuracies are those of the
    retrieved examples' class. The paper's "top-5" is the majority of five (table 2) or any of five (tables 1 and 5):
    both are given, and any of five is nearly free.

    Args:
        make_network: Makes a network of the training data, such as `whence.provenance.single_branch`, whose head names
            examples of all classes.
        train_data, test_data: Anything `as_examples` takes; inputs one tensor.
        trainings: How to train; its objective's ``mixing`` is replaced.
        mixing: The shares α.

    Returns:
        A row each α. Columns: index accuracy on the training data; on training and test data the share of inputs for
        which the class is right of the first retrieved example, of any of five, and of the majority of five.

    Raises:
        ArgumentError: If a share is not 0 to 1, labels are not one whole number each, there are under five examples,
            ``make_network`` gives no provenance network, or a class has a single example and labels are mixed.
        ShapeError: If inputs are not one tensor.
        DataError: If files of ``trainings.path`` cannot be read.
        DiskError: If the disk is full or refuses to write.

    Example:
        ``memorisation_curve(single_branch, train, test, Trainings(epochs=40, path="curve"))``
    """
    parts = list(mixing)
    if not parts or not all(is_number(one) and 0 <= one <= 1 for one in parts):
        raise ArgumentError(f"`mixing` must be shares from 0 to 1, at least one; got {parts}.")
    data, test = as_data(train_data, "training"), as_data(test_data, "test")
    prints = as_examples(data).fingerprint, as_examples(test).fingerprint
    goal = trainings.objective or Objective()
    settings = [
        Setting(
            name=f"memorisation {prints[1]}",
            make=make_network,
            data=lambda _seed: data,
            fingerprint=lambda _seed: prints[0],
            objective=replace(goal, mixing=float(one)),
            measure=partial(_measured, test=test),
        )
        for one in parts
    ]
    return table_of(
        trained(settings, trainings),
        ("share of mixed labels α", [float(one) for one in parts]),
        ("accuracy of", COLUMNS),
        title=f"Memorisation and generalisation, {len(data[1])} training and {len(test[1])} test examples",
        measure=f"accuracy, {over(trainings.seeds)}",
        interval="over seeds",
    )


def _measured(network: ProvenanceNetwork, data: Data, *, test: Data) -> list[float]:
    ids, kinds = exemplars(network, data[0])
    own = float((ids[:, 0] == np.arange(len(ids))).mean())
    return [own, *_agreed(kinds, data[1]), *_agreed(exemplars(network, test[0])[1], test[1])]


def _agreed(kinds: Int[np.ndarray, "queries ranks"], labels: Int[Tensor, " queries"]) -> list[float]:
    return [float(one.mean()) for one in agreement(kinds, labels.numpy())]
