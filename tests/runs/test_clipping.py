"""What a loop did to its gradients, done again to others: against the same loop, written out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD

import whence
from tests.audit.training import blobs, tanh_net
from whence._errors import ReplayError
from whence.runs import Run

SIZE = 4  # of a batch
STEP = 1e-6


@dataclass(frozen=True)
class Loop:
    """A training on 20 examples, in order: 5 batches an epoch, of which the last may be a step by itself."""

    bound: float
    together: int = 1  # batches of a step
    divide: float = 1.0
    factor: float = 1.0
    epochs: int = 3
    dtype: torch.dtype = torch.float64

    def run(self, batches: Iterable[Any], weights: Tensor, model: nn.Module, optimizer: SGD) -> None:
        """Train for an epoch, with the weights of the examples inside the loss."""
        for number, (x, y) in enumerate(batches, start=1):
            own = weights[(number - 1) * SIZE : number * SIZE]
            ((own * F.cross_entropy(model(x), y, reduction="none")).mean() / self.divide).backward()
            if number % self.together == 0 or number == 5:
                for parameter in model.parameters():
                    assert parameter.grad is not None
                    parameter.grad *= self.factor
                nn.utils.clip_grad_norm_(model.parameters(), self.bound)
                optimizer.step()
                optimizer.zero_grad()

    def made(self) -> tuple[nn.Module, SGD]:
        """Return where it begins."""
        model = tanh_net(dtype=self.dtype)
        return model, SGD(model.parameters(), 0.3, momentum=0.5)

    def trained(self, weights: Tensor) -> nn.Module:
        """Return the model after it."""
        (x, y), (model, optimizer) = self.data(), self.made()
        for _ in range(self.epochs):
            self.run(zip(x.split(SIZE), y.split(SIZE), strict=True), weights, model, optimizer)
        return model

    def recorded(self, path: Path) -> Run:
        """Return its run."""
        model, optimizer = self.made()
        with whence.record(path, model, optimizer, self.data(), loss=F.cross_entropy) as recorder:
            for _ in range(self.epochs):
                self.run(recorder.batches(batch_size=SIZE, shuffle=False), self.ones(), model, optimizer)
        return whence.open_run(path, self.made()[0], self.data(), loss=F.cross_entropy)

    def data(self) -> tuple[Tensor, Tensor]:
        """Return the training data."""
        return blobs(20, dtype=self.dtype)

    def ones(self) -> Tensor:
        """Return the weights as recorded."""
        return torch.ones(20, dtype=self.dtype)

    def losses(self, weights: Tensor) -> Tensor:
        """Return the losses of two examples after it."""
        x, y = self.data()
        return F.cross_entropy(self.trained(weights)(x[:2]), y[:2], reduction="none").detach()


LOOPS = {
    "always clipped, divided": Loop(0.05, together=2, divide=2),
    "always clipped, not divided": Loop(0.05, together=2),
    "always clipped, divided by the number of all": Loop(0.05, together=3, divide=3),
    "sometimes clipped, divided": Loop(0.25, together=2, divide=2),
    "sometimes clipped, not divided": Loop(0.6, together=2),
    "never clipped, divided": Loop(9.0, together=2, divide=2),
    "a factor, then clipped sometimes": Loop(0.17, factor=0.37, epochs=4),
    "a factor, then clipped sometimes, in steps of three": Loop(0.3, together=3, divide=3, factor=0.37, epochs=6),
}
LEFT_OUT = [*range(8, 20, 2), *range(1, 8)]


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_with_a_shorter_step_is_trained_again_without_examples(name: str, tmp_path: Path) -> None:
    loop = LOOPS[name]
    weights = loop.ones().index_fill(0, torch.tensor(LEFT_OUT), 0.0)
    found = loop.recorded(tmp_path / "run").retrain(without=LEFT_OUT).parameters
    for key, one in loop.trained(weights).named_parameters():
        torch.testing.assert_close(found[key], one.detach(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", LOOPS)
def test_the_derivative_of_a_loop_with_a_shorter_step(name: str, tmp_path: Path) -> None:
    loop = LOOPS[name]
    found = whence.counterfactual(loop.recorded(tmp_path / "run"), loop.data(), ids=[0, 1], smoothness=0).values
    moves = STEP * torch.eye(20, dtype=torch.float64)
    ends = [(loop.losses(loop.ones() - one) - loop.losses(loop.ones() + one)) / (2 * STEP) for one in moves]
    true = torch.stack(ends, 1).numpy()
    np.testing.assert_allclose(found, true, rtol=0, atol=1e-5 * np.abs(true).max())


def test_where_rounding_hides_the_loops_constant_a_step_that_hangs_on_it_is_refused(tmp_path: Path) -> None:
    loop = Loop(0.05, together=2, divide=2, dtype=torch.float32)
    run = loop.recorded(tmp_path / "run")
    assert run.clipping().undecided
    found = run.retrain(without=[3]).parameters  # all of its steps are clipped, too
    for key, one in loop.trained(loop.ones().index_fill(0, torch.tensor([3]), 0.0)).named_parameters():
        torch.testing.assert_close(found[key], one.detach(), rtol=0, atol=1e-5)
    assert np.isfinite(whence.counterfactual(run, loop.data(), ids=[0])).all()
    with pytest.raises(ReplayError, match=r"of 2 batches was clipped, .* cannot be told; leave out fewer examples"):
        run.retrain(without=range(19))
