"""Inner products of every target's gradient with every training example's, without writing out what need not be."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from whence.audit.products import add_product
from whence.gradients import Dense, Outer, PerExample, Scatter, Sum
from whence.runs import size

Gradients = Mapping[str, PerExample]
Scales = Mapping[str, float | Tensor]
"""By parameter name, what its products are weighed with: one number, or one an entry."""


def compact(gradient: PerExample) -> PerExample:
    """Return the same gradients in the form that takes less memory, without reference to a layer's own tensors.

    The factors of one position take (rows + columns) numbers, written out they take rows × columns: a linear layer's
    stay factors, a convolution's over many positions do not. Lookups stay lookups.
    """
    factors = _factors(gradient)
    if factors is not None and _numbers(factors) < gradient.shape.numel():
        return factors
    shape = gradient.shape
    return Dense(gradient.part(0, shape[0]).clone().reshape(gradient.examples, *shape))


def weighed(gradients: Gradients, scales: Scales) -> tuple[Gradients, Scales]:
    """Multiply weights that are one an entry into gradients that are compared with many, and return what is left.

    Gradients are written out there; lookups stay as they are, with their weights. Products with the result and the
    weights left are the ones with the gradients and weights given.
    """
    made: dict[str, PerExample] = {}
    left: dict[str, float | Tensor] = {}
    for name, gradient in gradients.items():
        scale = scales.get(name, 1.0)
        if isinstance(scale, Tensor) and not isinstance(gradient, Scatter):
            shape = gradient.shape
            made[name] = Dense((gradient.part(0, shape[0]) * scale.flatten()).reshape(gradient.examples, *shape))
        else:
            made[name], left[name] = gradient, scale
    return made, left


def first_rows(gradients: Gradients, count: int) -> Gradients:
    """Return the gradients of the first examples, sharing memory."""
    return {name: _first(one, count) for name, one in gradients.items()}


def inner_products(
    left: Gradients, right: Gradients, scales: Scales, memory_budget: int, factors: torch.dtype | None = None
) -> Float[Tensor, "left_examples right_examples"]:
    """Return Σ_k s_k ⟨l_ik, r_jk⟩ over parameters k, for every pair (i, j).

    Where both sides are outer products at one position, ⟨e ⊗ a, e' ⊗ a'⟩ = (e·e')(a·a'): two small products in place of
    one over all entries. Otherwise one matrix product per parameter, in slabs of rows that fit the budget. A parameter
    that one side lacks counts 0.

    Args:
        left, right: Gradients by parameter name.
        scales: Weights of the products; a name that is missing has 1.
        memory_budget: Bytes that gradients written out may take.
        factors: A lower type to round gradients that are written out to before they are multiplied, or None.
    """
    one, other = next(iter(left.values())), next(iter(right.values()))
    total = _like(one).new_zeros(one.examples, other.examples)
    for name in left.keys() & right.keys():
        _add(total, left[name], right[name], scales.get(name, 1.0), memory_budget, factors)
    return total


def squared_norms(gradients: Gradients, scales: Scales, memory_budget: int) -> Float[Tensor, " examples"]:
    """Return Σ_k s_k ⟨g_ik, g_ik⟩ of every example i."""
    first = next(iter(gradients.values()))
    total = _like(first).new_zeros(first.examples)
    for name, gradient in gradients.items():
        scale = scales.get(name, 1.0)
        if isinstance(gradient, Outer) and gradient.rows.shape[1] == 1 and not isinstance(scale, Tensor):
            total += scale * gradient.rows.square().sum((1, 2)) * gradient.columns.square().sum((1, 2))
            continue
        if isinstance(gradient, Outer) and gradient.rows.shape[1] == 1 and isinstance(scale, Tensor):
            weights = scale.reshape(gradient.rows.shape[2], -1)
            total += ((gradient.rows[:, 0].square() @ weights) * gradient.columns[:, 0].square()).sum(1)
            continue
        for start, stop in _slabs(gradient, gradient.examples, memory_budget):
            part = gradient.part(start, stop)
            weight = _rows(scale, start, stop) if isinstance(scale, Tensor) else scale
            total += (part.square() * weight).sum(1)
    return total


def _add(
    total: Tensor,
    left: PerExample,
    right: PerExample,
    scale: float | Tensor,
    memory_budget: int,
    factors: torch.dtype | None,
) -> None:
    if not isinstance(scale, Tensor) and scale == 0:
        return
    if isinstance(left, Outer) and isinstance(right, Outer) and not isinstance(scale, Tensor):
        positions = left.rows.shape[1] * right.rows.shape[1]
        if positions * (left.rows.shape[2] + left.columns.shape[2]) <= left.shape.numel():
            _add_factors(total, left, right, scale, memory_budget)
            return
    if isinstance(left, Scatter) and isinstance(right, Scatter):
        left, right, scale = _looked_up_by_both(left, right, scale)
    for start, stop in _slabs(left, left.examples + right.examples, memory_budget):
        part, other = left.part(start, stop), right.part(start, stop)
        weighted, factor = (part * _rows(scale, start, stop), 1.0) if isinstance(scale, Tensor) else (part, scale)
        add_product(total, weighted, other if factors is None else other.to(factors), factor)


def _add_factors(total: Tensor, left: Outer, right: Outer, scale: float, memory_budget: int) -> None:
    """Add s Σ_{l, l'} (e_il · e'_jl')(a_il · a'_jl')."""
    here, there = left.rows.shape[1], right.rows.shape[1]
    most = max(1, memory_budget // (2 * here * there * right.examples * total.itemsize))
    for start in range(0, left.examples, most):
        rows, columns = left.rows[start : start + most], left.columns[start : start + most]
        e = rows.flatten(0, 1) @ right.rows.flatten(0, 1).T
        a = columns.flatten(0, 1) @ right.columns.flatten(0, 1).T
        product = e.mul_(a)
        if here * there > 1:
            product = product.view(len(rows), here, right.examples, there).sum((1, 3))
        total[start : start + most].add_(product, alpha=scale)


def _looked_up_by_both(left: Scatter, right: Scatter, scale: float | Tensor) -> tuple[Scatter, Scatter, float | Tensor]:
    """Cut a table down to the rows that examples on both sides look up: the others count 0."""
    rows = torch.unique(left.indices[torch.isin(left.indices, right.indices)])
    shape = torch.Size((max(1, len(rows)), *left.shape[1:]))
    weights = scale[rows] if isinstance(scale, Tensor) and len(rows) else scale
    return _cut(left, rows, shape), _cut(right, rows, shape), weights


def _cut(lookups: Scatter, rows: Tensor, shape: torch.Size) -> Scatter:
    place = torch.searchsorted(rows, lookups.indices).clamp(max=max(0, len(rows) - 1))
    there = rows[place] == lookups.indices if len(rows) else torch.zeros_like(lookups.indices, dtype=torch.bool)
    return Scatter(place, lookups.values * there[..., None], shape)


def _slabs(gradient: PerExample, examples: int, memory_budget: int) -> list[tuple[int, int]]:
    """Cut the parameter's rows so that so many examples' gradients fit the budget when written out."""
    rows = gradient.shape[0]
    row = max(1, gradient.shape[1:].numel()) * examples * _like(gradient).itemsize
    most = max(1, min(rows, memory_budget // row))
    return [(start, min(start + most, rows)) for start in range(0, rows, most)]


def _first(gradient: PerExample, count: int) -> PerExample:
    if isinstance(gradient, Outer):
        return Outer(gradient.rows[:count], gradient.columns[:count], gradient.shape)
    if isinstance(gradient, Scatter):
        return Scatter(gradient.indices[:count], gradient.values[:count], gradient.shape)
    if isinstance(gradient, Sum):
        return Sum(tuple(_first(term, count) for term in gradient.terms))
    return Dense(gradient.part(0, gradient.shape[0])[:count].reshape(-1, *gradient.shape))


def _rows(scale: Tensor, start: int, stop: int) -> Tensor:
    return scale.reshape(max(1, scale.shape[0] if scale.dim() else 1), -1)[start:stop].flatten()


def _factors(gradient: PerExample) -> PerExample | None:
    """Return a copy that is not written out, or None if the gradients are."""
    if isinstance(gradient, Outer):
        return Outer(gradient.rows.clone(), gradient.columns.clone(), gradient.shape)
    if isinstance(gradient, Scatter):
        return Scatter(gradient.indices.clone(), gradient.values.clone(), gradient.shape)
    if isinstance(gradient, Sum):
        terms = [_factors(term) for term in gradient.terms]
        known = tuple(term for term in terms if term is not None)
        return Sum(known) if len(known) == len(terms) else None
    return None


def _numbers(gradient: PerExample) -> int:
    """Return how many numbers the factors of one example take."""
    return size(gradient) // (gradient.examples * _like(gradient).itemsize)


def _like(gradient: PerExample) -> Tensor:
    """Return an empty tensor of the gradients' type and device."""
    return torch.empty(0, dtype=gradient.part(0, 0).dtype, device=gradient.part(0, 0).device)
