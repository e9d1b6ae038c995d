"""The second pass through linear layers, against autograd differentiating twice, target by target."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.utils.parametrize import register_parametrization
from torch.optim import SGD
from torch.utils.checkpoint import checkpoint

from tests.audit.training import blobs, trained
from tests.counterfactual.test_derivative import check_derivative
from whence._errors import GradientError, ReplayError
from whence.counterfactual.curvature import Curvature
from whence.counterfactual.linear_layers import LinearLayers
from whence.counterfactual.steps import Form, Frozen, frozen_steps
from whence.optimizers import Scaled
from whence.runs import Run

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own, at the first jvp
TARGETS = 3
AGREES = 1e-12  # relative to the largest entry: some 10 rounded products of at most 50 terms, in float64


class Reused(nn.Module):
    """A layer that is called twice, beside a way around it, and whose weight is used by itself besides."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.same, self.leave = nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.enter(x))
        x = x + torch.tanh(self.same(torch.tanh(self.same(x))))
        found: Tensor = self.leave(x + x @ self.same.weight)
        return found


class Positions(nn.Module):
    """Layers at several positions of an example, and one that gets a single vector."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.inside, self.leave = nn.Linear(1, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.scale = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        each = torch.sigmoid(self.inside(torch.tanh(self.enter(x[:, :, None]))))
        found: Tensor = self.leave(each.mean(1)) * self.scale(torch.ones(2, dtype=x.dtype))
        return found


class Within(nn.Module):
    """A layer called in a way that ``apply`` chooses in training, between two others."""

    def __init__(self, apply: Callable[[nn.Linear, Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.inside, self.leave = nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self._apply_inside = apply

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.enter(x))
        trains = self.training and torch.is_grad_enabled()  # and is not looked at
        found: Tensor = self.leave(torch.tanh(self._apply_inside(self.inside, h) if trains else self.inside(h)))
        return found


def stopped(layer: nn.Linear, x: Tensor) -> Tensor:
    with torch.no_grad():
        target = layer(x)
    found: Tensor = layer(x) * target
    return found


def exchanged(layer: nn.Linear, x: Tensor) -> Tensor:
    found: Tensor = functional_call(layer, {"weight": layer.weight.square(), "bias": layer.bias}, (x,))
    return found


def another_bias(layer: nn.Linear, x: Tensor) -> Tensor:
    found: Tensor = functional_call(layer, {"weight": layer.weight, "bias": layer.bias.exp()}, (x,))
    return found


class Squared(nn.Module):
    """Makes a weight from another."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.square()


def penalised(layer: nn.Linear, x: Tensor) -> Tensor:
    """Add a gradient to a layer's outputs, of what another gives."""
    found: Tensor = layer(x)
    (gradient,) = torch.autograd.grad(found.square().sum(), x, create_graph=True)
    return found + gradient


def adapted(layer: nn.Linear, x: Tensor) -> Tensor:
    """Take a step against the layer's own gradient before it is used."""
    (gradient,) = torch.autograd.grad(layer(x).square().mean(), layer.weight, create_graph=True)
    return F.linear(x, layer.weight - 0.1 * gradient, layer.bias)


def along_another(layer: nn.Linear, x: Tensor) -> Tensor:
    one = torch.ones((), dtype=x.dtype)
    found: Tensor = torch.func.jvp(lambda scale: layer(x) * scale.sin(), (one,), (one,))[1]
    return found


def by_transform(layer: nn.Linear, x: Tensor) -> Tensor:
    found: Tensor = layer(x) + torch.func.grad(lambda inputs: layer(inputs).sin().sum())(x)
    return found


def forwards(layer: nn.Linear, x: Tensor) -> Tensor:
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        found: Tensor = forward_ad.unpack_dual(layer(dual).sin()).tangent
    return found


def some_empty(layer: nn.Linear, x: Tensor) -> Tensor:
    found: Tensor = layer(x) + layer(x[:0]).sum()
    return found


def gated(layer: nn.Linear, x: Tensor) -> Tensor:
    sign: Tensor = torch.sign(layer(x))  # its gradient is 0 everywhere, and has no graph
    found: Tensor = x * sign + layer(x)
    return found


