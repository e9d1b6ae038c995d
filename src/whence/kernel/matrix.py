"""The matrix of all training examples' gradients, which is only ever seen in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from whence._errors import ArgumentError
from whence._numbers import check_budget
from whence._progress import Advance
from whence.audit.products import fast_products
from whence.audit.quantities import Numbers
from whence.datasets import Examples
from whence.kernel.answers import Answered
from whence.kernel.features import Features
from whence.kernel.layout import Layout
from whence.kernel.moments import end_of
from whence.kernel.products import Gradients
from whence.kernel.trained import Trained

_ROWS = 512  # of a block, at most


@final
class GradientMatrix:
    """Φ, one row an example: the gradient of its loss (PLGK, section 6.3), formed anew for each product.

    Where the gradients take less than half the budget in the form in which layers give them, they are kept.

    Args:
        trained: The model.
        examples: Where the examples come from.
        ids: Which of them.
        quantity: What is differentiated.
        names: The parameters.
        memory_budget: Bytes that gradients may take.

    Raises:
        ArgumentError: If the model is in a type of less than 32 bits, or the budget is none.

    Attributes:
        layout: Where each parameter stands in a row.
        rows, columns: How many examples and entries there are.
        rows_at_once: How many rows a block has at most.
        energy: ‖Φ‖_F², once `times` was called.
    """

    def __init__(
        self,
        trained: Trained,
        examples: Examples | Answered,
        ids: Sequence[int],
        quantity: str | Numbers,
        names: tuple[str, ...],
        memory_budget: int,
    ) -> None:
        check_budget(memory_budget)
        self._features = Features(trained, examples, ids, quantity, names)
        self._moment = end_of(trained)
        if self._features.dtype not in {torch.float32, torch.float64}:
            raise ArgumentError(
                f"The model is in {self._features.dtype}, and modes need gradients in float32 or float64. Convert "
                "model and data first (model.float())."
            )
        self.layout = Layout.of(trained.model, names)
        self.dtype, self.device = self._features.dtype, trained.device
        self.rows, self.columns = len(ids), self.layout.parameters
        self.energy = 0.0
        passing, kept = self._features.measure(self._moment)
        row = max(passing, self.columns * torch.empty((), dtype=self.dtype).itemsize)
        self.rows_at_once = max(1, min(_ROWS, memory_budget // 4 // row))
        self._keeps = kept * self.rows <= memory_budget // 2
        self._kept: list[tuple[range, Gradients]] | None = None

    def transposed_times(
        self, left: Float[Tensor, "rows columns"], advance: Advance
    ) -> Float[Tensor, "entries columns"]:
        """Return Φᵀ left, in one pass over the examples."""
        found = left.new_zeros(self.columns, left.shape[1])
        for part, block in self.blocks(advance):
            with fast_products():
                found.addmm_(block.T, left[part.start : part.stop])
        return found

    def normal_times(
        self, right: Float[Tensor, "entries columns"], advance: Advance
    ) -> Float[Tensor, "entries columns"]:
        """Return ΦᵀΦ right, in one pass over the examples."""
        found = torch.zeros_like(right)
        for _, block in self.blocks(advance):
            with fast_products():
                found.addmm_(block.T, block @ right)
        return found

    def times(self, right: Float[Tensor, "entries columns"], advance: Advance) -> Float[Tensor, "rows columns"]:
        """Return Φ right, in one pass over the examples; ``energy`` is ‖Φ‖_F² afterwards."""
        found = right.new_empty(self.rows, right.shape[1])
        self.energy = 0.0
        for part, block in self.blocks(advance):
            with fast_products():
                torch.mm(block, right, out=found[part.start : part.stop])
            self.energy += float(torch.linalg.vector_norm(block, dim=1).double().square().sum())
        return found

    def blocks(self, advance: Advance) -> Iterator[tuple[range, Float[Tensor, "rows entries"]]]:
        """Yield rows, written out; each block is overwritten by the next."""
        space = torch.empty(self.rows_at_once, self.columns, dtype=self.dtype, device=self.device)
        for part, gradients in self._gradients():
            block = space[: len(part)]
            self.layout.written(gradients, block)
            yield part, block
            advance(len(part))

    def _gradients(self) -> Iterator[tuple[range, Gradients]]:
        if self._kept is not None:
            yield from self._kept
            return
        seen: list[tuple[range, Gradients]] = []
        for part, gradients in self._features.blocks(self._moment, range(self.rows), self.rows_at_once):
            if self._keeps:
                seen.append((part, gradients))
            yield part, gradients
        if self._keeps:
            self._kept = seen
