"""Which entries of a step's gradient are nothing but rounding, and so no example's.

The gradient of a bias right before a batch normalisation is zero, whatever the batch; so is that of a weight whose
input is the same in the whole batch. What is computed is rounding, and an optimizer that divides by the gradient's size
makes whole steps of it. The shares of the examples, which cancel there, would be blown up as much: huge, and meaning
nothing. Where examples cancel in one batch only, or the optimizer does not divide, every share stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from whence.gradients import Dense, Outer, PerExample, Sum

_ROUNDINGS = 256.0  # of the sum of the shares' sizes: below, a gradient is nothing but rounding
_ROUNDINGS_OF_LOW = 4.0  # under autocast, of the root of the sum of their squares: each is rounded by itself
Factor = float | Tensor


def nobodys(
    captured: Sequence[Mapping[str, PerExample]],
    used: Mapping[str, Tensor | None],
    roots: Mapping[str, Tensor | None],
    scale: Mapping[str, Factor],
    low: torch.dtype | None = None,
) -> dict[str, Bool[Tensor, "*parameter"]]:
    """Say which entries of each parameter's gradient are nothing but rounding.

    Args:
        captured: Per-example gradients of each microbatch.
        used: The gradient that the optimizer saw, by parameter.
        roots: The size of the gradients so far that the optimizer divides by; None where it does not.
        scale: The factor from the sum of the per-example gradients to the gradient used.
        low: The type that autocast computed in.

    Returns:
        Masks, of the parameters that have such entries.
    """
    about: dict[str, tuple[Tensor, Tensor, list[PerExample]]] = {}
    candidates: dict[str, Tensor] = {}
    for name, gradient in used.items():
        root, terms = roots[name], [one[name] for one in captured if name in one]
        if gradient is None or root is None or not terms or not all(map(_is_known, terms)):
            continue
        largest = torch.maximum(gradient.abs(), root.reshape(gradient.shape))
        about[name] = gradient, largest, terms
        bound = reduce(torch.add, [_bound(term) for term in terms]).reshape(gradient.shape)
        candidates[name] = _below(largest, bound, scale[name], low)
    if not candidates or not torch.cat([one.reshape(-1) for one in candidates.values()]).any():
        return {}
    found = {}
    for name, candidate in candidates.items():
        if candidate.any():
            gradient, largest, terms = about[name]
            order = 1 if low is None else 2
            powers = reduce(torch.add, [_power(term, order) for term in terms]).reshape(gradient.shape)
            mask = _below(largest, powers if low is None else powers.sqrt(), scale[name], low)
            if mask.any():
                found[name] = mask
    return found


def _below(largest: Tensor, size: Tensor, scale: Factor, low: torch.dtype | None) -> Tensor:
    """Say where gradients, this one and those so far, are below the rounding of shares of some size."""
    kind, roundings = (size.dtype, _ROUNDINGS) if low is None else (low, _ROUNDINGS_OF_LOW)
    factor = scale.abs() if isinstance(scale, Tensor) else abs(scale)
    below: Tensor = largest <= size * (factor * (roundings * torch.finfo(kind).eps))
    return below & (size > 0)


def _is_known(term: PerExample) -> bool:
    return isinstance(term, Dense | Outer) or (isinstance(term, Sum) and all(map(_is_known, term.terms)))


def _bound(term: PerExample) -> Float[Tensor, " entries"]:
    """Return, quickly, what the sum of the shares' sizes and the root of the sum of their squares are below."""
    match term:
        case Outer():
            rows, columns = (one.flatten(0, 1).square().sum(0).sqrt() for one in (term.rows, term.columns))
            return torch.outer(rows, columns).reshape(-1)
        case Sum():
            return reduce(torch.add, [_bound(one) for one in term.terms])
        case _:
            return _power(term, 1)


def _power(term: PerExample, order: int) -> Float[Tensor, " entries"]:
    """Return the sum over examples and positions of the sizes of what each adds, or of their squares."""
    match term:
        case Dense():
            norm: Tensor = torch.linalg.vector_norm(term.values.flatten(1), order, 0)
            return norm.pow(order)
        case Outer():
            rows, columns = (one.flatten(0, 1).abs().pow(order) for one in (term.rows, term.columns))
            return (rows.T @ columns).reshape(-1)
        case Sum():
            return reduce(torch.add, [_power(one, order) for one in term.terms])
        case _:
            raise TypeError(f"No sizes of {type(term).__name__}.")
