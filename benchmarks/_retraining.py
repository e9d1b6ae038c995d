"""The truth that methods are measured against: losses of networks that were really trained without some examples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks._networks import Data, Setting, train_plain
from whence._numbers import random_ids

_SEEDS_OF_HALVES = 10_000  # so that no half is trained with the seed of a network that is explained
Ids = tuple[int, ...]


@dataclass(frozen=True)
class Truth:
    """What became of the targets when sets of examples were not there.

    Attributes:
        removals: The ids that each set leaves out.
        losses: Of each target after training without them, (sets, targets).
    """

    removals: tuple[Ids, ...]
    losses: NDArray[np.float64]


def removal_sets(count: int, share: float, seeds: Iterable[int]) -> tuple[Ids, ...]:
    """Return random sets of a share of the examples: those that `whence.check` draws with these seeds."""
    size = int(share * count)
    return tuple(random_ids(count, size, seed) for seed in seeds)


def without_sets(
    setting: Setting, data: Data, targets: Data, batches: Sequence[Tensor], removals: tuple[Ids, ...]
) -> Truth:
    """Train again in the same order from the same initialisation, with weight zero for each set (track B)."""

    def ends() -> Iterator[nn.Module]:
        for ids in removals:
            weights = torch.ones(len(data[1]))
            weights[list(ids)] = 0
            yield train_plain(setting, data, batches, weights=weights)

    return Truth(removals, losses_of(ends(), targets))


def of_halves(
    setting: Setting, data: Data, targets: Data, removals: tuple[Ids, ...], *, seed: int, dropout: float
) -> Truth:
    """Train on what each set leaves, each time with a new initialisation, order and dropout (track A)."""

    def ends() -> Iterator[nn.Module]:
        for place, ids in enumerate(removals):
            kept = torch.ones(len(data[1]), dtype=torch.bool)
            kept[list(ids)] = False
            half = (data[0][kept], data[1][kept])
            yield train_plain(setting, half, seed=_SEEDS_OF_HALVES + seed + place, dropout=dropout)

    return Truth(removals, losses_of(ends(), targets))


def losses_of(ends: Iterable[nn.Module], targets: Data) -> NDArray[np.float64]:
    """Return the loss of each target at the end of each training, (trainings, targets)."""
    found = []
    for model in ends:
        model.eval()
        with torch.no_grad():
            found.append(F.cross_entropy(model(targets[0]), targets[1], reduction="none").double().numpy())
    return np.stack(found)
