"""What any method must beat: chance, and the label alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
import xarray as xr
from torch import Tensor

from whence._errors import ArgumentError
from whence._numbers import check_seed
from whence.attribution.scores import label
from whence.audit.chunks import labels_of
from whence.datasets import Examples
from whence.kernel.trained import Trained


@final
@dataclass(frozen=True)
class Random:
    """Standard normal numbers, the same for a target whichever others are scored with it.

    Args:
        seed: Of the numbers.
    """

    seed: int = 0

    def fit(self, trained: Trained, *, memory_budget: int = 2**29) -> FittedRandom:  # noqa: ARG002 - nothing is held
        """Count the training examples; see `Attributor.fit`.

        Raises:
            ArgumentError: If the seed is not a whole number, at least 0.
        """
        check_seed(self.seed)
        return FittedRandom(self.seed, len(trained.examples))


@final
@dataclass(frozen=True)
class FittedRandom:
    """Chance, for any targets."""

    seed: int
    train: int

    def scores(self, targets: Examples, ids: list[int]) -> xr.DataArray:  # noqa: ARG002 - chance knows no data
        """Draw the scores; see `Fitted.scores`."""
        rows = [torch.randn(self.train, generator=self._generator(one)) for one in ids]
        return label(torch.stack(rows), ids, range(self.train), attributor="random", unit="nothing", helps=1)

    def _generator(self, target: int) -> torch.Generator:
        return torch.Generator().manual_seed((self.seed * 2**31 + target) % 2**63)


@final
@dataclass(frozen=True)
class SameClass:
    """1 for a training example of the target's own label, 0 for any other."""

    def fit(self, trained: Trained, *, memory_budget: int = 2**29) -> FittedLabels:  # noqa: ARG002 - little is held
        """Read the training labels; see `Attributor.fit`."""
        return FittedLabels(class_numbers(trained.examples, "training"))


@final
@dataclass(frozen=True)
class FittedLabels:
    """The training labels, for any targets."""

    train: Tensor

    def scores(self, targets: Examples, ids: list[int]) -> xr.DataArray:
        """Compare labels; see `Fitted.scores`."""
        own = class_numbers(targets, "target")[ids]
        same = (own[:, None] == self.train).to(torch.float32)
        return label(same, ids, range(len(self.train)), attributor="same class", unit="same label", helps=1)


def class_numbers(examples: Examples, which: str) -> Tensor:
    """Return the label of every example.

    Raises:
        ArgumentError: If labels are not one whole number each.
    """
    labels = labels_of(examples)
    if labels is None or labels.is_floating_point():
        raise ArgumentError(
            f"The {which} labels are not one whole number per example, so classes cannot be compared. "
            "Choose a method without classes."
        )
    return labels.cpu()
