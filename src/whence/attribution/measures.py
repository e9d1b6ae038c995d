"""How two vectors are compared: all of one side with all of the other, or pair by pair; higher is more alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from whence._numbers import even_parts

_CLOSE = 1e-4  # of both squared norms: a smaller squared distance has lost too many digits in their difference


@runtime_checkable
class Measure(Protocol):
    """A way to compare vectors."""

    @property
    def inner(self) -> bool:
        """Whether an index orders by inner products of what `ready` gives; otherwise by its squared distances."""
        ...

    def ready(self, vectors: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
        """Return vectors as an index is to hold them."""
        ...

    def ordered(self, scores: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Return, in float64, the inner products or squared distances from which scores are made."""
        ...

    def matrix(
        self, left: Float[Tensor, "targets width"], right: Float[Tensor, "train width"]
    ) -> Float[Tensor, "targets train"]:
        """Return the score of every pair."""
        ...

    def pairs(
        self, left: Float[Tensor, "targets width"], right: Float[Tensor, "targets each width"]
    ) -> Float[Tensor, "targets each"]:
        """Return each left vector's scores with vectors of its own."""
        ...


@final
@dataclass(frozen=True)
class Dot:
    """Inner product."""

    @property
    def inner(self) -> bool:
        """Yes."""
        return True

    def ready(self, vectors: Tensor) -> Tensor:
        """Return them as they are."""
        return vectors

    def ordered(self, scores: Tensor) -> Tensor:
        """Return the scores themselves."""
        return scores.double()

    def matrix(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the score of every pair."""
        return left @ right.T

    def pairs(self, left: Tensor, right: Tensor) -> Tensor:
        """Return each left vector's scores with vectors of its own."""
        return (left[:, None] * right).sum(2)


@final
@dataclass(frozen=True)
class Cosine:
    """Cosine, less a constant.

    Args:
        less: What is taken away from each; 1 makes minus a distance of it.
    """

    less: float = 0.0

    @property
    def inner(self) -> bool:
        """Yes."""
        return True

    def ready(self, vectors: Tensor) -> Tensor:
        """Return them at length 1."""
        return F.normalize(vectors, dim=-1)

    def ordered(self, scores: Tensor) -> Tensor:
        """Return the cosines."""
        return scores.double() + self.less

    def matrix(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the score of every pair."""
        return self.ready(left) @ self.ready(right).T - self.less

    def pairs(self, left: Tensor, right: Tensor) -> Tensor:
        """Return each left vector's scores with vectors of its own."""
        return (self.ready(left)[:, None] * self.ready(right)).sum(2) - self.less


@final
@dataclass(frozen=True)
class Distance:
    """Minus the Euclidean distance."""

    @property
    def inner(self) -> bool:
        """No."""
        return False

    def ready(self, vectors: Tensor) -> Tensor:
        """Return them as they are."""
        return vectors

    def ordered(self, scores: Tensor) -> Tensor:
        """Return the squared distances."""
        return scores.double().square()

    def matrix(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the score of every pair: one matrix product in float64, and pairs too close for that one by one."""
        x, y = left.double(), right.double()
        centre = y.mean(0)
        x, y = x - centre, y - centre
        size = x.square().sum(1)[:, None] + y.square().sum(1)
        squared = size.addmm(x, y.T, alpha=-2)
        close = (squared < _CLOSE * size).nonzero()
        for part in even_parts(range(len(close)), max(1, squared.numel() // x.shape[1])):
            i, j = close[part.start : part.stop].T
            squared[i, j] = (left[i] - right[j]).double().square().sum(1)
        return -squared.clamp_min_(0).sqrt_().to(left.dtype)

    def pairs(self, left: Tensor, right: Tensor) -> Tensor:
        """Return each left vector's scores with vectors of its own."""
        return -(left.double()[:, None] - right.double()).square().sum(2).sqrt().to(left.dtype)