def parametrised() -> nn.Module:
    layer = nn.Linear(3, 5)
    register_parametrization(layer, "weight", Squared())
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(5, 3))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "one after the other": lambda: nn.Sequential(
        nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 3)
    ),
    "in place": lambda: nn.Sequential(nn.Linear(3, 5), nn.SiLU(inplace=True), nn.Linear(5, 3)),
    "reused": Reused,
    "positions": Positions,
    "stopped gradient": lambda: Within(stopped),
    "other weights": lambda: Within(exchanged),
    "another bias": lambda: Within(another_bias),
    "gradients within": lambda: Within(penalised),
    "a step within": lambda: Within(adapted),
    "torch.func.grad within": lambda: Within(by_transform),
    "jvp of something else": lambda: Within(along_another),
    "forward mode": lambda: Within(forwards),
    "no examples": lambda: Within(some_empty),
    "signs": lambda: Within(gated),
    "vmap": lambda: Within(lambda layer, x: torch.func.vmap(layer)(x)),
    "checkpoint": lambda: Within(lambda layer, x: checkpoint(layer, x, use_reentrant=False)),
    "parametrised": parametrised,
}


def run_of(path: Path, model: nn.Module) -> Run:
    return trained(path, model, SGD(model.parameters(), 0.05), blobs(), epochs=1)


def pulled(run: Run, directions: dict[str, Scaled], room: int = 2**20) -> tuple[Tensor, dict[str, Tensor], Frozen]:
    """Return what the last step gives: by examples' weights, by parameter; and the step."""
    step = next(frozen_steps(run, run.segments()[-1], Form(torch.float64, 0.0, 2**20)))[-1]
    onto = {name: torch.zeros(TARGETS, *one.shape, dtype=one.dtype) for name, one in step.parameters.items()}
    curvature = Curvature(run, torch.float64, room)
    with curvature.at_work():
        return curvature.pull(step, 0, directions, onto, {}), onto, step


def twice(model: nn.Module, step: Frozen, directions: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the gradients of ⟨u, ∇L⟩ with respect to examples' weights and parameters, one target at a time."""
    names, model = list(step.parameters), copy.deepcopy(model).train()
    values = [model.get_parameter(name) for name in names]
    for name, value in zip(names, values, strict=True):
        value.data.copy_(step.parameters[name])
    inputs, labels = blobs()
    ids = step.record.batches[0]
    weights = torch.ones(len(ids), dtype=torch.float64, requires_grad=True)
    loss = (weights * F.cross_entropy(model(inputs[ids]), labels[ids], reduction="none")).mean()
    first = torch.autograd.grad(loss, values, create_graph=True)
    each = []
    for target in range(TARGETS):
        along = [directions[name][target] for name in names]
        each.append(torch.autograd.grad(first, [weights, *values], along, retain_graph=True, materialize_grads=True))
    by_weight, *found = (torch.stack(one) for one in zip(*each, strict=True))
    return by_weight, dict(zip(names, found, strict=True))


def drawn(run: Run) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        name: torch.randn(TARGETS, *one.shape, generator=generator, dtype=one.dtype)
        for name, one in run.model.named_parameters()
    }


def agree(ours: Tensor, true: Tensor) -> None:
    assert true.abs().max() > 0
    torch.testing.assert_close(ours, true, rtol=0, atol=AGREES * float(true.abs().max()))


