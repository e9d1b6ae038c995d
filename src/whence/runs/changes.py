"""What a loop may do to gradients between backward and step: divide or multiply them, then clip them by value."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from whence.runs.statistics import TOLERANCE, GradientStatistics, GradientTable, gradient_table

_ROUNDING = 1e-6  # relative; a factor this near to 1 is none, but another order of summation
_CONVERGED = 1e-12  # relative
_LARGEST_DIVISOR = 4096  # microbatches that one step may plausibly accumulate
_NEWTON_STEPS = 50  # about ten are needed
_ULPS = 3  # neighbours tried on either side of a scalar, to find the very one that the loop used


@final
@dataclass(frozen=True)
class Change:
    """One factor for all elements of some gradients, and then one bound.

    Attributes:
        factor: What they are multiplied by.
        divisor: What they are divided by instead, when it is not 1: that rounds otherwise.
        bound: The largest absolute value left.
    """

    factor: float = 1.0
    divisor: int = 1
    bound: float = math.inf

    def of(self, gradient: Tensor) -> Tensor:
        """Return the gradient changed."""
        changed = gradient * self.factor if self.divisor == 1 else gradient / self.divisor
        return changed if self.bound == math.inf else changed.clamp(-self.bound, self.bound)

    def all_of(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return gradients changed."""
        return {name: self.of(gradient) for name, gradient in gradients.items()}


@final
@dataclass(frozen=True)
class Sought:
    """Gradients, and what is known of those that the optimizer saw.

    Attributes:
        gradients: As computed again.
        raw: What there is to know of them.
        wanted: What was recorded.
    """

    gradients: Mapping[str, Tensor]
    raw: GradientTable
    wanted: GradientTable

    def only(self, name: str) -> "Sought":
        """Return the same for one parameter."""
        return Sought({name: self.gradients[name]}, self.raw.only(name), self.wanted.only(name))

    def change(self, likely: Iterable[Change], factors: Iterable[float], *, each: bool = True) -> Change | None:
        """Return the change that gives the recorded gradients: bit by bit if one does, else within rounding.

        Args:
            likely: Changes to try before any other.
            factors: Factors before clipping to try before any other.
            each: Whether each parameter must agree within its own rounding, not only within that of all together.
        """
        near = None
        for change in self._candidates(likely, factors):
            found = gradient_table(change.all_of(self.gradients))
            if found.same(self.wanted):
                return change
            if near is None and (found.close(self.wanted) if each else found.near(self.wanted)):
                near = change
        return near

    def _candidates(self, likely: Iterable[Change], factors: Iterable[float]) -> Iterator[Change]:
        yield from likely
        raw, wanted = self.raw.whole, self.wanted.whole
        if raw.linf == 0.0 or raw.l2 == 0.0:
            yield Change()
        elif raw.scaled(wanted.l2 / raw.l2).close(wanted):
            yield from self._scalars(raw, wanted)
        else:
            yield from (Change(factor, bound=wanted.linf) for factor in factors)
            yield from self._bounded(wanted)

    def _scalars(self, raw: GradientStatistics, wanted: GradientStatistics) -> Iterator[Change]:
        """Propose scalars, the very ones that the loop may have used before the one that is only near."""
        ratio = wanted.l2 / raw.l2
        whole = divisor(ratio)
        if whole > 1:
            yield Change(1.0 / whole, divisor=whole)
        kind = next(iter(self.gradients.values())).dtype
        for candidate in _neighbours(wanted.linf / raw.linf, kind):
            if float(torch.tensor(raw.linf, dtype=kind) * candidate) == wanted.linf:
                yield Change(candidate)
        yield Change() if abs(ratio - 1.0) < _ROUNDING else Change(ratio)

    def _bounded(self, wanted: GradientStatistics) -> Iterator[Change]:
        """Propose scalars before clipping to the recorded largest value."""
        factor = _factor_before_clipping(self.gradients, wanted)
        kind = next(iter(self.gradients.values())).dtype
        for candidate in (1.0 / divisor(factor), float(round(factor)), *_neighbours(factor, kind)):
            yield Change(candidate, bound=wanted.linf)


def divisor(factor: float) -> int:
    """Return the whole number that a factor divides by, 1 if it does not."""
    if not 0.0 < factor < 1.0:
        return 1
    whole = round(1.0 / factor)
    return whole if whole <= _LARGEST_DIVISOR and abs(factor * whole - 1.0) < TOLERANCE else 1


def _neighbours(ratio: float, kind: torch.dtype) -> list[float]:
    """Return a scalar's neighbours in the type of the gradients, nearest first."""
    centre = torch.tensor(ratio, dtype=kind)
    found = [centre]
    for towards in (math.inf, -math.inf):
        value = centre
        for _ in range(_ULPS):
            value = torch.nextafter(value, torch.tensor(towards, dtype=kind))
            found.append(value)
    return sorted((float(value) for value in found), key=lambda value: abs(value - ratio))


def _factor_before_clipping(gradients: Mapping[str, Tensor], wanted: GradientStatistics) -> float:
    """Return the c for which c·g, clipped to the recorded largest value, has the recorded l1 norm.

    That norm is increasing, concave and piecewise linear in c, so that Newton's steps from below rise to the solution
    and reach it after finitely many.
    """
    factor = 0.0
    for _ in range(_NEWTON_STEPS):
        free, clipped = 0.0, 0
        for gradient in gradients.values():
            inside = gradient.abs().double() * factor < wanted.linf
            clipped += inside.numel() - int(inside.sum())
            free += float((gradient.abs() * inside).sum(dtype=torch.float64))
        following = (wanted.l1 - clipped * wanted.linf) / free if free else factor
        if following <= factor * (1 + _CONVERGED):
            break
        factor = following
    return factor
