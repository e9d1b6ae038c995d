"""The gradients of every example with respect to one parameter, in the forms layers give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from whence._errors import ShapeError


@runtime_checkable
class PerExample(Protocol):
    """Per-example gradients of one parameter, made on demand.

    A parameter without dimensions is treated as one of shape ``(1,)``.
    """

    @property
    def examples(self) -> int:
        """How many examples there are."""
        ...

    @property
    def shape(self) -> torch.Size:
        """Shape of the parameter."""
        ...

    def part(
        self, start: int, stop: int, out: Float[Tensor, "examples part"] | None = None
    ) -> Float[Tensor, "examples part"]:
        """Return the gradients of rows ``start`` to ``stop`` of the parameter's first axis.

        Args:
            start, stop: The rows, as in a slice, both within the parameter.
            out: Where to write; contents are overwritten. Without it the result may be a view of
                what this object holds, so do not write to it.

        Returns:
            One flattened gradient an example, of length ``(stop - start) * prod(shape[1:])``.
        """
        ...

    def dot(self, direction: Float[Tensor, "*parameter"]) -> Float[Tensor, "examples"]:
        """Return each example's scalar product with a tensor of the parameter's shape."""
        ...

    def to(self, dtype: torch.dtype) -> PerExample:
        """Return the same gradients in another floating-point type."""
        ...


@final
@dataclass(frozen=True, eq=False)
class Dense:
    """Gradients that are written out: one tensor of the parameter's shape an example."""

    values: Float[Tensor, "examples *parameter"]

    @property
    def examples(self) -> int:
        """How many examples there are."""
        return self.values.shape[0]

    @property
    def shape(self) -> torch.Size:
        """Shape of the parameter."""
        return self.values.shape[1:]

    def part(
        self, start: int, stop: int, out: Float[Tensor, "examples part"] | None = None
    ) -> Float[Tensor, "examples part"]:
        """Return rows ``start`` to ``stop``, flattened; see `PerExample.part`."""
        rows = self.values[:, start:stop].flatten(1)
        return rows if out is None else out.copy_(rows)

    def dot(self, direction: Float[Tensor, "*parameter"]) -> Float[Tensor, "examples"]:
        """Return each example's scalar product with ``direction``."""
        matching(direction, self.shape)
        return self.values.flatten(1) @ direction.reshape(-1).to(self.values.dtype)

    def to(self, dtype: torch.dtype) -> Dense:
        """Return the same gradients in another floating-point type."""
        return Dense(self.values.to(dtype))


@final
@dataclass(frozen=True, eq=False)
class Sum:
    """Gradients of a parameter that takes part in several ways: the sum of what each gives."""

    terms: tuple[PerExample, ...]

    @property
    def examples(self) -> int:
        """How many examples there are."""
        return self.terms[0].examples

    @property
    def shape(self) -> torch.Size:
        """Shape of the parameter."""
        return self.terms[0].shape

    def part(
        self, start: int, stop: int, out: Float[Tensor, "examples part"] | None = None
    ) -> Float[Tensor, "examples part"]:
        """Return rows ``start`` to ``stop``, flattened; see `PerExample.part`."""
        first, *others = (term.part(start, stop) for term in self.terms)
        total = first.clone() if out is None else out.copy_(first)
        for term in others:
            total += term
        return total

    def dot(self, direction: Float[Tensor, "*parameter"]) -> Float[Tensor, "examples"]:
        """Return each example's scalar product with ``direction``."""
        return torch.stack([term.dot(direction) for term in self.terms]).sum(0)

    def to(self, dtype: torch.dtype) -> Sum:
        """Return the same gradients in another floating-point type."""
        return Sum(tuple(term.to(dtype) for term in self.terms))


def matching(direction: Tensor, shape: Sequence[int]) -> None:
    """Refuse a direction that has not the parameter's shape.

    Raises:
        ShapeError: If it has not (a parameter without dimensions also takes a scalar).
    """
    if tuple(direction.shape) != tuple(shape) and not (direction.dim() == 0 and tuple(shape) == (1,)):
        raise ShapeError(
            f"The direction must have the parameter's shape {tuple(shape)}; "
            f"got {tuple(direction.shape)}. Give one tensor shaped like the parameter."
        )
