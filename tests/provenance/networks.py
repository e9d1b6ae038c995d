"""Small data and networks for the tests of provenance networks."""

import torch
from torch import Tensor, nn


def separable(count: int = 24, classes: int = 3, width: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return points around one centre a class, float64."""
    generator = torch.Generator().manual_seed(seed)
    centres = 4 * torch.randn(classes, width, generator=generator, dtype=torch.float64)
    labels = torch.arange(count) % classes
    return centres[labels] + torch.randn(count, width, generator=generator, dtype=torch.float64), labels


def body(width: int = 6, features: int = 16, seed: int = 0) -> nn.Module:
    """Return a small backbone in float64."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(width, features), nn.Tanh()).double()
