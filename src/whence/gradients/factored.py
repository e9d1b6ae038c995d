"""Per-example gradients kept as factors: outer products, and rows of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whence.gradients.per_example import Dense, PerExample, Sum, matching


@final
@dataclass(frozen=True, eq=False)
class Outer:
    """Gradients of a weight applied at several positions: g_i = Σ_l e_il ⊗ a_il.

    Args:
        rows: The layer's output gradients e.
        columns: The layer's inputs a.
        shape: Shape of the parameter, ``(rows, ...)`` with ``columns`` numbers a row.
    """

    rows: Float[Tensor, "examples positions rows"]
    columns: Float[Tensor, "examples positions columns"]
    shape: torch.Size

    @property
    def examples(self) -> int:
        """How many examples there are."""
        return self.rows.shape[0]

    def part(
        self, start: int, stop: int, out: Float[Tensor, "examples part"] | None = None
    ) -> Float[Tensor, "examples part"]:
        """Return rows ``start`` to ``stop``, flattened; see `PerExample.part`."""
        rows = self.rows[:, :, start:stop]
        if out is None:
            out = rows.new_empty(self.examples, rows.shape[2] * self.columns.shape[2])
        block = out.view(self.examples, rows.shape[2], self.columns.shape[2])
        if self.rows.shape[1] == 1:
            torch.mul(rows.transpose(1, 2), self.columns, out=block)
        else:
            torch.bmm(rows.transpose(1, 2), self.columns, out=block)
        return out

    def dot(self, direction: Float[Tensor, "*parameter"]) -> Float[Tensor, "examples"]:
        """Return Σ_l e_il · (direction a_il), without forming the outer products."""
        matching(direction, self.shape)
        weight = direction.reshape(self.rows.shape[2], -1).to(self.rows.dtype)
        return (self.rows * (self.columns @ weight.T)).sum((1, 2))

    def to(self, dtype: torch.dtype) -> Outer:
        """Return the same gradients in another floating-point type."""
        return Outer(self.rows.to(dtype), self.columns.to(dtype), self.shape)


@final
@dataclass(frozen=True, eq=False)
class Scatter:
    """Gradients of a table of which each example looks up a few rows.

    Args:
        indices: Which row each position looked up.
        values: The gradient that each position sends to its row.
        shape: Shape of the table.
    """

    indices: Int[Tensor, "examples positions"]
    values: Float[Tensor, "examples positions columns"]
    shape: torch.Size

    @property
    def examples(self) -> int:
        """How many examples there are."""
        return self.indices.shape[0]

    def part(
        self, start: int, stop: int, out: Float[Tensor, "examples part"] | None = None
    ) -> Float[Tensor, "examples part"]:
        """Return rows ``start`` to ``stop``, flattened; see `PerExample.part`."""
        count, columns = stop - start, self.values.shape[2]
        example, position = ((self.indices >= start) & (self.indices < stop)).nonzero(as_tuple=True)
        slot = example * count + self.indices[example, position] - start
        found = self.values.new_zeros(self.examples * count, columns)
        found.index_add_(0, slot, self.values[example, position])
        flat = found.reshape(self.examples, count * columns)
        return flat if out is None else out.copy_(flat)

    def dot(self, direction: Float[Tensor, "*parameter"]) -> Float[Tensor, "examples"]:
        """Return Σ_l value_il · direction[index_il], without forming the table."""
        matching(direction, self.shape)
        looked_up = direction.reshape(self.shape[0], self.values.shape[2]).to(self.values.dtype)[self.indices]
        return (self.values * looked_up).sum((1, 2))

    def to(self, dtype: torch.dtype) -> Scatter:
        """Return the same gradients in another floating-point type."""
        return Scatter(self.indices, self.values.to(dtype), self.shape)


def summed(terms: Sequence[PerExample]) -> PerExample:
    """Add up what several calls give one parameter.

    Outer products join along the positions, tensors add up, the rest stays a sum of terms.
    """
    outers = [term for term in terms if isinstance(term, Outer)]
    denses = [term for term in terms if isinstance(term, Dense)]
    left = [term for term in terms if not isinstance(term, Outer | Dense)]
    if len(outers) > 1:
        rows = torch.cat([term.rows for term in outers], 1)
        columns = torch.cat([term.columns for term in outers], 1)
        outers = [Outer(rows, columns, outers[0].shape)]
    if len(denses) > 1:
        denses = [Dense(torch.stack([term.values for term in denses]).sum(0))]
    joined: tuple[PerExample, ...] = (*outers, *denses, *left)
    return joined[0] if len(joined) == 1 else Sum(joined)
