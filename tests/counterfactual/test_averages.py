"""Batch normalisation: the derivative goes through running averages, which parameters move and the end depends on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam

import whence
from tests.audit.training import Data, blobs, trained
from tests.counterfactual.test_derivative import AGREES, differences
from whence._errors import GradientError
from whence.counterfactual.averages import averaging, end_gradients
from whence.runs import ModelState, Run


def pictures(count: int = 12, *, seed: int = 0) -> Data:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 1, 4, 4, generator=generator, dtype=torch.float64)
    return x, (x.mean((1, 2, 3)) > 0).long() + (x[:, 0, 0, 0] > 0).long()


class Twice(nn.Module):
    """One layer of batch normalisation, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.middle, self.last = (
            nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=0.4), nn.Linear(4, 4), nn.Linear(4, 3),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        once = torch.tanh(self.norm(self.first(x)))
        twice: Tensor = self.last(torch.tanh(self.norm(self.middle(once))))
        return twice


class Slow(nn.BatchNorm1d):
    """Has another momentum."""

    def __init__(self, width: int) -> None:
        super().__init__(width, momentum=0.01)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[..., Data]]] = {
    "1d": (lambda: nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)), blobs),
    "of the inputs": (lambda: nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)), blobs),
    "cumulative": (
        lambda: nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5, momentum=None), nn.Tanh(), nn.Linear(5, 3)),
        blobs,
    ),
    "of a class of one's own": (lambda: nn.Sequential(nn.Linear(3, 5), Slow(5), nn.Tanh(), nn.Linear(5, 3)), blobs),
    "called twice": (Twice, blobs),
    "after another without activation": (
        lambda: nn.Sequential(
            nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh(),
            nn.Linear(8, 3),
        ),
        blobs,
    ),
    "2d": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Conv2d(3, 2, 2), nn.BatchNorm2d(2), nn.Flatten(),
            nn.Linear(2, 3),
        ),
        pictures,
    ),
}  # fmt: skip


def run_of(path: Path, name: str, accumulate: int = 1) -> tuple[Run, Data]:
    make, data = NETWORKS[name]
    torch.manual_seed(0)
    model = make().double()
    optimizer = Adam(model.parameters(), 0.02, eps=1e-3) if name == "2d" else SGD(model.parameters(), 0.1, momentum=0.5)
    return trained(path, model, optimizer, data(), batch_size=6, accumulate=accumulate), data(4, seed=1)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_derivative_goes_through_running_averages(name: str, tmp_path: Path) -> None:
    run, targets = run_of(tmp_path / "run", name)
    found = whence.counterfactual(run, targets, smoothing=0, smoothness=0)
    true = differences(run, targets, range(4))
    assert np.abs(true).max() > 1e-6
    np.testing.assert_allclose(found.values[:, :4], true, rtol=0, atol=AGREES * np.abs(true).max())


def test_the_derivative_goes_through_running_averages_of_microbatches(tmp_path: Path) -> None:
    run, targets = run_of(tmp_path / "run", "1d", accumulate=2)
    found = whence.counterfactual(run, targets, smoothness=0)
    true = differences(run, targets, range(4))
    np.testing.assert_allclose(found.values[:, :4], true, rtol=0, atol=AGREES * np.abs(true).max())


def test_walked_in_chunks_the_averages_count_alike(tmp_path: Path) -> None:
    run, targets = run_of(tmp_path / "run", "1d")
    whole = whence.counterfactual(run, targets, smoothness=0)
    parts = whence.counterfactual(run, targets, smoothness=0, memory_budget=1)
    np.testing.assert_allclose(parts.values, whole.values, rtol=0, atol=1e-12)