@pytest.mark.parametrize("room", [2**20, 1], ids=["targets at once", "one by one"])
@pytest.mark.parametrize("name", MODELS)
def test_what_is_pulled_back_is_the_gradient_of_the_gradients_product_with_a_direction(
    name: str, room: int, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    model = MODELS[name]().double()
    run = run_of(tmp_path / "run", model)
    directions = drawn(run)
    by_weight, onto, step = pulled(run, {key: Scaled(2 * one, 0.5) for key, one in directions.items()}, room)
    true_by_weight, true = twice(run.model, step, directions)
    agree(by_weight, true_by_weight)
    for key, one in true.items():
        agree(onto[key], one)


@pytest.mark.parametrize("left_out", ["2.weight", "2.bias", "0.weight"])
def test_a_parameter_that_no_step_was_made_of_counts_in_the_others_gradients(left_out: str, tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", MODELS["one after the other"]().double())
    directions = drawn(run)
    by_weight, onto, step = pulled(run, {key: Scaled(one) for key, one in directions.items() if key != left_out})
    directions[left_out].zero_()
    true_by_weight, true = twice(run.model, step, directions)
    agree(by_weight, true_by_weight)
    for key, one in true.items():
        agree(onto[key], one)


def test_directions_may_be_the_very_tensors_that_are_added_to(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", MODELS["one after the other"]().double())
    directions = drawn(run)
    step = next(frozen_steps(run, run.segments()[-1], Form(torch.float64, 0.0, 2**20)))[-1]
    true_by_weight, true = twice(run.model, step, directions)
    onto = {name: one.clone() for name, one in directions.items()}
    curvature = Curvature(run, torch.float64, 1)
    with curvature.at_work():
        by_weight = curvature.pull(step, 0, {name: Scaled(one, -0.05) for name, one in onto.items()}, onto, {})
    agree(by_weight, -0.05 * true_by_weight)
    for name, one in directions.items():
        agree(onto[name], one - 0.05 * true[name])


def test_only_layers_whose_weights_are_their_own_are_taken_out_of_the_graph() -> None:
    def calls(model: nn.Module) -> int:
        layers = LinearLayers(model, [name for name, _ in model.named_parameters()])
        with layers.watching():
            model(torch.ones(2, 3))
        return len(layers.taps)

    assert calls(MODELS["one after the other"]()) == 3
    assert calls(Reused()) == 4
    assert calls(Within(stopped)) == 3
    for name in ("other weights", "another bias", "vmap", "jvp of something else", "forward mode"):
        assert calls(MODELS[name]()) == 2
    assert calls(parametrised()) == 1


class TwoHeads(nn.Module):
    """Trains one of two heads, with batch normalisation in both: averages move where no loss is."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(3, 5)
        self.first, self.second = (
            nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.enter(x))
        first, second = self.first(h), self.second(h)
        found: Tensor = (first if bool(x[0, 1] > 0) else second) if self.training else first + second
        return found


@pytest.mark.parametrize("accumulate", [1, 2])
def test_averages_behind_a_layer_that_the_loss_does_not_use_count(accumulate: int, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = TwoHeads().double()
    optimizer = SGD(model.parameters(), 0.05, momentum=0.5)
    check_derivative(trained(tmp_path / "run", model, optimizer, blobs(), epochs=2, accumulate=accumulate))


@pytest.mark.parametrize("name", ["gradients within", "a step within", "jvp of something else"])
def test_differentiating_on_the_way_counts_in_microbatches_too(name: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = MODELS[name]().double()
    check_derivative(trained(tmp_path / "run", model, SGD(model.parameters(), 0.05), blobs(), epochs=2, accumulate=2))


class Overwritten(nn.Module):
    """Writes over what a layer without gradients was given, which training never needs again."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.inside, self.leave = nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.enter(x)) + 0.0
        kept = self.inside(x)
        x *= 2.0
        found: Tensor = self.leave(kept + x)
        return found


def test_inputs_that_were_written_over_are_refused_by_the_layers_name(tmp_path: Path) -> None:
    model = Overwritten().double()
    model.inside.weight.requires_grad_(False)
    model.inside.bias.requires_grad_(False)
    optimizer = SGD(model.parameters(), 0.05)
    run = trained(tmp_path / "run", model, optimizer, blobs(), epochs=1)
    directions: dict[str, Any] = {
        name: Scaled(one) for name, one in drawn(run).items() if not name.startswith("inside")
    }
    with pytest.raises(GradientError, match=r"the inputs of the layer with 'inside.weight' were changed in place"):
        pulled(run, directions)


@pytest.mark.parametrize("name", ["0.weight", "0.bias"])
def test_a_layers_gradient_that_is_not_the_replayed_one_is_refused_by_name(name: str, tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", MODELS["one after the other"]().double())
    made = next(frozen_steps(run, run.segments()[-1], Form(torch.float64, 0.0, 2**20)))[0]
    directions = {key: Scaled(one) for key, one in drawn(run).items()}
    onto = {key: torch.zeros_like(one) for key, one in drawn(run).items()}
    curvature = Curvature(run, torch.float64, 2**20)
    with curvature.at_work():
        curvature.pull(made, 0, directions, onto, {})
        other = replace(made, raw={**made.raw, name: 1.001 * made.raw[name]})
        with pytest.raises(ReplayError, match=rf"step {made.index} the gradient of '{name}'"):
            curvature.pull(other, 0, directions, onto, {})


def interrupted(model: nn.Module) -> None:
    model(torch.ones(2, 3)).sum().backward()
    raise KeyboardInterrupt


def test_an_interruption_stays_one_after_gradients_were_formed_and_an_error_without_them_too() -> None:
    model = MODELS["one after the other"]()
    layers = LinearLayers(model, [name for name, _ in model.named_parameters()])
    with pytest.raises(ZeroDivisionError), layers.watching():
        raise ZeroDivisionError
    with pytest.raises(KeyboardInterrupt), layers.watching():
        interrupted(model)
    with layers.watching():
        model(torch.ones(2, 3)).sum().backward()  # all is autograd's from now on
    assert layers.taps == []
    assert model.get_parameter("0.weight").grad is not None
