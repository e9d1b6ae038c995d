"""Features as objectives, and as what samples share, on an autoencoder whose codes are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from tests.invariants.making import plain
from whence._errors import ArgumentError, LabelError
from whence.invariants import GaussNewton, InvariantSet, Relu, Search, SparseAutoencoder, Status, TrainedAutoencoder
from whence.invariants.dictionary import feature, shared_features
from whence.invariants.problem import Problem


def identity(width: int) -> SparseAutoencoder:
    """Return an autoencoder whose codes are the activations above 0."""
    made = SparseAutoencoder(width, width, Relu(0.0))
    with torch.no_grad():
        for name, one in made.named_parameters():
            one.copy_(torch.eye(width) if name in ("encoder", "decoder") else torch.zeros(width))
    return made


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Identity(), nn.Linear(3, 2))


@pytest.fixture
def known() -> TrainedAutoencoder:
    return TrainedAutoencoder(identity(3), "0")


def test_a_feature_is_its_code_and_gradients_go_through(model: nn.Module, known: TrainedAutoencoder) -> None:
    objective = feature(model, known, 1)
    inputs = torch.tensor([[1.0, 2.0, 3.0], [1.0, -2.0, 3.0]], requires_grad=True)
    values = objective(inputs)
    assert values.tolist() == [[2.0], [0.0]]
    assert objective.name == "feature 1 of 0"
    (slope,) = torch.autograd.grad(values.sum(), inputs)
    assert slope.tolist() == [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    assert not any(one.grad is not None for one in known.autoencoder.parameters())


@pytest.mark.parametrize("pooled", [True, False])
def test_a_feature_of_a_layer_with_positions_is_reached_where_it_is_silent_at_some_or_all(pooled: bool) -> None:
    """Of a map some codes are 0 at the goal, others at the start; of a mean all may be 0 at the start."""
    model, known = nn.Sequential(nn.Linear(3, 3)), TrainedAutoencoder(identity(3), "0")
    query = torch.tensor([[1.0, 2.0, 0.0], [0.0, -1.0, 1.0], [2.0, 1.0, 1.0]])
    with torch.no_grad():
        model.get_parameter("0.weight").copy_(torch.eye(3))
        model.get_parameter("0.bias").zero_()
    objective = feature(model, known, 1, pooled=pooled)
    assert objective(query[None]).tolist() == ([[1.0]] if pooled else [[2.0, 0.0, 1.0]])
    silent = -torch.rand(4, 3, 3) - 0.1
    search = Search(silent)
    problem = Problem(objective, plain(3, 3), objective(query[None])[0])
    GaussNewton().solve(problem, search)
    assert search.status.tolist() == [Status.SOLVED] * 4
    codes = search.latents[..., 1].relu()
    reached = codes.mean(1, keepdim=True) if pooled else codes
    np.testing.assert_allclose(reached, objective(query[None]).expand_as(reached), atol=0.02)


def test_a_mean_over_positions_is_followed_as_the_mean_where_it_is_above_zero(known: TrainedAutoencoder) -> None:
    objective = feature(nn.Sequential(nn.Identity(), nn.Flatten()), known, 1, pooled=True)
    places = torch.tensor([[[0.0, 4.0, 0.0], [0.0, -1.0, 0.0]], [[0.0, -4.0, 0.0], [0.0, -2.0, 0.0]]])
    assert objective(places).tolist() == [[2.0], [0.0]]
    assert objective.searched(places).tolist() == [[2.0], [-2.0]]


@pytest.mark.parametrize("index", [3, -1])
def test_a_feature_that_is_not_there_is_refused(model: nn.Module, known: TrainedAutoencoder, index: int) -> None:
    with pytest.raises(LabelError, match=r"No feature .*: the autoencoder has features 0 to 2\."):
        feature(model, known, index)


def a_set(samples: torch.Tensor, query: list[float], solved: list[bool]) -> InvariantSet:
    told = xr.Dataset({"solved": ("sample", np.array(solved))}, attrs={"objective": "f"})
    return InvariantSet(samples, samples, torch.tensor(query), told)


def test_shared_features_are_active_on_the_query_and_on_most_solved_samples(
    model: nn.Module, known: TrainedAutoencoder
) -> None:
    samples = torch.tensor([[1.0, -1.0, 5.0], [3.0, 2.0, 5.0], [4.0, -1.0, 5.0], [-9.0, -9.0, -9.0]])
    found = a_set(samples, [1.0, 1.0, -1.0], [True, True, True, False])
    shared = shared_features(model, known, found)
    assert shared.feature.values.tolist() == [0]  # 1 is on one of three samples, 2 not on the query
    assert (float(shared["query"][0]), float(shared["share"][0]), float(shared["median"][0])) == (1.0, 1.0, 3.0)
    both = shared_features(model, known, found, least=0.3)
    assert both.feature.values.tolist() == [0, 1]


def test_features_that_are_always_on_come_last(model: nn.Module, known: TrainedAutoencoder) -> None:
    found = a_set(torch.ones(2, 3), [1.0, 1.0, 1.0], [True, True])
    data = torch.tensor([[1.0, -1.0, 1.0], [1.0, 1.0, -1.0], [1.0, -1.0, -1.0], [1.0, -1.0, 1.0]])
    shared = shared_features(model, known, found, data=data)
    assert shared.feature.values.tolist() == [1, 2, 0]
    assert shared["usual"].values.tolist() == [0.25, 0.5, 1.0]


def test_a_share_outside_of_0_to_1_is_refused(model: nn.Module, known: TrainedAutoencoder) -> None:
    with pytest.raises(ArgumentError, match="least is a share of the samples, 0 to 1; got 2"):
        shared_features(model, known, a_set(torch.ones(1, 3), [1.0] * 3, [True]), least=2)
