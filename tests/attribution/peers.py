"""What the tests of the adapters share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tests.attribution.networks import data, network
from whence.attribution import attribute

CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-6}


def scores(attributor: Any, kind: str = "perceptron", *, count: int = 40, **options: Any) -> np.ndarray:
    given = {"train_data": data(kind, count), "loss": F.cross_entropy, **options}
    return attribute(attributor, network(kind), data(kind, 7, 1), **given).values


def other(kind: str) -> nn.Module:
    made = network(kind)
    with torch.no_grad():
        for one in made.parameters():
            one.add_(0.3 * torch.randn(one.shape, generator=torch.Generator().manual_seed(5)))
    return made
