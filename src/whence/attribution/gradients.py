"""Scores that compare gradients of targets with gradients of training examples: one engine for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from whence._numbers import check_budget, even_parts
from whence._progress import Advance, progress
from whence.attribution.scores import label
from whence.audit.products import fast_products
from whence.audit.quantities import Numbers
from whence.datasets import Examples
from whence.kernel.features import Features
from whence.kernel.moments import Moment
from whence.kernel.products import Gradients, inner_products, squared_norms, weighed
from whence.kernel.trained import Trained

_MEASURED = 64  # targets and training examples of which projected scores are compared with exact ones
_LEAST = 2**20  # bytes that a slab of written-out gradients may always take


@final
@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Attributes:
        attributor: What the scores are called.
        names: The parameters.
        quantity: Of the targets.
        cosine: Whether products are divided by both gradients' norms.
        unit: What a score of 1 means where nothing is divided; ``{quantity}`` stands for the quantity's unit.
        projection: Numbers to project each parameter's gradient to, or None.
        transform: What is done to the targets' gradients before they are compared, or None.
    """

    attributor: str
    names: tuple[str, ...]
    quantity: str | Numbers
    cosine: bool
    unit: str
    projection: int | None = None
    transform: Callable[[Gradients], Gradients] | None = None


@final
class FittedGradients:
    """Training gradients at one or several states, kept where they fit the budget.

    The score of example m for target n is Σ_i ⟨g_m, A_i h_n⟩ over states i, with A_i the weights of the state and
    h_n the gradient of a loss, or minus that of a logit or margin: positive = a gradient step on m helps n.
    """

    def __init__(self, trained: Trained, comparison: Comparison, moments: Sequence[Moment], memory_budget: int) -> None:
        check_budget(memory_budget)
        self._trained, self._what, self._moments, self._budget = trained, comparison, tuple(moments), memory_budget
        self._train = Features(
            trained,
            trained.examples,
            range(len(trained.examples)),
            trained.loss.per_example,
            comparison.names,
            comparison.projection,
        )
        self._dtype = self._train.dtype
        self._slab = max(_LEAST, memory_budget // 8)
        passing, kept = self._train.measure(self._moments[0])
        self._rows = max(1, memory_budget // 8 // passing)
        self._norms: Tensor | None = None
        self._kept: list[list[tuple[range, Gradients]]] | None = None
        work = len(trained.examples) * len(self._moments)
        if kept * work <= memory_budget // 2:
            with progress("gradients of training examples", work) as advance:
                self._kept = [list(self._computed(moment, advance)) for moment in self._moments]

    def scores(self, targets: Examples, ids: Sequence[int]) -> xr.DataArray:
        """Score every training example for some targets, dims ``("target", "train")``; see `Fitted.scores`.

        Args:
            targets: The data that the targets are in.
            ids: Which of it.

        Raises:
            ArgumentError: If the quantity does not fit the model's outputs.
        """
        what = self._what
        features = Features(self._trained, targets, ids, what.quantity, what.names, what.projection)
        _, kept = features.measure(self._moments[0])
        most = max(1, self._budget // 4 // kept)
        parts = even_parts(range(len(ids)), most)
        with progress("scoring", len(parts) * len(self._trained.examples) * len(self._moments)) as advance:
            found = torch.cat([self._part(features, part, advance) for part in parts])
        if features.quantity.helps > 0:
            found.neg_()
        unit = "cosine" if what.cosine else what.unit.format(quantity=features.quantity.unit)
        extra: dict[str, str | float] = {"quantity": features.quantity.name}
        if what.projection is not None:
            extra |= {"projection": what.projection, "projection_error": self._projection_error(features, found)}
        train = range(len(self._trained.examples))
        return label(found, list(ids), train, attributor=what.attributor, unit=unit, helps=1, extra=extra)

    def self_scores(self) -> Float[Tensor, " train"]:
        """Return each training example's score on its own loss; with a cosine, 1 where there is a gradient."""
        products = self._self_products()
        return torch.where(products > 0, 1.0, products) if self._what.cosine else products

    def _self_products(self) -> Float[Tensor, " train"]:
        """Return Σ_i ⟨g_m, A_i g_m⟩ of every training example, before any division."""
        if self._norms is None:
            self._norms = torch.zeros(len(self._trained.examples), dtype=self._dtype, device=self._trained.device)
            with progress("scoring", len(self._norms) * len(self._moments)) as advance:
                for number, moment in enumerate(self._moments):
                    for there, gradients in self._blocks(number, advance):
                        self._norms[there.start : there.stop] += self._own(gradients, moment)
        return self._norms

    def _own(self, gradients: Gradients, moment: Moment) -> Float[Tensor, " examples"]:
        if self._what.transform is None:
            return squared_norms(gradients, moment.scales, self._slab)
        return inner_products(self._what.transform(gradients), gradients, moment.scales, self._slab).diagonal()

    def _part(self, features: Features, part: range, advance: Advance) -> Float[Tensor, "targets train"]:
        """Score one chunk of targets."""
        total = torch.zeros(len(part), len(self._trained.examples), dtype=self._dtype, device=self._trained.device)
        norms = total.new_zeros(len(part))
        for number, moment in enumerate(self._moments):
            own = [(here, self._transformed(one)) for here, one in features.blocks(moment, part, self._rows)]
            if self._what.cosine:
                norms += torch.cat([squared_norms(left, moment.scales, self._slab) for _, left in own])
            ready = [weighed(left, moment.scales) for _, left in own]
            for there, right in self._blocks(number, advance):
                with fast_products():
                    products = [inner_products(left, right, rest, self._slab) for left, rest in ready]
                total[:, there.start : there.stop] += torch.cat(products)
        return _cosine(total, norms, self._self_products()) if self._what.cosine else total

    def _transformed(self, gradients: Gradients) -> Gradients:
        return gradients if self._what.transform is None else self._what.transform(gradients)

    def _projection_error(self, features: Features, found: Tensor) -> float:
        """Return the error of projected scores relative to exact ones, root mean squares over a few pairs."""
        exact = torch.zeros_like(found[:_MEASURED, :_MEASURED])
        left, right = found.new_zeros(exact.shape[0]), found.new_zeros(exact.shape[1])
        for moment in self._moments:
            both = [one.exact(moment, _MEASURED) for one in (features, self._train)]
            exact += inner_products(both[0], both[1], moment.scales, self._slab)
            left += squared_norms(both[0], moment.scales, self._slab)
            right += squared_norms(both[1], moment.scales, self._slab)
        if self._what.cosine:
            exact = _cosine(exact, left, right)
        ours = found[:_MEASURED, :_MEASURED] * (-1 if features.quantity.helps > 0 else 1)
        return float((ours - exact).norm() / exact.norm())

    def _blocks(self, number: int, advance: Advance) -> Iterator[tuple[range, Gradients]]:
        """Yield the training gradients at one state: those that were kept, or computed again."""
        if self._kept is None:
            yield from self._computed(self._moments[number], advance)
            return
        for there, gradients in self._kept[number]:
            yield there, gradients
            advance(len(there))

    def _computed(self, moment: Moment, advance: Advance) -> Iterator[tuple[range, Gradients]]:
        for there, gradients in self._train.blocks(moment, range(len(self._trained.examples)), self._rows):
            yield there, gradients
            advance(len(there))


def _cosine(
    total: Float[Tensor, "targets train"], left: Float[Tensor, " targets"], right: Float[Tensor, " train"]
) -> Float[Tensor, "targets train"]:
    """Divide by both norms; a gradient of 0 has no direction, its scores are 0. What is no number stays none."""
    both = left.sqrt()[:, None] * right.sqrt()
    return torch.where(both == 0, 0.0, total / both)
