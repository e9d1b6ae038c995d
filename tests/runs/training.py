"""Tiny trainings that the tests record."""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from whence.runs import Recorder, Run, open_run, record

EXAMPLES, FEATURES, CLASSES = 22, 5, 3


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(EXAMPLES, FEATURES, generator=generator)
    return inputs, torch.randint(0, CLASSES, (EXAMPLES,), generator=generator)


def plain_model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(FEATURES, 6), nn.Tanh(), nn.Linear(6, CLASSES))


def noisy_model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(FEATURES, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.4), nn.Linear(6, CLASSES))


class Tied(nn.Module):
    """Two layers that share one weight, a 0-dim parameter, and a parameter that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(FEATURES, FEATURES)
        self.second = nn.Linear(FEATURES, FEATURES)
        self.second.weight = self.first.weight
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.unused = nn.Parameter(torch.ones(4))
        self.last = nn.Linear(FEATURES, CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.last(self.scale * torch.tanh(self.second(torch.tanh(self.first(inputs)))))
        return outputs


def tied_model() -> nn.Module:
    torch.manual_seed(3)
    return Tied()


class OwnNorm(nn.Module):
    """Batch normalisation whose buffers change without a change of their version."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("variance", torch.ones(6))

    def forward(self, inputs: Tensor) -> Tensor:
        return F.batch_norm(inputs, self.get_buffer("mean"), self.get_buffer("variance"), training=self.training)


def own_norm_model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(FEATURES, 6), OwnNorm(), nn.ReLU(), nn.Linear(6, CLASSES))


def adam(model: nn.Module) -> Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.02)


def nothing(_model: nn.Module, _optimizer: Optimizer) -> None:
    """Do nothing to the gradient."""


@dataclass(frozen=True)
class Recipe:
    """What differs between trainings; the loop is the same plain one."""

    model: Callable[[], nn.Module] = plain_model
    optimizer: Callable[[nn.Module], Optimizer] = adam
    loss: Any = F.cross_entropy
    loss_of: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    between: Callable[[nn.Module, Optimizer], None] = nothing  # backward and step
    after_step: Callable[[nn.Module, Optimizer, int], None] = lambda _model, _optimizer, _step: None
    accumulate: int = 1
    divide: float = 1.0
    group_at_end: bool = False  # whether an epoch's last batches are a smaller group, or go with the next epoch's
    to_none: bool = True
    epochs: int = 3
    batch_size: int = 4
    context: Callable[[], Any] = field(default=nullcontext)

    def train(self, model: nn.Module, optimizer: Optimizer, epochs: Iterable[Iterable[Any]]) -> int:
        steps = 0
        for batches in epochs:
            for number, (inputs, labels) in enumerate(batches, start=1):
                last = self.group_at_end and number * self.batch_size >= EXAMPLES
                with self.context():
                    loss = self.loss_of(model(inputs), labels)
                (loss / self.divide).backward()
                if number % self.accumulate and not last:
                    continue
                self.between(model, optimizer)
                optimizer.step()
                optimizer.zero_grad(set_to_none=self.to_none)
                steps += 1
                self.after_step(model, optimizer, steps)
        return steps

    def record(self, path: Path, *, snapshot_every: int = 4) -> tuple[nn.Module, Run]:
        """Record the training; return the trained model and the run."""
        model = self.model()
        optimizer = self.optimizer(model)
        torch.manual_seed(11)
        with record(path, model, optimizer, data(), loss=self.loss, snapshot_every=snapshot_every) as recorder:
            self.train(model, optimizer, self.epochs_of(recorder))
        return model, self.open(path)

    def epochs_of(self, recorder: Recorder) -> Iterable[Iterable[Any]]:
        return (recorder.batches(self.batch_size) for _ in range(recorder.epoch, self.epochs))

    def open(self, path: Path) -> Run:
        return open_run(path, self.model(), data(), loss=self.loss)


def equal(first: nn.Module, second: nn.Module) -> bool:
    """Return whether two models are equal bit by bit."""
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(name == other and torch.equal(value, found) for (name, value), (other, found) in pairs)
