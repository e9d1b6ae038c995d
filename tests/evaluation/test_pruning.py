"""Orders are those one would write down by hand, and accuracies those of networks trained on what is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from whence._errors import ArgumentError, ShapeError
from whence.attribution import label
from whence.evaluation import (
    at_random,
    balanced_at_random,
    class_balanced,
    least_absolute,
    least_summed,
    most_harmful,
    most_helpful,
    most_redundant,
    pruning,
    upweighted,
    whole_clusters,
)
from whence.evaluation.inputs import as_help
from whence.evaluation.pruning import checked_shares

VALUES = np.array([[3.0, -9.0, 1.0, -1.0], [1.0, 8.0, 1.0, -4.0]])  # sums 4 -1 2 -5, absolute 4 17 2 5
BLOCKS = np.kron(np.eye(2), np.full((3, 3), 0.8))[:5, :5] + 0.2 * np.eye(5)  # {0, 1, 2} and {3, 4}
LABELS = np.array([0, 0, 0, 0, 1, 1])


def labelled(values: np.ndarray, helps: int = 1) -> xr.DataArray:
    return label(values, range(values.shape[0]), range(values.shape[1]), attributor="mine", unit="u", helps=helps)


@pytest.mark.parametrize("helps", [1, -1])
def test_orders_of_a_matrix_written_by_hand(helps: int) -> None:
    scores = labelled(VALUES * helps, helps)
    assert least_summed(scores).tolist() == [1, 2, 0, 3]
    assert least_absolute(scores).tolist() == [2, 0, 3, 1]
    assert most_harmful(scores).tolist() == [3, 1, 2, 0]
    assert most_helpful(scores).tolist() == [0, 2, 1, 3]


def test_every_class_loses_the_same_share() -> None:
    order = class_balanced(np.array([5, 4, 3, 2, 1, 0]), LABELS)
    assert sorted(order.tolist()) == list(range(6))
    assert (LABELS[order[:3]] == 1).sum() == 1
    assert [one for one in order.tolist() if LABELS[one] == 0] == [3, 2, 1, 0]
    for seed in range(3):
        kept = balanced_at_random(LABELS)(3, seed)
        assert sorted(LABELS[kept].tolist()) == [0, 0, 1]


def test_random_removal_follows_the_seed_and_only_shrinks() -> None:
    keep = at_random(10)
    assert keep(4, 1) == keep(4, 1)
    assert keep(4, 1) != keep(4, 2)
    assert set(keep(7, 1)) < set(keep(4, 1))
    assert len(keep(4, 1)) == 6


def test_redundant_examples_go_until_one_a_cluster_is_left() -> None:
    order = most_redundant(BLOCKS)
    assert sorted(order.tolist()) == list(range(5))
    assert {frozenset(order[3:].tolist()) & {0, 1, 2}, frozenset(order[3:].tolist()) & {3, 4}} == {
        frozenset({0}),
        frozenset({3}),
    }
    assert order[-1] == 0


def test_representatives_have_the_weight_of_those_they_stand_for() -> None:
    keep = upweighted(BLOCKS)
    assert keep(0, 0) == [0, 1, 2, 3, 4]
    assert keep(3, 0) == [0, 0, 0, 3, 3]
    assert keep(4, 0) == [0] * 5


def test_clusters_go_as_a_whole_the_largest_first() -> None:
    assert whole_clusters(BLOCKS, 2).tolist() == [0, 1, 2, 3, 4]
    moved = [4, 0, 3, 1, 2]
    assert {moved[one] for one in whole_clusters(BLOCKS[np.ix_(moved, moved)], 2)[:3]} == {0, 1, 2}


class Share(nn.Module):
    """A network whose accuracy is the share of the ids below 10 that it was trained on."""

    def __init__(self, right: int) -> None:
        super().__init__()
        self.right = right

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits that are right for the first few examples."""
        return torch.stack([(x[:, 0] < self.right).float(), torch.full((len(x),), 0.5)], 1)


TEST = (torch.arange(10.0)[:, None], torch.zeros(10, dtype=torch.int64))


