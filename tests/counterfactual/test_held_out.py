"""Counterfactuals with held-out outputs, against training again without each example."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.optim import SGD

import whence
from tests.audit.training import blobs, tanh_net, trained
from whence._errors import ArgumentError, AuditError, GradientError
from whence.runs import ModelState, Run, retrain

MODULE = importlib.import_module("whence.counterfactual.held_out")
ONES = torch.ones(12, dtype=torch.float64)


def output(outputs: Tensor, _labels: Tensor) -> Tensor:
    return outputs[:, 0]


@pytest.mark.parametrize("batch_size", [3, 8])
def test_leave_one_out_of_least_squares_is_exact_with_one_part_an_example(batch_size: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = (torch.randn(8, 3, dtype=torch.float64), torch.randn(8, 1, dtype=torch.float64))
    model = nn.Linear(3, 1).double()
    optimizer = SGD(model.parameters(), 0.2, momentum=0.5, weight_decay=0.01)
    run = trained(tmp_path / "run", model, optimizer, data, loss=F.mse_loss, batch_size=batch_size)
    targets = (torch.randn(2, 3, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64))

    found = whence.counterfactual(run, targets, quantity=output, smoothness=0, held_out=8)

    def predictions(without: list[int]) -> np.ndarray:
        state = run.retrain(without)
        found = torch.func.functional_call(run.model, state.parameters, (targets[0],))
        return np.asarray(found[:, 0].detach())

    true = np.stack([predictions([one]) - predictions([]) for one in range(8)], 1)
    derivative = whence.counterfactual(run, targets, quantity=output, smoothness=0)
    np.testing.assert_allclose(found.values, true, rtol=0, atol=1e-12)
    assert np.abs(derivative.values - true).max() > 1e-2 * np.abs(true).max()
    assert found.attrs["held_out"] == 8


def test_held_out_outputs_predict_removals_better_than_the_derivative(tmp_path: Path) -> None:
    data, targets = blobs(24), blobs(6, seed=1)
    model = tanh_net()
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.05, momentum=0.9), data)
    errors = []
    for held_out in (0, 24):
        effects = whence.counterfactual(run, targets, smoothness=0, held_out=held_out)
        check = whence.check(effects, 1, seeds=12)
        errors.append(float(np.abs(check.data["predicted"] - check.data["retrained"]).sum()))
    assert errors[1] < 0.8 * errors[0]


def test_one_part_is_refused(tmp_path: Path) -> None:
    model = tanh_net()
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.1), blobs())
    with pytest.raises(ArgumentError, match="`held_out` is a number of parts, at least 2, or 0 for none; got 1"):
        whence.counterfactual(run, blobs(2, seed=1), held_out=1)


def test_without_outputs_that_differ_from_the_recorded_ones_it_is_the_derivative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tanh_net()
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.1), blobs())
    targets = blobs(3, seed=1)
    monkeypatch.setattr(MODULE, "retrain", lambda run, _weights, watch: retrain(run, ONES, watch))
    found = whence.counterfactual(run, targets, smoothness=0, held_out=2)
    derivative = whence.counterfactual(run, targets, smoothness=0)
    np.testing.assert_allclose(found.values, derivative.values, rtol=0, atol=1e-12)


def test_a_training_without_a_part_is_not_made_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tanh_net()
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.1), blobs())
    targets = blobs(3, seed=1)
    whole = whence.counterfactual(run, targets, smoothness=0, held_out=4, processes=1)
    made = []

    def stopping(run: Run, weights: Tensor, watch: Any) -> ModelState:
        made.append(int((weights == 0).nonzero()[0]))
        if len(made) == 3:
            raise KeyboardInterrupt
        return retrain(run, weights, watch)

    monkeypatch.setattr(MODULE, "retrain", stopping)
    with pytest.raises(KeyboardInterrupt):
        whence.counterfactual(run, targets, smoothness=0, held_out=4, processes=1, path=tmp_path / "effects")
    with pytest.raises(AuditError, match=r"held_out differ"):
        whence.counterfactual(run, targets, smoothness=0, held_out=3, path=tmp_path / "effects")
    found = whence.counterfactual(run, targets, smoothness=0, held_out=4, processes=1, path=tmp_path / "effects")
    assert len(made) == 5  # two that ended, the one that was stopped, and the two that were left
    np.testing.assert_array_equal(found.values, whole.values)


def test_several_processes_give_the_same(tmp_path: Path) -> None:
    model = tanh_net()
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.1), blobs(), accumulate=2)
    targets = blobs(3, seed=1)
    one, two = (whence.counterfactual(run, targets, smoothness=0, held_out=5, processes=n) for n in (1, 2))
    np.testing.assert_allclose(two.values, one.values, rtol=0, atol=1e-12)


def test_the_verdict_is_about_leaving_sets_out(tmp_path: Path) -> None:
    model = tanh_net()
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.1), blobs())
    found = whence.counterfactual(run, blobs(3, seed=1), held_out=3, smoothness=1)
    assert found.attrs["smoothness_steps"] == [1.0]
    assert re.match(r"(good|fair|poor): on 1 random set .* when they are left out", found.attrs["verdict"])


def test_outputs_beyond_the_budget_are_refused_with_what_they_need(tmp_path: Path) -> None:
    model = tanh_net()
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.1), blobs())
    needed = 12 * 3 * 3 * 8  # examples, epochs, outputs, bytes
    with pytest.raises(ArgumentError, match=f"Raise `memory_budget` fourfold to {needed * 4} or leave `held_out` at 0"):
        whence.counterfactual(run, blobs(2, seed=1), held_out=2, memory_budget=100)
    whence.counterfactual(run, blobs(2, seed=1), held_out=2, memory_budget=needed * 4, smoothness=0)


class Named(nn.Module):
    """Gives back its outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3).double()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.layer(x)}


