"""The derivative with respect to examples' weights, against training again with these weights moved a little."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import ExponentialLR

import whence
from tests.audit.training import Data, blobs, tanh_net, trained
from whence.runs import Run

STEP = 1e-6  # of a weight: central differences err by STEP² of the third derivative and by rounding / STEP
AGREES = 1e-5  # relative to the largest entry
ROUNDING = 1e-12

OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": lambda p: SGD(p, 0.1),
    "SGD, coupled decay": lambda p: SGD(p, 0.1, weight_decay=0.3),
    "momentum, dampened": lambda p: SGD(p, 0.1, momentum=0.8, dampening=0.3, weight_decay=0.1),
    "Nesterov": lambda p: SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
    "maximizing": lambda p: SGD(p, 0.01, momentum=0.5, maximize=True),
    "RMSprop": lambda p: RMSprop(p, 0.01, alpha=0.9, eps=1e-3, weight_decay=0.1),
    "RMSprop, centered, momentum": lambda p: RMSprop(p, 0.005, eps=1e-2, momentum=0.6, centered=True),
    "Adagrad": lambda p: Adagrad(p, 0.05, lr_decay=0.1, eps=1e-3),
    "Adam": lambda p: Adam(p, 0.02, eps=1e-3, weight_decay=0.1),
    "Adam, amsgrad": lambda p: Adam(p, 0.02, betas=(0.9, 0.6), eps=1e-3, amsgrad=True),
    "AdamW": lambda p: AdamW(p, 0.02, eps=1e-3, weight_decay=0.5),
}


def clip_norm(model: nn.Module, order: float = 2.0) -> Callable[[int], object]:
    return lambda _step: nn.utils.clip_grad_norm_(model.parameters(), 0.25, norm_type=order)


def clip_layers(model: nn.Module) -> Callable[[int], object]:
    def clip(_step: int) -> None:
        for layer in model.children():
            if list(layer.parameters()):
                nn.utils.clip_grad_norm_(layer.parameters(), 0.15)

    return clip


def clip_values(model: nn.Module) -> Callable[[int], object]:
    return lambda _step: nn.utils.clip_grad_value_(model.parameters(), 0.05)


def double_then_clip(model: nn.Module) -> Callable[[int], object]:
    def change(_step: int) -> None:
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad *= 2
        nn.utils.clip_grad_norm_(model.parameters(), 0.25)

    return change


CLIPPING: dict[str, Callable[[nn.Module], Callable[[int], object]]] = {
    "2-norm": clip_norm,
    "largest entry": lambda model: clip_norm(model, float("inf")),
    "layer by layer": clip_layers,
    "values": clip_values,
}


def run_of(path: Path, make: Callable[[Any], Optimizer], data: Data | None = None, **options: Any) -> Run:
    model = tanh_net()
    optimizer = make(model.parameters())
    clip = options.pop("clip", None)
    if clip is not None:
        options["after_backward"] = clip(model)
    if options.pop("schedule", False):
        options["scheduler"] = ExponentialLR(optimizer, 0.7)
    return trained(path, model, optimizer, data or blobs(), **options)


def losses_at(run: Run, targets: Data, **moved: Any) -> Tensor:
    """Return the targets' losses after training again."""
    state = run.retrain(**moved)
    run.model.eval()
    outputs = torch.func.functional_call(run.model, {**state.parameters, **state.buffers}, (targets[0],))
    return F.cross_entropy(outputs, targets[1], reduction="none").detach()


def differences(run: Run, targets: Data, examples: range) -> np.ndarray:
    """Return minus the central differences of the targets' losses, (targets, examples)."""
    columns = [
        (losses_at(run, targets, weights={one: 1 - STEP}) - losses_at(run, targets, weights={one: 1 + STEP}))
        / (2 * STEP)
        for one in examples
    ]
    return torch.stack(columns, 1).numpy()


def check_derivative(run: Run, examples: range = range(4)) -> None:
    targets = blobs(4, seed=1)
    found = whence.counterfactual(run, targets, smoothing=0, smoothness=0)
    true = differences(run, targets, examples)
    assert np.abs(true).max() > 1e-6
    np.testing.assert_allclose(found.values[:, list(examples)], true, rtol=0, atol=AGREES * np.abs(true).max())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_derivative_is_that_of_training_again(name: str, tmp_path: Path) -> None:
    check_derivative(run_of(tmp_path / "run", OPTIMIZERS[name]))