def test_accuracies_are_those_of_networks_trained_on_what_is_left() -> None:
    found = pruning(
        lambda ids, seed: Share(sum(one < 10 for one in ids)),
        {"good last": np.arange(20)[::-1].copy(), "good first": np.arange(20)},
        TEST,
        shares=[0, 0.25, 0.5, 0.75],
        seeds=2,
    )
    assert [found.value(share, "good last").estimate for share in (0, 0.25, 0.5, 0.75)] == [1, 1, 1, 0.5]
    assert [found.value(share, "good first").estimate for share in (0, 0.25, 0.5, 0.75)] == [1, 0.5, 0, 0]
    assert found.value(0.25, "good first") == (0.5, 0.5, 0.5)
    assert len(found.figure().data) == 2


class OfNames(torch.utils.data.Dataset[Any]):
    """Examples whose inputs are a dict."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Any:
        return {"x": TEST[0][index]}, TEST[1][index]


def test_accuracy_is_measured_on_several_inputs_too() -> None:
    class Named(Share):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x)

    found = pruning(lambda ids, seed: Named(len(ids)), {"any": np.arange(8)}, OfNames(), shares=[0.5], seeds=1)
    assert found.value(0.5, "any").estimate == 0.4


def test_nothing_removed_is_trained_once_for_all_strategies_and_what_is_kept_not_again(tmp_path: Path) -> None:
    def train(ids: list[int], seed: int) -> nn.Module:
        with (tmp_path / "calls").open("a") as file:
            file.write(".")
        return Share(len(ids))

    strategies: dict[str, Any] = {"a": np.arange(8), "b": np.arange(8)[::-1].copy(), "random": at_random(8)}

    def call(shares: list[float]) -> None:
        pruning(train, strategies, TEST, shares=shares, seeds=2, path=tmp_path / "kept")

    call([0.0])
    assert len((tmp_path / "calls").read_text()) == 2
    call([0.0, 0.5])
    assert len((tmp_path / "calls").read_text()) == 2 + 6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shares": [1.0]}, r"`shares` must be shares of the data to remove, 0 up to but not 1; got \[1.0\]"),
        ({"shares": []}, r"`shares` must be shares of the data to remove.*got \[\]"),
        ({"shares": [float("nan")]}, r"`shares` must be shares of the data to remove.*got \[nan\]"),
        ({"test": (TEST[0], TEST[0])}, r"The test labels are not one whole number per example"),
        ({"seeds": 0}, r"`seeds` must be a whole number, at least 1; got 0"),
        ({"strategies": {"a": np.array([0, 0])}}, r"The order 'a' must name each id from 0 to 1 once"),
        (
            {"strategies": {"a": np.arange(2), "b": np.arange(3)}},
            r"same training examples; .*'a': 2, 'b': 3",
        ),
        (
            {"strategies": {"a": lambda removed, seed: [0][removed:]}, "shares": [0.9]},
            r"'a' leaves nothing to",
        ),
    ],
)
def test_bad_arguments_are_named(change: dict[str, object], words: str) -> None:
    given = {"train": lambda ids, seed: Share(1), "strategies": {"a": np.arange(4)}, "test": TEST, **change}
    with pytest.raises(ArgumentError, match=words):
        pruning(**given)  # type: ignore[arg-type]


def test_bad_similarities_are_named() -> None:
    with pytest.raises(ShapeError, match=r"needs shape \(train, train\); got \(2, 3\)"):
        most_redundant(np.ones((2, 3)))
    with pytest.raises(ArgumentError, match=r"must be symmetric and finite. Score the training data as its own"):
        upweighted(np.array([[1.0, 0.5], [0.1, 1.0]]))
    with pytest.raises(ArgumentError, match=r"`clusters` must be at most the number of training examples, 5; got 9"):
        whole_clusters(BLOCKS, 9)
    with pytest.raises(ShapeError, match=r"one for each of 3 training examples; got shape \(2,\)"):
        class_balanced(np.arange(3), [0, 1])


@pytest.mark.parametrize("given", [0.5, None, "0.5", ["a"]])
def test_shares_that_are_no_numbers_are_named(given: object) -> None:
    with pytest.raises(ArgumentError, match=r"`shares` must be shares of the data to remove, 0 up to but not 1; got"):
        checked_shares(given)


def test_a_file_in_place_of_the_folder_of_results_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArgumentError, match=r"file cannot be a folder: a file stands there\. Choose another path"):
        pruning(lambda ids, seed: Share(1), {"a": np.arange(4)}, TEST, shares=[0.0], path=tmp_path / "file")


def test_what_are_no_scores_is_named() -> None:
    with pytest.raises(ArgumentError, match=r"Scores are a labelled array \(xarray.DataArray\).*; got ndarray\. Take"):
        as_help(VALUES)
