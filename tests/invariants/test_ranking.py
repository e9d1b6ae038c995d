"""The most telling samples are those that a brute-force greedy search takes; unrealistic ones count little."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

from whence._errors import ArgumentError, ShapeError
from whence.invariants import InvariantSet
from whence.invariants.ranking import most_telling, realism_weights


def a_set(points: Tensor, quantile: list[float], solved: list[bool] | None = None) -> InvariantSet:
    """Return a set of points around the query 0."""
    many = len(points)
    data = {
        "solved": ("sample", np.array(solved or [True] * many)),
        "latent_quantile": ("sample", np.array(quantile)),
        "residual": ("sample", np.zeros(many)),
    }
    return InvariantSet(points, points, torch.zeros(points.shape[1]), xr.Dataset(data, attrs={"objective": "f"}))


def taken_by_hand(points: np.ndarray, weights: np.ndarray, k: int) -> list[int]:
    """Return the greedy order, every distance to everything taken found anew."""
    taken, order = [np.zeros(points.shape[1])], []
    for _ in range(k):
        worth = [
            -1.0 if row in order else weights[row] * min(float(np.linalg.norm(points[row] - one)) for one in taken)
            for row in range(len(points))
        ]
        order.append(int(np.argmax(worth)))
        taken.append(points[order[-1]])
    return order


@pytest.mark.parametrize("seed", range(5))
def test_the_order_is_the_greedy_one_with_the_query_taken_from_the_start(seed: int) -> None:
    draw = np.random.default_rng(seed)
    points, quantile = draw.normal(size=(20, 3)), draw.uniform(size=20)
    found = a_set(torch.from_numpy(points), quantile.tolist())
    expected = taken_by_hand(points, realism_weights(found), 6)
    assert most_telling(found, k=6).tolist() == expected


def test_the_second_is_far_from_the_query_and_from_the_first() -> None:
    points = torch.tensor([[10.0, 0.0], [9.9, 0.0], [0.1, 0.0], [0.0, 6.0]])
    assert most_telling(a_set(points, [0.5] * 4), k=2).tolist() == [0, 3]


def test_samples_that_are_not_solved_are_left_out_and_none_is_none() -> None:
    points = torch.tensor([[10.0], [2.0], [1.0]])
    assert most_telling(a_set(points, [0.5] * 3, [False, True, True]), k=8).tolist() == [1, 2]
    assert most_telling(a_set(points, [0.5] * 3, [False] * 3)).tolist() == []


def test_a_latent_beyond_the_draws_of_the_prior_counts_a_tenth() -> None:
    points = torch.tensor([[10.0], [2.0], [3.0]])
    found = a_set(points, [1.0, 0.5, 0.0125])
    assert realism_weights(found).tolist() == pytest.approx([0.1, 1.0, 0.5])
    assert most_telling(found, k=1).tolist() == [1]  # 10 * 0.1 < 2, 3 * 0.5 < 2


def test_a_sample_outside_of_the_real_inputs_counts_a_tenth() -> None:
    real = torch.linspace(-4, 4, 41)[:, None]
    found = a_set(torch.tensor([[20.0], [3.03]]), [0.5, 0.5])
    assert realism_weights(found, real=real).tolist() == pytest.approx([0.1, 1.0])
    assert most_telling(found, real=real, k=1).tolist() == [1]


def test_distances_are_taken_in_the_space_of_features() -> None:
    points = torch.tensor([[10.0, 0.0], [0.0, 1.0]])
    found = a_set(points, [0.5, 0.5])
    assert most_telling(found, lambda inputs: inputs[:, 1:], k=1).tolist() == [1]


@pytest.mark.parametrize("k", [0, -1, True])
def test_a_number_of_samples_that_is_none_is_refused(k: int) -> None:
    with pytest.raises(ArgumentError, match="k is how many samples are chosen, at least 1; got "):
        most_telling(a_set(torch.ones(2, 1), [0.5, 0.5]), k=k)


def test_features_reduced_over_the_batch_are_refused() -> None:
    found = a_set(torch.ones(2, 3), [0.5, 0.5])
    with pytest.raises(ShapeError, match=r"features give a row for each of 3 inputs; got shape \(\)"):
        most_telling(found, lambda inputs: inputs.sum())
