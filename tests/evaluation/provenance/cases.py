"""Small data and networks that the applications are tested on."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from whence.datasets import as_examples, load_digits
from whence.provenance import (
    Branches,
    CosineHead,
    Objective,
    Optimization,
    ProvenanceNetwork,
    one_cycle,
    train,
)

Data = tuple[Tensor, Tensor]
FAST = Optimization(rate=1e-2, batch_size=32, schedule=one_cycle)


def digits(count: int, start: int = 0) -> Data:
    """Return some digits, (count, 1, 8, 8) from 0 to 1."""
    inputs, labels = as_examples(load_digits("train")).batch(range(start, start + count))
    return inputs, labels


def flat_network(data: Any, *, conditional: bool = False, head: Any = CosineHead) -> ProvenanceNetwork:
    """Return a small fully connected network, not trained."""
    width = as_examples(data).batch([0])[0][0].numel()
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(width, 64), nn.ReLU())
    return ProvenanceNetwork(backbone, data, head=head, conditional=conditional, branches=Branches(width=32))


def single(data: Any) -> ProvenanceNetwork:
    """Return a small single-branch network, not trained."""
    width = as_examples(data).batch([0])[0][0].numel()
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(width, 64), nn.ReLU())
    return ProvenanceNetwork(backbone, data, branches=Branches(classes=None, width=32))


@cache
def learned(count: int = 100, conditional: bool = False, epochs: int = 25) -> tuple[ProvenanceNetwork, Data]:
    """Return a network that learned the first digits, and those."""
    data = digits(count)
    torch.manual_seed(0)
    network = flat_network(data, conditional=conditional)
    train(network, data, epochs, objective=Objective(smoothing=0.0), optimization=FAST)
    return network, data


def blobs(classes: int = 3, each: int = 12, width: int = 16, seed: int = 0) -> Data:
    """Return separable classes: far centres, each example a step from its own."""
    generator = torch.Generator().manual_seed(seed)
    centres = 4 * torch.eye(width)[:classes]
    labels = torch.arange(classes).repeat_interleave(each)
    return centres[labels] + torch.randn(len(labels), width, generator=generator) * 0.5, labels
