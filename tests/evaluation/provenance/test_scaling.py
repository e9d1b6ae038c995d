"""Subsets are those one would choose by hand; the table has what each network gives, and what its neighbours do."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.evaluation.provenance.cases import FAST, blobs, digits, flat_network
from whence._errors import ArgumentError, ShapeError
from whence.attribution import label
from whence.evaluation import (
    Trainings,
    balanced_at_random,
    class_balanced,
    least_absolute,
    least_ambiguous,
    least_diverse,
    least_prototypical,
    sharing_by_size,
    subset_scaling,
)
from whence.evaluation.pruning import examples_of
from whence.provenance import Objective, ProvenanceNetwork, shared_levels

HOW = Trainings(30, seeds=2, objective=Objective(smoothing=0.0), optimization=FAST, processes=1)


def farthest(points: np.ndarray) -> list[int]:
    """Return the greedy k-centre by looking at all distances for each choice."""
    first = min(range(len(points)), key=lambda one: float(((points[one] - points.mean(0)) ** 2).sum()))
    chosen = [first]
    while len(chosen) < len(points):
        rest = [one for one in range(len(points)) if one not in chosen]
        chosen.append(max(rest, key=lambda one: min(float(((points[one] - points[to]) ** 2).sum()) for to in chosen)))
    return chosen


@pytest.mark.parametrize("seed", range(5))
def test_the_most_diverse_are_the_farthest_points_of_brute_force(seed: int) -> None:
    points = np.random.default_rng(seed).normal(size=(25, 3))
    assert least_diverse(points)[::-1].tolist() == farthest(points)


def test_copies_are_left_out_first() -> None:
    order = least_diverse([[0.0], [0.0], [1.0], [1.0], [3.0]])
    assert sorted(order.tolist()) == list(range(5))
    assert set(order[:2].tolist()) == {1, 3}


def test_what_stays_by_prototypes_margin_and_influence_written_by_hand() -> None:
    points, kinds = np.array([[0.0], [2.0], [7.0], [10.0], [10.5], [11.0]]), np.array([0, 0, 0, 1, 1, 1])
    assert least_prototypical(points, kinds).tolist() == [2, 0, 1, 3, 5, 4]
    assert class_balanced(least_prototypical(points, kinds), kinds)[-2:].tolist() == [1, 4]
    assert least_ambiguous(torch.tensor([2.0, -1.0, 5.0])).tolist() == [2, 0, 1]
    scores = label(np.array([[3.0, -9.0, 1.0]]), [0], [0, 1, 2], attributor="audit", unit="u", helps=1)
    assert least_absolute(scores).tolist() == [2, 0, 1]


@pytest.mark.parametrize("share", [0.1, 0.33, 0.5, 0.9])
def test_a_stratified_subset_keeps_the_shares_of_classes_to_rounding(share: float) -> None:
    labels = np.repeat(np.arange(4), [40, 30, 20, 10])
    removed = 100 - round(share * 100)
    kept = np.bincount(labels[list(balanced_at_random(labels)(removed, 3))], minlength=4)
    assert kept.sum() == 100 - removed
    assert (np.abs(kept - (100 - removed) * np.array([0.4, 0.3, 0.2, 0.1])) <= 1).all()


@pytest.mark.parametrize("conditional", [False, True])
def test_separable_classes_are_right_from_any_subset(conditional: bool) -> None:
    made: list[int] = []

    def make(data: Any) -> ProvenanceNetwork:
        made.append(len(data[1]))
        return flat_network(data, conditional=conditional)

    data = blobs()
    how: dict[str, Any] = {
        "stratified": balanced_at_random(data[1]),
        "diverse": class_balanced(least_diverse(data[0]), data[1]),
    }
    found = subset_scaling(make, data, blobs(seed=1), HOW, strategies=how, shares=[0.5, 1.0])
    for name in how:
        for share in (0.5, 1.0):
            for column in ("class", "class of nearest in the features: first"):
                assert found[name].value(share, column).estimate == 1.0
            first = found[name].value(share, "class of retrieved: first").estimate
            assert first == 1.0 if conditional else first > 0.9  # nothing in the index loss asks for the class
            assert found[name].value(share, "index, training").estimate > 0.95
    assert sorted(made) == [18, 18, 18, 18, 36, 36]  # all of the data is trained once for both
    assert len(found.figure().data) == 18


def test_parameters_are_those_of_the_layers_counted_by_hand(tmp_path: Path) -> None:
    data, test = digits(60), digits(30, 100)
    how = Trainings(2, seeds=1, optimization=FAST, path=tmp_path)
    found = sharing_by_size(data, test, how, sizes=["small"], levels=[1, 4])
    convolutions = [1 * 32 * 9 + 32, 32 * 64 * 9 + 64, 64 * 128 * 9 + 128]
    hidden, classes, head = 128 * 128 + 128, 128 * 10 + 10, 60 * 128 + 60
    for level, shared in ((1, convolutions[0]), (4, sum(convolutions) + hidden)):
        whole = 2 * (sum(convolutions) + hidden) - shared + classes + head
        row = f"small, level {level}"
        assert found["parameters"].value(row, "all, millions").estimate == pytest.approx(whole / 1e6)
        share = found["parameters"].value(row, "shared, % without the index head").estimate
        assert share == pytest.approx(100 * shared / (whole - head))
        assert whole == sum(one.numel() for one in shared_levels(data, level=level).parameters())
    assert found["accuracy"].data["estimate"].shape == (2, 9)
    assert len(list(tmp_path.glob("*.npy"))) == 2
    again = sharing_by_size(data, test, how, sizes=["small"], levels=[1, 4])
    np.testing.assert_array_equal(again["accuracy"].data["estimate"], found["accuracy"].data["estimate"])


def test_what_cannot_be_chosen_is_refused_by_name() -> None:
    data = blobs()
    with pytest.raises(ArgumentError, match=r"`shares` must be shares of the data to keep, above 0, up to 1; got \[0"):
        subset_scaling(flat_network, data, data, HOW, shares=[0])
    with pytest.raises(ArgumentError, match="The strategies are of 5 training examples; there are 36"):
        subset_scaling(flat_network, data, data, HOW, strategies=np.arange(5))
    with pytest.raises(ArgumentError, match=r"The order 'a' must name each id from 0 to 0 once\. Make it with one of"):
        inspect.unwrap(examples_of)({"a": "b"})
    with pytest.raises(ArgumentError, match=r"A subset needs five examples to retrieve; 'stratified' keeps 4 at 0\.1"):
        subset_scaling(flat_network, data, data, HOW, shares=[0.1])
    with pytest.raises(ShapeError, match=r"Labels must be one for each of 36 training examples; got shape \(2,\)"):
        least_prototypical(data[0], [0, 1])
    with pytest.raises(ShapeError, match=r"Embeddings need shape \(train, width\)"):
        least_diverse([1.0, 2.0])
    with pytest.raises(ArgumentError, match="Embeddings must be finite numbers; 1 are not"):
        least_diverse([[1.0], [np.nan]])
    with pytest.raises(ShapeError, match="Margins must be one number a training example"):
        least_ambiguous([[1.0]])
    with pytest.raises(ArgumentError, match="Margins must be finite numbers; 1 are not"):
        least_ambiguous([1.0, np.inf])
    with pytest.raises(ArgumentError, match="Give at least one of `sizes` and of `levels`"):
        sharing_by_size(digits(20), digits(20), HOW, levels=[])
    with pytest.raises(ArgumentError, match="`size` is one of small, medium, large, xlarge and `level` 1 to 4"):
        sharing_by_size(digits(20), digits(20), HOW, sizes=["tiny"])
