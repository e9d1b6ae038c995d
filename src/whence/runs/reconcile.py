"""Find what a training loop did to its gradient before the optimizer saw it."""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from whence.runs.statistics import GradientStatistics, gradient_statistics

TOLERANCE = 1e-5
"""Relative. The sums are exact to float64; the gradients themselves are sums over a batch in float32, which other
kernels or thread counts take in another order, with errors of about eps·√n ≈ 2e-6 for n = 256. Another gradient, such
as that with one other example in the batch, differs by far more."""

_ROUNDING = 1e-12  # relative; the reductions of another process differ by no more where the gradients are equal
_LARGEST_DIVISOR = 4096  # microbatches that one step may plausibly accumulate
_NEWTON_STEPS = 50  # about ten are needed
_ULPS = 3  # neighbours tried on either side of a scalar, to find the very one that the loop used

Scale = float | dict[str, float | Tensor]


def reconcile(gradients: Mapping[str, Tensor], wanted: GradientStatistics, microbatches: int) -> Scale | None:
    """Change gradients in place into the recorded ones, and return by which factor.

    Tried in order: nothing; one scalar (accumulation, clipping by norm, loss scaling); one scalar and clipping by
    value. Whichever of the two the loop did first, and whether it did one of them twice, all come to one scalar and one
    bound.

    Args:
        gradients: As computed again, by parameter name.
        wanted: Statistics of the gradient that the optimizer saw.
        microbatches: How many batches the step accumulated.

    Returns:
        The factor from the gradient computed to the one used: a number, or a tensor of the shape of each parameter.
        None if none of these gives the recorded statistics.
    """
    raw = gradient_statistics(gradients.values())
    if raw == wanted:
        return 1.0
    if not all(math.isfinite(v) for v in (raw.l2, raw.linf, wanted.l2, wanted.linf)) or raw.linf == 0.0:
        return None
    if _proportional(raw, wanted):
        return _scale(gradients, raw, wanted)
    return _clipped(gradients, wanted, microbatches)


def exact(gradients: Mapping[str, Tensor], wanted: GradientStatistics) -> bool:
    """Return whether gradients have the recorded statistics bit by bit."""
    return gradient_statistics(gradients.values()) == wanted


def _proportional(raw: GradientStatistics, wanted: GradientStatistics) -> bool:
    """Return whether one scalar explains all four statistics."""
    ratio = wanted.l2 / raw.l2
    scaled = GradientStatistics(raw.l2 * ratio, raw.linf * ratio, raw.l1 * ratio, raw.total * ratio)
    return scaled.close(wanted, TOLERANCE)


def _scale(gradients: Mapping[str, Tensor], raw: GradientStatistics, wanted: GradientStatistics) -> float:
    """Scale gradients in place, bit by bit as the loop did if that can be told; return the factor."""
    if raw.close(wanted, _ROUNDING):
        return 1.0
    whole = divisor(wanted.l2 / raw.l2)
    if whole > 1 and gradient_statistics(gradient / whole for gradient in gradients.values()) == wanted:
        for gradient in gradients.values():
            gradient.div_(whole)
        return 1.0 / whole
    factor = _factor(gradients, raw, wanted)
    for gradient in gradients.values():
        gradient.mul_(factor)
    return factor


def _factor(gradients: Mapping[str, Tensor], raw: GradientStatistics, wanted: GradientStatistics) -> float:
    """Return the factor between two gradients, the very one that was used if it can be told."""
    kind = next(iter(gradients.values())).dtype
    for candidate in _candidates(wanted.linf / raw.linf, kind):
        if float(torch.tensor(raw.linf, dtype=kind) * candidate) != wanted.linf:
            continue
        if gradient_statistics(gradient * candidate for gradient in gradients.values()) == wanted:
            return candidate
    return wanted.l2 / raw.l2


def divisor(factor: float) -> int:
    """Return the whole number that a factor divides by, 1 if it does not."""
    if not 0.0 < factor < 1.0:
        return 1
    whole = round(1.0 / factor)
    return whole if whole <= _LARGEST_DIVISOR and abs(factor * whole - 1.0) < TOLERANCE else 1


def _candidates(ratio: float, kind: torch.dtype) -> list[float]:
    """Return a scalar's neighbours in the type of the gradients, nearest first."""
    centre = torch.tensor(ratio, dtype=kind)
    found = [centre]
    for towards in (math.inf, -math.inf):
        value = centre
        for _ in range(_ULPS):
            value = torch.nextafter(value, torch.tensor(towards, dtype=kind))
            found.append(value)
    return sorted((float(value) for value in found), key=lambda value: abs(value - ratio))


def _clipped(
    gradients: Mapping[str, Tensor], wanted: GradientStatistics, microbatches: int
) -> dict[str, float | Tensor] | None:
    """Scale and then clip gradients in place by value; return the factors, None if that does not explain them."""
    for factor in dict.fromkeys((1.0, 1.0 / microbatches)):
        if gradient_statistics(_bounded(gradients, factor, wanted.linf)).close(wanted, TOLERANCE):
            return _take_clipped(gradients, factor, wanted.linf)
    factor = _factor_before_clipping(gradients, wanted)
    if not gradient_statistics(_bounded(gradients, factor, wanted.linf)).close(wanted, TOLERANCE):
        return None
    kind = next(iter(gradients.values())).dtype
    likely = (1.0 / divisor(factor), float(round(factor)), *_candidates(factor, kind))
    found = (f for f in likely if gradient_statistics(_bounded(gradients, f, wanted.linf)) == wanted)
    return _take_clipped(gradients, next(found, factor), wanted.linf)


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
        if following <= factor * (1 + _ROUNDING):
            break
        factor = following
    return factor


def _bounded(gradients: Mapping[str, Tensor], factor: float, bound: float) -> Iterator[Tensor]:
    return ((gradient * factor).clamp(-bound, bound) for gradient in gradients.values())


def _take_clipped(gradients: Mapping[str, Tensor], factor: float, bound: float) -> dict[str, float | Tensor]:
    scale: dict[str, float | Tensor] = {}
    for (name, gradient), clipped in zip(gradients.items(), _bounded(gradients, factor, bound), strict=True):
        scale[name] = torch.where(gradient == 0, torch.full_like(gradient, factor), clipped / gradient)
        gradient.copy_(clipped)
    return scale
