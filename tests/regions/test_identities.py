"""Region maps are what their equations say: against double backward, closed forms, and sums that must come out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor, nn

from tests.regions.networks import KINDS, data, network, score_and_gradient
from whence.attribution import GradCos, GradDot, Influence, attribute
from whence.regions import (
    DEFAULT,
    PAPER,
    Difference,
    DoubleBackward,
    Gradient,
    GradientInput,
    Integrated,
    Recipe,
    region_map,
)

TIGHT: Any = {"rtol": 1e-9, "atol": 1e-11}  # float64: sums of a thousand products of size 1
PAIRS = [(2, 4), (0, 1), (2, 0), (1, 3)]  # not in the order of the targets


def maps(kind: str, recipe: Recipe, pairs: Any = PAIRS, **options: Any) -> xr.DataArray:
    given = {"train_data": data(6), "loss": F.cross_entropy, **options}
    return region_map(network(kind), data(3, 1), pairs, recipe=recipe, **given)


def reference(kind: str, quantity: str, cosine: bool, names: list[str] | None = None) -> tuple[Tensor, Tensor]:
    """Return scores and gradients of the pairs, one at a time."""
    train, targets = data(6), data(3, 1)
    found = [
        score_and_gradient(
            network(kind), (train[0][m], train[1][m]), (targets[0][n], targets[1][n]), quantity, cosine, names
        )
        for n, m in PAIRS
    ]
    return torch.stack([score for score, _ in found]), torch.stack([gradient for _, gradient in found])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("score", [GradDot("loss"), GradCos("loss"), GradDot("logit"), GradCos("margin")], ids=str)
def test_the_gradient_map_is_the_double_backward_of_the_score(kind: str, score: Any) -> None:
    found = maps(kind, Recipe(score, Gradient()))
    scores, gradients = reference(kind, score.quantity, isinstance(score, GradCos))
    torch.testing.assert_close(torch.from_numpy(found.values), gradients.sum(1), **TIGHT)
    torch.testing.assert_close(torch.from_numpy(found["score"].values), scores, **TIGHT)


@pytest.mark.parametrize("cosine", [False, True])
def test_chosen_layers_count_alone(cosine: bool) -> None:
    make = GradCos if cosine else GradDot
    for layers, names in (("last", ["6.weight", "6.bias"]), (["0", "4"], None)):
        chosen = names or ["0.weight", "0.bias", "4.weight", "4.bias"]
        found = maps("kinked", Recipe(make("logit", layers=layers), Gradient()))
        expected = reference("kinked", "logit", cosine, chosen)[1].sum(1)
        torch.testing.assert_close(torch.from_numpy(found.values), expected, **TIGHT)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("score", [GradDot("logit"), GradCos("loss", layers="last")], ids=str)
def test_forward_over_reverse_equals_double_backward(kind: str, score: Any) -> None:
    recipe = Recipe(score, Integrated(3))
    xr.testing.assert_allclose(maps(kind, recipe), maps(kind, recipe, engine=DoubleBackward()), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["linear", "smooth", "vision"])
@pytest.mark.parametrize("score", [GradDot("logit"), Influence(2.0, "loss", layers="last")], ids=str)
def test_two_moved_models_give_the_same_maps_on_smooth_networks_and_state_their_error(kind: str, score: Any) -> None:
    recipe = Recipe(score if kind != "linear" else GradDot("logit"), Gradient())
    exact, found = maps(kind, recipe).values, maps(kind, recipe, engine=Difference())
    error = np.linalg.norm(found.values - exact) / np.linalg.norm(exact)
    assert error < 1e-7  # the step is eps^(1/3) of the parameters' norm: its square, times a curvature of order 100
    assert 0 < found.attrs["engine_error"] < 1e-7


def test_the_scores_of_maps_are_those_of_the_attributor() -> None:
    for score in (GradDot("margin"), GradCos("loss", layers=["0"])):
        expected = attribute(score, network("kinked"), data(3, 1), train_data=data(6), loss=F.cross_entropy)
        found = maps("kinked", Recipe(score))
        np.testing.assert_allclose(
            found["score"].values, [float(expected.sel(target=n, train=m)) for n, m in PAIRS], rtol=1e-9
        )


@pytest.mark.parametrize("kind", ["linear", "smooth", "vision"])
@pytest.mark.parametrize("score", [GradDot("logit"), GradCos("loss")], ids=str)
def test_integrated_gradients_sum_to_the_scores_change_from_the_mean_image(kind: str, score: Any) -> None:
    found = maps(kind, Recipe(score, Integrated(24)))
    train = data(6)
    mean = (train[0].mean(0).expand_as(train[0]).clone(), train[1])
    start = attribute(score, network(kind), data(3, 1), train_data=mean, loss=F.cross_entropy)
    expected = [
        float(one) - float(start.sel(target=n, train=m)) for one, (n, m) in zip(found["score"], PAIRS, strict=True)
    ]
    np.testing.assert_allclose(found.sum(("height", "width")).values, expected, rtol=1e-4)
    np.testing.assert_allclose(found["remainder"].values, expected - found.sum(("height", "width")).values, atol=1e-12)


@pytest.mark.parametrize("begun", [0.0, 0.3])
def test_a_path_that_starts_on_the_way_shares_out_the_change_from_the_faded_input(begun: float) -> None:
    found = maps("smooth", Recipe(GradDot("logit"), Integrated(24, start=begun)))
    inputs, labels = data(6)
    faded = (inputs.mean(0) + begun * (inputs - inputs.mean(0)), labels)
    start = attribute(GradDot("logit"), network("smooth"), data(3, 1), train_data=faded, loss=F.cross_entropy)
    expected = found["score"].values - [float(start.sel(target=n, train=m)) for n, m in PAIRS]
    np.testing.assert_allclose(found.sum(("height", "width")).values, expected, rtol=1e-4)
    np.testing.assert_allclose(found["remainder"].values, expected - found.sum(("height", "width")).values, atol=1e-12)


def test_two_parts_of_a_path_add_up_to_the_whole() -> None:
    """A path from 0 to 1 is that from 0 to 0.4 of the inputs faded to 0.4, and the one from 0.4."""
    whole, rest = (maps("linear", Recipe(GradDot("logit"), Integrated(30, start=one))) for one in (0.0, 0.4))
    inputs, labels = data(6)
    faded = (inputs.mean(0) + 0.4 * (inputs - inputs.mean(0)), labels)
    recipe = Recipe(GradDot("logit"), Integrated(30))
    first = region_map(network("linear"), data(3, 1), PAIRS, recipe=recipe, train_data=faded, loss=F.cross_entropy)
    np.testing.assert_allclose((first + rest).values, whole.values, rtol=1e-8, atol=1e-12)


def test_gradient_times_input_counts_from_the_baseline() -> None:
    gradients = reference("smooth", "loss", False)[1]
    inputs = data(6)[0][[m for _, m in PAIRS]]
    found = maps("smooth", Recipe(GradDot(), GradientInput(), baseline=0.5))
    torch.testing.assert_close(torch.from_numpy(found.values), (gradients * (inputs - 0.5)).sum(1), **TIGHT)


def test_an_unsigned_map_takes_absolute_values_before_channels_are_summed() -> None:
    found = maps("smooth", Recipe(GradDot(), Gradient(), signed=False))
    expected = reference("smooth", "loss", False)[1].abs().sum(1)
    torch.testing.assert_close(torch.from_numpy(found.values), expected, **TIGHT)


def test_smoothing_averages_maps_of_noisy_inputs_with_noise_of_a_share_of_the_range() -> None:
    found = maps("smooth", Recipe(GradCos(), Gradient(), signed=False, smooth=3, noise=0.2, seed=7))
    train, targets = data(6), data(3, 1)
    generator = torch.Generator().manual_seed(7)
    noise = torch.randn(3, 2, 6, 6, generator=generator, dtype=torch.float64) * 0.2 * (train[0].max() - train[0].min())
    for row, (n, m) in enumerate(PAIRS):
        target = (targets[0][n], targets[1][n])
        noisy = [
            score_and_gradient(network("smooth"), (train[0][m] + one, train[1][m]), target, "loss", True)[1].abs()
            for one in noise
        ]
        torch.testing.assert_close(torch.from_numpy(found.values[row]), torch.stack(noisy).mean(0).sum(0), **TIGHT)


@pytest.mark.parametrize("recipe", [DEFAULT, replace(PAPER, smooth=3)], ids=["default", "paper"])
def test_a_budget_of_one_byte_changes_nothing(recipe: Recipe) -> None:
    xr.testing.assert_allclose(maps("kinked", recipe, memory_budget=1), maps("kinked", recipe), rtol=1e-9, atol=1e-12)


def test_a_map_does_not_depend_on_the_other_pairs() -> None:
    recipe = replace(PAPER, smooth=3)
    alone = maps("kinked", recipe, [(2, 0)])
    np.testing.assert_allclose(maps("kinked", recipe).values[2], alone.values[0], rtol=1e-9)


def ridge() -> tuple[nn.Module, tuple[Tensor, Tensor], Tensor, float, float]:
    """Return the toy of TFA, section 3.1: points along the first axis with label 0, and one, (0, β), with label β."""
    beta, penalty = 1.7, 0.3
    along = torch.tensor([0.5, -1.2, 2.0, 0.8], dtype=torch.float64)
    inputs = torch.stack([torch.cat([along, along.new_zeros(1)]), torch.tensor([0, 0, 0, 0, beta]).double()], 1)
    labels = torch.tensor([[0.0], [0.0], [0.0], [0.0], [beta]], dtype=torch.float64)
    inverse = torch.linalg.inv(inputs.T @ inputs + penalty * torch.eye(2, dtype=torch.float64))
    return nn.Linear(2, 1, bias=False).double(), (inputs, labels), inverse, beta, penalty


def half_square(outputs: Tensor, labels: Tensor) -> Tensor:
    return 0.5 * (outputs - labels).square().sum(1)


def ridge_maps(weights: Tensor) -> tuple[xr.DataArray, float, float]:
    model, train, _, beta, penalty = ridge()
    with torch.no_grad():
        model.get_parameter("weight").copy_(weights)
    target = (torch.tensor([[0.0, 1.0]], dtype=torch.float64), torch.tensor([[0.0]], dtype=torch.float64))
    score = Influence(penalty / 5, lambda outputs, _labels: outputs[:, 0])
    recipe = Recipe(score, GradientInput(), baseline=0.0)
    pairs = [(0, m) for m in range(5)]
    found = region_map(model, target, pairs, recipe=recipe, train_data=train, loss=half_square)
    return found.assign_coords(score=found["score"] / 5) / 5, beta, penalty  # of one of the five examples


def test_the_ridge_toy_gives_all_to_the_second_feature_of_the_one_informative_point() -> None:
    found, beta, penalty = ridge_maps(torch.zeros(1, 2))  # where the model starts: residuals are the labels
    expected = np.zeros((5, 2))
    expected[4, 1] = beta**2 / (beta**2 + penalty)
    np.testing.assert_allclose(found.values, expected, atol=1e-10)
    np.testing.assert_allclose(found["score"].values, expected.sum(1), atol=1e-10)


def test_at_the_solution_of_the_ridge_toy_too_only_that_feature_has_a_share() -> None:
    _, train, inverse, _, _ = ridge()
    found, _, _ = ridge_maps((inverse @ train[0].T @ train[1]).T)
    values = found.values.copy()
    assert abs(values[4, 1]) > 1e-3
    values[4, 1] = 0
    np.testing.assert_allclose(values, 0, atol=1e-10)


def test_the_map_of_a_linear_model_with_half_squared_loss_is_its_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    train, targets = (
        (torch.randn(n, 4, generator=generator).double(), torch.randn(n, 1, generator=generator).double())
        for n in (5, 3)
    )
    model = nn.Linear(4, 1, bias=False).double()
    w = model.weight.detach()[0]
    recipe = Recipe(GradDot("loss"), Gradient())
    found = region_map(
        model, targets, [(n, m) for n in range(3) for m in range(5)], recipe=recipe, train_data=train, loss=half_square
    )
    row = 0
    for x, y in zip(*targets, strict=True):
        for a, b in zip(*train, strict=True):
            ours, theirs = a @ w - b, x @ w - y
            expected = theirs * (ours * x + (a @ x) * w)
            np.testing.assert_allclose(found.values[row], expected.numpy(), atol=1e-10)
            row += 1


def test_influence_is_the_inner_product_with_the_inverse_hessian() -> None:
    model, train, targets = network("smooth"), data(6), data(3, 1)
    names = ["6.weight", "6.bias"]
    live = [model.get_parameter(name) for name in names]

    def mean_loss(weight: Tensor, bias: Tensor) -> Tensor:
        return F.cross_entropy(
            torch.func.functional_call(model, dict(zip(names, (weight, bias), strict=True)), train[0]), train[1]
        )

    blocks = torch.autograd.functional.hessian(mean_loss, tuple(live))
    hessian = torch.cat(
        [torch.cat([b.reshape(one.numel(), -1) for b in row], 1) for one, row in zip(live, blocks, strict=True)]
    )
    inverse = torch.linalg.inv(hessian + 0.05 * torch.eye(18, dtype=torch.float64))
    found = maps("smooth", Recipe(Influence(0.05, "logit", layers="last"), Gradient()))
    for row, (n, m) in enumerate(PAIRS):
        x = train[0][m].clone().requires_grad_()
        ours = torch.autograd.grad(F.cross_entropy(model(x[None]), train[1][m : m + 1]), live, create_graph=True)
        theirs = torch.autograd.grad(model(targets[0][n : n + 1])[0, targets[1][n]], live)
        score = -torch.cat([one.flatten() for one in ours]) @ inverse @ torch.cat([one.flatten() for one in theirs])
        expected = torch.autograd.grad(score, x)[0].sum(0)
        np.testing.assert_allclose(found.values[row], expected.numpy(), rtol=1e-8, atol=1e-11)


def test_with_much_damping_influence_becomes_the_inner_product() -> None:
    much = maps("smooth", Recipe(Influence(1e8, "logit"), Gradient())) * 1e8
    np.testing.assert_allclose(much.values, maps("smooth", Recipe(GradDot("logit"), Gradient())).values, rtol=1e-5)


@pytest.mark.parametrize("cosine", [False, True])
def test_with_slopes_held_the_map_is_that_of_the_loss_replaced_by_its_tangent(cosine: bool) -> None:
    model, train, targets = network("smooth"), data(6), data(3, 1)
    found = maps("smooth", Recipe((GradCos if cosine else GradDot)("logit"), Gradient(), held=True))
    for row, (n, m) in enumerate(PAIRS):
        slope = torch.softmax(model(train[0][m][None])[0].detach(), 0) - F.one_hot(train[1][m], 3)
        x = train[0][m].clone().requires_grad_()
        ours = torch.autograd.grad(model(x[None])[0] @ slope, list(model.parameters()), create_graph=True)
        theirs = torch.autograd.grad(model(targets[0][n][None])[0, targets[1][n]], list(model.parameters()))
        left, right = (torch.cat([one.flatten() for one in side]) for side in (ours, theirs))
        score = -left @ right / (left.norm() * right.norm() if cosine else 1)
        torch.testing.assert_close(
            torch.from_numpy(found.values[row]), torch.autograd.grad(score, x)[0].sum(0), **TIGHT
        )
        assert float(found["score"][row]) == pytest.approx(float(score.detach()), rel=1e-9)


@pytest.mark.parametrize("engine", [DoubleBackward(), Difference()], ids=str)
def test_engines_agree_with_slopes_held(engine: Any) -> None:
    recipe = Recipe(GradDot("logit"), Integrated(3), held=True)
    found = maps("smooth", recipe, engine=engine)
    np.testing.assert_allclose(found.values, maps("smooth", recipe).values, rtol=1e-5, atol=1e-8)
