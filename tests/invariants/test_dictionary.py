"""Features as objectives, and as what samples share, on an autoencoder whose codes are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from whence._errors import ArgumentError, LabelError
from whence.invariants import InvariantSet, Relu, SparseAutoencoder, TrainedAutoencoder
from whence.invariants.dictionary import feature, shared_features


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


def test_a_mean_over_positions_is_followed_as_the_mean_where_it_is_above_zero(known: TrainedAutoencoder) -> None:
    objective = feature(nn.Sequential(nn.Identity(), nn.Flatten()), known, 1, pooled=True)
    places = torch.tensor([[[0.0, 4.0, 0.0], [0.0, -1.0, 0.0]], [[0.0, -4.0, 0.0], [0.0, -2.0, 0.0]]])
    assert objective(places).tolist() == [[2.0], [0.0]]
    assert objective.searched(places).tolist() == [[2.0], [-3.0]]


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
