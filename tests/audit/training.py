"""Small recorded runs for the audit's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import whence
from whence.runs import Run

Data = tuple[Tensor, Tensor]


def blobs(
    count: int = 12, *, features: int = 3, classes: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Data:
    """Return random inputs with labels that depend on them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, features, generator=generator, dtype=dtype)
    return x, (x @ torch.randn(features, classes, generator=generator, dtype=dtype)).argmax(1)


def tanh_net(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Return a smooth network, so that quadratures converge at their order."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).to(dtype)


def trained(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Any,
    *,
    epochs: int = 3,
    batch_size: int = 5,
    loss: Callable[..., Any] = F.cross_entropy,
    snapshot_every: int = 4,
    after_backward: Callable[[int], object] = lambda _step: None,
    accumulate: int = 1,
    scheduler: Any = None,
) -> Run:
    """Train with recording and open the run."""
    model.train()
    with whence.record(path, model, optimizer, data, loss=loss, snapshot_every=snapshot_every) as recorder:
        for _ in range(epochs):
            for number, (x, y) in enumerate(recorder.batches(batch_size=batch_size, shuffle=True, seed=1)):
                (loss(model(x), y) / accumulate).backward()
                if (number + 1) % accumulate == 0:
                    after_backward(number)
                    optimizer.step()
                    optimizer.zero_grad()
            if scheduler is not None:
                scheduler.step()
    return whence.open_run(path, model, data, loss=loss)
