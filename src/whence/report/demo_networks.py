"""The networks of the demonstration."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional


def small_network() -> nn.Module:
    """Return a convolutional network for 8 × 8 digits: 4,858 parameters, the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SmallNet()


def lenet5() -> nn.Module:
    """Return LeNet-5 (LeCun et al., 1998) with ReLU and max-pooling: 61,706 parameters, the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LeNet5()


@final
class SmallNet(nn.Module):
    """The network of the digits; smooth, so that a quadrature of high order comes very close."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.dense1 = nn.Linear(16 * 2 * 2, 48)
        self.dense2 = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (examples, 10) of digits (examples, 1, 8, 8)."""
        x = functional.avg_pool2d(torch.tanh(self.conv1(x)), 2)
        x = functional.avg_pool2d(torch.tanh(self.conv2(x)), 2)
        logits: Tensor = self.dense2(torch.tanh(self.dense1(x.flatten(1))))
        return logits


@final
class LeNet5(nn.Module):
    """The network of MNIST."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.dense1 = nn.Linear(400, 120)
        self.dense2 = nn.Linear(120, 84)
        self.dense3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (examples, 10) of digits (examples, 1, 28, 28)."""
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = functional.relu(self.dense2(functional.relu(self.dense1(x.flatten(1)))))
        logits: Tensor = self.dense3(x)
        return logits
