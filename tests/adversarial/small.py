"""A small recorded training on digits in float64, and slow references."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import whence
from whence.adversarial import Plan, Recipe
from whence.datasets import load_digits
from whence.kernel import Trained
from whence.runs import Run

EPOCHS, BATCH, TRAIN = 3, 50, 200
PLAN = Plan(
    count=3,
    epsilon=0.2,
    modes=12,
    sensitive=12,
    examples=40,
    times=2,
    points=3,
    recipe=Recipe(aim="grow", modes=5, epsilon=3.0, steps=60, step_size=0.05, until_left=True),
)


def digits(split: Literal["train", "test"], count: int) -> tuple[Tensor, Tensor]:
    """Return the first digits in float64, in [0, 1], as vectors."""
    inputs, labels = whence.as_examples(load_digits(split)).batch(range(count))
    return inputs.double().flatten(1), labels


def network() -> nn.Module:
    """Return a small network, always the same."""
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(64, 10), nn.Tanh(), nn.Linear(10, 10)).double()


def recorded(folder: Path) -> Run:
    """Train with recording."""
    model, data = network(), digits("train", TRAIN)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    with whence.record(folder / "run", model, optimizer, data, loss=F.cross_entropy) as recorder:
        for _ in range(EPOCHS):
            for x, y in recorder.batches(BATCH):
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
    return whence.open_run(folder / "run", network(), data, loss=F.cross_entropy)


def gradients(trained: Trained, inputs: Tensor, labels: Tensor) -> Tensor:
    """Return every example's loss gradient by autograd, one example at a time."""
    parameters, rows = list(trained.model.parameters()), []
    for x, y in zip(inputs, labels, strict=True):
        found = torch.autograd.grad(F.cross_entropy(trained.model(x[None]), y[None]), parameters)
        rows.append(torch.cat([one.flatten() for one in found]))
    return torch.stack(rows)