def test_gradients_of_the_averages_follow_from_those_of_weight_and_bias() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double().eval()
    x, y = blobs(4)
    state = {
        **{name: one.detach() for name, one in model.named_parameters()},
        **{name: one + 0.3 for name, one in model.named_buffers() if one.is_floating_point()},
    }

    def loss(state: dict[str, Tensor], row: Tensor, label: Tensor) -> Tensor:
        hidden = state["0.weight"] @ row + state["0.bias"]
        normal = (hidden - state["1.running_mean"]) / (state["1.running_var"] + 1e-5).sqrt()
        active = torch.tanh(state["1.weight"] * normal + state["1.bias"])
        return F.cross_entropy(state["3.weight"] @ active + state["3.bias"], label)

    true = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(state, x, y)
    names = {name for name, _ in model.named_parameters()}
    end = ModelState({name: state[name] for name in names}, {k: v for k, v in state.items() if k not in names})
    found = end_gradients(model, {name: true[name] for name in names}, end)
    assert (
        set(found)
        == {"1.running_mean", "1.running_var"}
        == {f"{k}.running_{s}" for k in averaging(model) for s in ("mean", "var")}
    )
    for name, one in found.items():
        np.testing.assert_allclose(one.numpy(), true[name].numpy(), rtol=1e-12)


def test_averages_that_move_before_they_are_normalised_by_in_training_are_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = NETWORKS["1d"][0]().double()
    optimizer, data = SGD(model.parameters(), 0.1), blobs()
    with whence.record(tmp_path / "run", model, optimizer, data, loss=F.cross_entropy) as recorder:
        for epoch in range(2):
            model.train(epoch == 0)
            for x, y in recorder.batches(batch_size=6):
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
    run = whence.open_run(tmp_path / "run", model, data, loss=F.cross_entropy)
    with pytest.raises(GradientError, match="'1' was in evaluation mode at step 2, after it had moved its running"):
        whence.counterfactual(run, data, smoothness=0)


def test_batch_normalisation_without_parameters_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False), nn.Linear(4, 3)).double()
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.1), blobs(), batch_size=6)
    with pytest.raises(GradientError, match=r"'1' is a batch normalisation without a weight and a bias"):
        whence.counterfactual(run, blobs(4, seed=1), smoothness=0)


class Switching(nn.Module):
    """Normalises in both modes in one pass."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.last = nn.BatchNorm1d(3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        first = self.norm(x)
        self.norm.eval()
        second = self.norm(input=first)
        self.norm.train()
        found: Tensor = self.last(second)
        return found


def shared() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 4), nn.BatchNorm1d(4))
    model[4].weight = model[1].weight
    return model.append(nn.Linear(4, 3))


def rewritten() -> nn.Module:
    layer: Any = nn.BatchNorm1d(3)
    layer.forward = MethodType(OnePlus.forward, layer)
    return nn.Sequential(layer, nn.Linear(3, 3))


class Lowered(nn.BatchNorm1d):
    """Takes its running mean away from what it gives."""

    def __call__(self, x: Tensor) -> Tensor:
        found: Tensor = super().__call__(x)
        assert self.running_mean is not None
        return found - self.running_mean


class OnePlus(nn.BatchNorm1d):
    """Scales by one more than its weight."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, 1 + self.weight, self.bias, self.training)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Switching, "'norm' was called in training and in evaluation mode in one forward pass"),
        (shared, r"'[14]' is a batch normalisation without a weight and a bias of its own"),
        (lambda: nn.Sequential(Lowered(3), nn.Linear(3, 3)), r"changed the buffers 0\.running_mean"),
        (rewritten, r"changed the buffers 0\.running_mean"),
        (lambda: nn.Sequential(OnePlus(3), nn.Linear(3, 3)), r"changed the buffers 0\.running_mean"),
    ],
)
def test_layers_whose_averages_are_not_understood_are_refused(
    make: Callable[[], nn.Module], words: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = make().double()
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.1), blobs(), batch_size=6)
    with pytest.raises(GradientError, match=words):
        whence.counterfactual(run, blobs(4, seed=1), smoothness=0)
