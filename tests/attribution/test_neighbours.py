"""Nearest neighbours: exact, also of copies, and without the matrix of all distances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import whence
from tests.attribution.networks import data, network
from whence._errors import ArgumentError
from whence.attribution import NearestNeighbours, as_trained, attribute


def found(train: torch.Tensor, targets: torch.Tensor, metric: str = "euclidean", **options: Any) -> np.ndarray:
    labels = torch.zeros(len(train), dtype=torch.long)
    given = {"train_data": (train, labels), "loss": F.cross_entropy, **options}
    model = network("linear").to(train.dtype)
    return attribute(NearestNeighbours(metric=metric), model, (targets, labels[: len(targets)]), **given).values


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_distances_are_exact_far_from_the_origin_and_between_near_copies(dtype: torch.dtype, offset: float) -> None:
    targets = (torch.randn(7, 6, dtype=torch.float64) + offset).to(dtype)
    close = targets + (1e-4 * torch.randn(7, 6, dtype=torch.float64)).to(dtype)
    train = torch.cat([targets, close, (torch.randn(9, 6, dtype=torch.float64) + offset).to(dtype)])
    expected = -(targets.double()[:, None] - train.double()[None]).square().sum(2).sqrt()
    error = 1e-10 if dtype == torch.float64 else 1e-5
    rounding = abs(offset) * torch.finfo(dtype).eps  # of a difference of neighbours
    values = found(train, targets)
    np.testing.assert_allclose(values, expected.numpy(), rtol=error, atol=rounding)
    assert (np.diagonal(values) == 0).all()
    np.testing.assert_allclose(found(train, targets, memory_budget=500), values, rtol=error, atol=rounding)


def test_the_cosine_metric_is_minus_one_and_the_cosine() -> None:
    targets, train = (data("linear", *one)[0] for one in ((5, 1), (11, 0)))
    expected = F.cosine_similarity(targets[:, None], train[None], dim=2) - 1
    np.testing.assert_allclose(found(train, targets, "cosine"), expected.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("budget", [2**20, 500])
def test_the_nearest_are_the_ends_of_all_scores_the_first_of_equals_first(metric: str, budget: int) -> None:
    x, y = data("linear", 30)
    x[20] = x[3]
    trained = as_trained(network("linear"), (x, y), loss=F.cross_entropy)
    fitted = NearestNeighbours(metric=metric).fit(trained, memory_budget=budget)
    targets = whence.as_examples((torch.cat([x[3:4], data("linear", 5, 1)[0]]), y[:6]))
    whole, near = fitted.scores(targets, [4, 0, 2]).values, fitted.nearest(targets, [4, 0, 2], 6)
    order = np.argsort(-whole, 1, kind="stable")[:, :6]
    np.testing.assert_array_equal(near["train"].values, order)
    np.testing.assert_allclose(near["score"].values, np.take_along_axis(whole, order, 1), rtol=1e-12, atol=1e-15)
    assert near["train"].sel(target=0).values[:2].tolist() == [3, 20]
    assert near.attrs["unit"].startswith("minus distance")
    assert fitted.nearest(targets, [0], 99).sizes == {"target": 1, "rank": 30}


def test_what_is_no_metric_and_no_number_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"`metric` is 'euclidean' or 'cosine'; got 'l1'"):
        found(data("linear", 5)[0], data("linear", 2)[0], "l1")
    trained = as_trained(network("linear"), data("linear", 5), loss=F.cross_entropy)
    with pytest.raises(ArgumentError, match=r"`k` is a whole number of examples, at least 1; got 0"):
        NearestNeighbours().fit(trained).nearest(trained.examples, [0], 0)
