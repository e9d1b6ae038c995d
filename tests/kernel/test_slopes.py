"""Slopes of mode coefficients in the inputs against central differences and plain autograd."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.attribution.networks import data, network, one_by_one
from whence._errors import ArgumentError, GradientError
from whence.kernel import as_trained, coefficients_of, input_sensitivity, modes


class Twin(nn.Module):
    """Two inputs by name, one of them whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(5, 3), nn.Linear(6, 3)

    def forward(self, picture: Tensor, word: Tensor) -> Tensor:
        """Return logits."""
        out: Tensor = self.out(torch.cat([torch.tanh(picture), self.table(word)], 1))
        return out


class Once(torch.autograd.Function):
    """A square whose gradient cannot be differentiated again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        """Return the square."""
        return x.square()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep the input."""
        ctx.save_for_backward(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Return 2 x times the gradient."""
        slope: Tensor = 2 * ctx.saved_tensors[0] * gradient
        return slope


class Squares(nn.Module):
    """A layer through `Once`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return squares."""
        out: Tensor = Once.apply(x)  # type: ignore[no-untyped-call]
        return out


NORMALISED: dict[str, nn.Module] = {
    "layer": nn.LayerNorm(4),
    "layer over two axes, no weights": nn.LayerNorm((3, 4), elementwise_affine=False),
    "instance": nn.InstanceNorm1d(3),
    "instance with weights": nn.InstanceNorm1d(3, affine=True),
    "instance with averages": nn.InstanceNorm1d(3, affine=True, track_running_stats=True),
    "group": nn.GroupNorm(3, 3),
    "batch": nn.BatchNorm1d(3),
    "root mean square": nn.RMSNorm(4),
}


@pytest.mark.parametrize("kind", NORMALISED)
def test_slopes_through_a_normalisation_are_those_of_one_example_at_a_time(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Unflatten(1, (3, 2)), nn.Linear(2, 4), NORMALISED[kind], nn.Flatten(), nn.Linear(12, 3))
    model = model.double().eval()
    x, y = data("linear", 5)
    source = as_trained(model, (x, y), loss=F.cross_entropy)
    found = modes(source, count=2)
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(
        coefficients_of(found, source.model, source.loss.per_example, leaf, y)[:, 1].sum(), leaf
    )
    for number in range(5):
        one = x[number : number + 1].clone().requires_grad_()
        loss = F.cross_entropy(model(one), y[number : number + 1])
        gradients = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
        (expected,) = torch.autograd.grad(torch.cat([g.flatten() for g in gradients]) @ found.directions[1], one)
        torch.testing.assert_close(slope[number], expected[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["linear", "perceptron", "convolution", "positions"])
@pytest.mark.parametrize("budget", [1, 2**29])
def test_sensitivities_are_norms_of_central_differences(kind: str, budget: int) -> None:
    model, (x, y) = network(kind), data(kind, 4, seed=1)
    source = as_trained(model, data(kind, 9), loss=F.cross_entropy)
    found = modes(source, count=3)
    h = 1e-5  # off by h² and eps/h, about 1e-10 each
    slopes = []
    for step in torch.eye(6, dtype=torch.float64) * h:
        ahead, behind = one_by_one(model, (x + step, y)), one_by_one(model, (x - step, y))
        slopes.append((ahead - behind) @ found.directions.T / (2 * h))
    raw = torch.stack(slopes).norm(dim=0)
    got = input_sensitivity(found, source, (x, y), memory_budget=budget)
    np.testing.assert_allclose(got["raw"], raw, rtol=1e-6, atol=1e-8)
    norms = one_by_one(model, (x, y)).norm(dim=1)
    np.testing.assert_allclose(got["corrected"], raw / norms[:, None], rtol=1e-6, atol=1e-8)
    assert got["raw"].dims == ("example", "mode")
    assert got["corrected"].attrs["unit"] == "per unit of input"
    assert input_sensitivity(found, source, (x, y), ids=[2]).example.values.tolist() == [2]


def test_inputs_by_name_are_taken_and_whole_numbers_held() -> None:
    model = Twin().double().eval()
    items = [
        ({"picture": row, "word": torch.tensor(n % 5)}, n % 3) for n, row in enumerate(data("linear", 6)[0][:, :3])
    ]
    source = as_trained(model, items, loss=F.cross_entropy)
    found = modes(source, count=2)
    got = input_sensitivity(found, source, items)
    inputs, labels = source.examples.batch(range(6))
    inputs["picture"].requires_grad_()
    values = coefficients_of(found, source.model, source.loss.per_example, inputs, labels)
    for mode in range(2):
        (slope,) = torch.autograd.grad(values[:, mode].sum(), inputs["picture"], retain_graph=True)
        np.testing.assert_allclose(got["raw"].sel(mode=mode), slope.norm(dim=1), rtol=1e-10)


def test_inputs_of_whole_numbers_have_no_slope() -> None:
    source = as_trained(network("embedding"), data("embedding", 6), loss=F.cross_entropy)
    with pytest.raises(ArgumentError, match=r"No input of the model is a floating-point tensor"):
        input_sensitivity(modes(source, count=1), source, data("embedding", 2))


def test_a_model_that_cannot_be_differentiated_twice_is_refused() -> None:
    model = nn.Sequential(nn.Linear(6, 4), Squares(), nn.Linear(4, 3)).double().eval()
    pair = data("linear", 5)
    source = as_trained(model, pair, loss=F.cross_entropy)
    found = modes(source, count=1)
    with pytest.raises(GradientError, match=r"cannot be differentiated once more: a function of it is marked"):
        input_sensitivity(found, source, pair)
    with pytest.raises(GradientError, match=r"Sequential"):
        coefficients_of(found, source.model, source.loss.per_example, pair[0].clone().requires_grad_(), pair[1])


def test_slopes_that_torch_func_gets_wrong_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whence.kernel.differentiable._COMPOSED", {})
    x, y = data("positions", 5)
    source = as_trained(network("positions"), (x, y), loss=F.cross_entropy)
    found = modes(source, count=2)
    with pytest.raises(GradientError, match=r"come out otherwise by torch\.func than by plain autograd \(apart by"):
        coefficients_of(found, source.model, source.loss.per_example, x.clone().requires_grad_(), y)