def named_loss(outputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    return F.cross_entropy(outputs["logits"], labels, reduction="none")


def test_outputs_that_are_no_tensor_are_refused(tmp_path: Path) -> None:
    model = Named()
    run = trained(
        tmp_path / "run",
        model,
        SGD(model.parameters(), 0.1),
        blobs(),
        loss=lambda outputs, labels: named_loss(outputs, labels).mean(),
    )
    with pytest.raises(ArgumentError, match="one tensor of float32 or float64; this one gives back dict"):
        whence.counterfactual(run, blobs(2, seed=1), held_out=2)


class Once(torch.autograd.Function):
    """Squared error, differentiable once."""

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, labels: Tensor) -> Tensor:
        ctx.save_for_backward(outputs, labels)
        return (outputs - labels).square().sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        outputs, labels = ctx.saved_tensors
        return 2 * (outputs - labels) * gradient[:, None], None


def once(outputs: Tensor, labels: Tensor) -> Tensor:
    found: Tensor = Once.apply(outputs, labels)  # type: ignore[no-untyped-call]
    return found.mean()


def test_a_loss_without_second_derivative_is_refused_before_any_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tanh_net()
    data = (torch.randn(12, 3, dtype=torch.float64), torch.randn(12, 3, dtype=torch.float64))
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.1), data, loss=once)
    monkeypatch.setattr(MODULE, "retrain", lambda *_: pytest.fail("a training was made"))
    with pytest.raises(GradientError, match="once_differentiable"):
        whence.counterfactual(run, data, quantity=output, smoothness=0, held_out=4)


def test_after_a_refusal_the_call_may_be_made_without(tmp_path: Path) -> None:
    model = tanh_net()
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.1), blobs())
    with pytest.raises(ArgumentError, match="leave `held_out` at 0"):
        whence.counterfactual(run, blobs(2, seed=1), held_out=2, memory_budget=100, path=tmp_path / "effects")
    whence.counterfactual(run, blobs(2, seed=1), smoothness=0, path=tmp_path / "effects")
