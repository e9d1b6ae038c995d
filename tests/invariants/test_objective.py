"""What an objective demands of its functions, and what it leaves alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.invariants.making import plain
from whence._errors import ArgumentError, ShapeError
from whence.invariants import Metropolis, Objective, invariants, logits, probabilities


def with_dropout() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 2)).train()


def test_a_module_in_training_answers_as_in_evaluation_and_stays_as_it_was() -> None:
    """Else dropout and statistics of the batch would make a value hang on chance and on the other inputs."""
    model, points = with_dropout(), torch.randn(6, 4)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    chance = torch.random.get_rng_state()
    found = invariants(Objective(model, "outputs"), points[0], plain(4), 3, pool=16)
    assert found.solved.all()
    values = Objective(model, "outputs")(points)
    assert torch.equal(torch.random.get_rng_state(), chance)
    assert all(part.training for part in model.modules())
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    assert all(one.grad is None and one.requires_grad for one in model.parameters())
    np.testing.assert_array_equal(values.detach(), model.eval()(points).detach())


@pytest.mark.parametrize("solver", [None, Metropolis(moves=2)])
@pytest.mark.parametrize("given", [torch.float32, torch.float64])
def test_values_of_another_type_than_the_inputs_are_searched_for_all_the_same(given: torch.dtype, solver: Any) -> None:
    other = torch.float64 if given == torch.float32 else torch.float32
    objective = Objective(lambda points: points[:, :1].to(other) ** 3, "cube")
    assert objective(torch.ones(2, 4, dtype=given)).dtype == given
    assert invariants(objective, torch.ones(4, dtype=given), plain(4), 3, pool=32, solver=solver).solved.all()


def test_outputs_that_are_no_tensor_are_read_by_their_logits() -> None:
    class Named(nn.Module):
        def forward(self, points: Tensor) -> Any:
            return SimpleNamespace(logits=2 * points)

    points = torch.randn(3, 4)
    assert torch.equal(logits(Named())(points), 2 * points)
    assert torch.equal(probabilities(Named(), [1])(points), (2 * points).softmax(1)[:, 1:2])


@pytest.mark.parametrize("indices", [[], [True], True])
def test_indices_that_are_no_places_are_refused(indices: Any) -> None:
    with pytest.raises(ArgumentError, match="indices are one or more places of outputs; got"):
        logits(nn.Linear(4, 4), indices)


def test_one_output_may_be_named_by_its_place_alone() -> None:
    model, points = nn.Linear(4, 4), torch.randn(3, 4)
    assert torch.equal(logits(model, 2)(points), logits(model, [2])(points))
    assert logits(model, 2).name == "logit 2"


def test_the_probability_of_the_only_class_is_refused_since_all_inputs_have_it() -> None:
    with pytest.raises(ShapeError, match=r"need the outputs of two or more classes; got shape \(3, 1\)"):
        probabilities(nn.Linear(4, 1))(torch.zeros(3, 4))


def test_an_objective_refuses_what_it_cannot_be_made_of() -> None:
    with pytest.raises(ShapeError, match=r"not empty .*; got shape \(2, 0\)"):
        Objective(lambda points: points[:, :0], "nothing")(torch.zeros(2, 4))
    whole = Objective(lambda points: points, "whole", lambda values, goal: (values - goal).norm())
    with pytest.raises(ShapeError, match=r"distance of the objective whole must return one number for each of 1 rows"):
        invariants(whole, torch.zeros(4), plain(4), 3, pool=8)