@pytest.mark.parametrize("name", CLIPPING)
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_the_derivative_goes_through_clipping(name: str, optimizer: str, tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", OPTIMIZERS[optimizer], clip=CLIPPING[name])
    assert run.clipping().norms or run.clipping().bound < float("inf")
    check_derivative(run)


@pytest.mark.parametrize(
    "options",
    [{"schedule": True}, {"accumulate": 2}, {"accumulate": 3, "clip": clip_norm}, {"clip": double_then_clip}],
    ids=["schedule", "accumulation", "accumulation and clipping", "a factor of the loop's own and clipping"],
)
def test_the_derivative_goes_through_what_the_loop_does(options: dict[str, Any], tmp_path: Path) -> None:
    check_derivative(run_of(tmp_path / "run", OPTIMIZERS["momentum, dampened"], batch_size=4, **options))


def test_a_sum_in_place_of_a_mean_is_differentiated_at_its_own_divisor(tmp_path: Path) -> None:
    def summed(outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs, labels, reduction="sum")

    check_derivative(run_of(tmp_path / "run", lambda p: SGD(p, 0.02), loss=summed))


def test_a_batch_that_is_fitted_exactly_has_the_curvature_of_its_sum(tmp_path: Path) -> None:
    """With x = y = 1 twice, then 1/2 twice, w goes from 0 to 1 and stays there; its derivative goes down to 1 - 1/4."""

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        return 0.5 * (outputs - labels).square().sum()

    x = torch.tensor([[1.0], [1.0], [0.5], [0.5]], dtype=torch.float64)
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    optimizer = SGD(model.parameters(), 0.5)
    with whence.record(tmp_path / "run", model, optimizer, (x, x), loss=loss) as recorder:
        for inputs, labels in recorder.batches(batch_size=2, shuffle=False):
            optimizer.zero_grad()
            loss(model(inputs), labels).backward()
            optimizer.step()
    run = whence.open_run(tmp_path / "run", model, (x, x), loss=loss)
    targets = (torch.ones(1, 1, dtype=torch.float64), torch.full((1, 1), 2.0, dtype=torch.float64))
    found = whence.counterfactual(run, targets, smoothness=0)
    np.testing.assert_allclose(found.values, [[0.75 * 0.5, 0.75 * 0.5, 0, 0]], rtol=1e-12)


class Attention(nn.Module):
    """Attention over the parts of an input, as torch has it, fused where it may."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(1, 4), nn.Linear(4, 3)
        self.inside = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, activation="gelu", batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.leave(self.inside(self.enter(x[:, :, None])).mean(1))
        return found


class Recurrent(nn.Module):
    """An LSTM over the parts of an input."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.leave = nn.LSTM(1, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.leave(self.inside(x[:, :, None])[0][:, -1])
        return found


MODELS: dict[str, Callable[[], nn.Module]] = {
    "attention": Attention,
    "LSTM": Recurrent,
    "dropout": lambda: nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Dropout(0.4), nn.Linear(16, 3)),
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 4, 2), nn.GELU(), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(8, 3)
    ),
    "normalisation": lambda: nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.SiLU(), nn.Linear(6, 3)),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_derivative_goes_through_the_layers_that_people_use(name: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = MODELS[name]().double()
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.05, momentum=0.5), blobs(), epochs=2)
    check_derivative(run)


def test_descent_on_a_linear_model_has_the_derivative_of_its_closed_form(tmp_path: Path) -> None:
    """θ_t = θ* + A^t (θ_0 - θ*) with A = I - η XᵀX / n, so dθ_T/dw_m = -η/n Σ_t A^(T-1-t) x_m (x_m·θ_t - y_m)."""
    rate, steps = 0.2, 30
    x, _ = blobs(10, seed=4)
    y = torch.randn(10, 1, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    model = nn.Linear(3, 1, bias=False).double()
    begun = model.weight.detach().clone().reshape(-1)

    def squared(outputs: Tensor, labels: Tensor) -> Tensor:
        return 0.5 * (outputs - labels).square().sum(1)

    path = tmp_path / "run"
    optimizer = SGD(model.parameters(), rate)
    with whence.record(path, model, optimizer, (x, y), loss=squared) as recorder:
        for _ in range(steps):
            for inputs, labels in recorder.batches(batch_size=10):
                optimizer.zero_grad()
                squared(model(inputs), labels).mean().backward()
                optimizer.step()
    run = whence.open_run(path, model, (x, y), loss=squared)
    found = whence.counterfactual(run, (x[:4], y[:4]), smoothing=0, smoothness=0)

    moment = x.T @ x / 10
    best = torch.linalg.solve(moment, x.T @ y / 10).reshape(-1)
    step = torch.eye(3, dtype=torch.float64) - rate * moment
    ends = torch.zeros(10, 3, dtype=torch.float64)
    for t in range(steps):
        now = best + torch.linalg.matrix_power(step, t) @ (begun - best)
        error = (x @ now)[:, None] - y
        ends -= rate / 10 * (error * x) @ torch.linalg.matrix_power(step, steps - 1 - t).T
    last = best + torch.linalg.matrix_power(step, steps) @ (begun - best)
    slopes = ((x[:4] @ last)[:, None] - y[:4]) * x[:4]
    np.testing.assert_allclose(found.values, -(slopes @ ends.T).numpy(), rtol=0, atol=ROUNDING)


def test_the_derivative_goes_through_weight_normalisation(tmp_path: Path) -> None:
    x, y = torch.randn(9, 2, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64), blobs(9)[1]

    def make() -> nn.Module:
        torch.manual_seed(0)
        layers = [weight_norm(nn.Conv1d(2, 3, 2)), nn.Tanh(), nn.Flatten(), weight_norm(nn.Linear(12, 3)), nn.Tanh()]
        return nn.Sequential(*layers, weight_norm(nn.Linear(3, 3), dim=1)).double()

    def end(weights: Tensor) -> Tensor:
        model = make()
        optimizer = SGD(model.parameters(), 0.2, momentum=0.5)
        for _ in range(5):
            optimizer.zero_grad()
            (weights * F.cross_entropy(model(x), y, reduction="none")).mean().backward()
            optimizer.step()
        return F.cross_entropy(model(x[:2]), y[:2], reduction="none").detach()

    model, normalised = make(), torch._weight_norm
    optimizer = SGD(model.parameters(), 0.2, momentum=0.5)
    run = trained(tmp_path / "run", model, optimizer, (x, y), batch_size=9, epochs=5)
    found = whence.counterfactual(run, (x, y), ids=[0, 1], smoothness=0).values
    moves = STEP * torch.eye(9, dtype=torch.float64)
    true = torch.stack([(end(1 - one) - end(1 + one)) / (2 * STEP) for one in moves], 1).numpy()
    np.testing.assert_allclose(found, true, rtol=0, atol=AGREES * np.abs(true).max())
    assert torch._weight_norm is normalised
