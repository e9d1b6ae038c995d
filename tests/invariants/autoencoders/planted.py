"""Activations with a known dictionary, and small models to read them from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def planted(rows: int, width: int, count: int, active: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return sums of ``active`` directions out of ``count``, weighted from 0.5 to 1.5, and the directions."""
    generator = torch.Generator().manual_seed(seed)
    directions = F.normalize(torch.randn(count, width, generator=generator), dim=1)
    chosen = torch.rand(rows, count, generator=generator).argsort(1) < active
    return (chosen * (0.5 + torch.rand(rows, count, generator=generator))) @ directions, directions


def identity() -> nn.Module:
    """Return a model whose layer "0" gives its inputs."""
    return nn.Sequential(nn.Identity())


def convolutional() -> nn.Sequential:
    """Return a classifier of 6 x 6 pictures whose layer "1" gives (examples, 5, 4, 4)."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 3))


def pictures(count: int = 30, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return pictures for `convolutional` and labels."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 6, 6, generator=generator), torch.randint(0, 3, (count,), generator=generator)
