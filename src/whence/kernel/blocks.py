"""One chunk of targets against all they are compared with, at one state after another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from whence._progress import Advance
from whence.audit.products import fast_products
from whence.kernel.moments import Moment
from whence.kernel.products import Gradients, Scales, first_rows, inner_products, squared_norms, weighed
from whence.kernel.question import Work


@final
@dataclass(frozen=True)
class Found:
    """What one state gave, or several summed; layers in front.

    Attributes:
        products: Of the chunk's targets with their partners.
        norms: Squared norms of the chunk's targets.
        other_norms: Squared norms of the partners; zeros where they are not asked for.
    """

    products: Float[Tensor, "layers targets partners"]
    norms: Float[Tensor, "layers targets"]
    other_norms: Float[Tensor, "layers partners"]

    @classmethod
    def nothing(cls, work: Work, chunk: range) -> Found:
        """Return zeros."""
        layers, rows, columns = len(work.layers), len(chunk), len(work.partners(chunk))
        shapes = ((layers, rows, columns), (layers, rows), (layers, columns))
        dtype, device = work.subject.dtype, work.subject.trained.device
        return cls(*(torch.zeros(shape, dtype=dtype, device=device) for shape in shapes))

    def clear(self) -> None:
        """Start again from 0."""
        for one in (self.products, self.norms, self.other_norms):
            one.zero_()


@final
class Pair:
    """The two sides of a kernel.

    Args:
        work: What is compared.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._targets = work.subject.features(work.targets, work.ids)
        self._others = work.subject.features(work.others, work.other_ids)
        self._rows: int | None = None

    def add(self, found: Found, chunk: range, moment: Moment, advance: Advance) -> None:
        """Add what one state gives to a chunk's sums.

        Args:
            found: The sums.
            chunk: Positions of its targets.
            moment: The state.
            advance: Told of each partner that is done.
        """
        work, budget = self._work, self._work.slab_bytes
        own = [(here, gradients) for here, gradients in self._targets.blocks(moment, chunk, self._block(moment))]
        ready: list[list[tuple[range, Gradients, Scales]]] = [[] for _ in work.layers]
        while own:
            here, gradients = own.pop(0)
            rows = _within(here, chunk)
            for number, part in enumerate(self._by_layer(gradients)):
                found.norms[number, rows] += squared_norms(part, moment.scales, budget)
                ready[number].append((here, *weighed(part, moment.scales)))
        partners = work.partners(chunk)
        for there, gradients in self._others.blocks(moment, partners, self._block(moment)):
            columns = _within(there, partners)
            for number, part in enumerate(self._by_layer(gradients)):
                if not work.symmetric and chunk.start == 0:
                    found.other_norms[number, columns] += squared_norms(part, moment.scales, budget)
                for here, left, rest in ready[number]:
                    self._multiply(found.products[number, :, columns], (here, left, rest), (there, part), chunk)
            advance(len(there))

    def _multiply(
        self, total: Tensor, left: tuple[range, Gradients, Scales], right: tuple[range, Gradients], chunk: range
    ) -> None:
        """Add the products of two blocks; among themselves, only those above the diagonal are needed."""
        (here, gradients, scales), (there, others) = left, right
        if self._work.symmetric:
            needed = min(len(here), there.stop - here.start)
            if needed <= 0:
                return
            here, gradients = here[:needed], first_rows(gradients, needed)
        with fast_products():
            found = inner_products(gradients, others, scales, self._work.slab_bytes, self._work.factors)
        total[_within(here, chunk)] += found

    def _by_layer(self, gradients: Gradients) -> Iterator[Gradients]:
        """Yield the gradients of each layer's parameters; a layer may have none that the loss depends on."""
        for names in self._work.layers.values():
            yield {name: gradients[name] for name in names if name in gradients}

    def _block(self, moment: Moment) -> int:
        """Return how many examples go through the model at once."""
        if self._rows is None:
            passing, _ = self._others.measure(moment)
            self._rows = max(1, self._work.memory_budget // 8 // passing)
        return self._rows


def close(found: Found, chunk: range, work: Work) -> None:
    """Make the sums of a chunk among themselves exactly symmetric, the diagonal the squared norms."""
    if not work.symmetric:
        return
    square = found.products[:, :, : len(chunk)]
    upper = torch.triu(square, diagonal=1)
    square.copy_(upper + upper.transpose(1, 2) + torch.diag_embed(found.norms))


def _within(part: range, whole: range) -> slice:
    return slice(part.start - whole.start, part.stop - whole.start)
