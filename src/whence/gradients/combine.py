"""Linear combinations and rearrangements of per-example gradients that stay in their factored form."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from whence.gradients.factored import Outer, Scatter
from whence.gradients.per_example import Dense, PerExample, Sum


def weighted_sum(terms: Sequence[tuple[float, PerExample]]) -> PerExample:
    """Return Σ weight · gradients of one parameter and the same examples.

    Factored gradients stay factored: the positions of one term follow those of the other.

    Args:
        terms: Weights and gradients; at least one.
    """
    if len(terms) == 1 and terms[0][0] == 1.0:
        return terms[0][1]
    kinds = {type(term) for _, term in terms}
    if kinds == {Dense}:
        total = sum(weight * term.values for weight, term in terms if isinstance(term, Dense))
        assert isinstance(total, torch.Tensor)
        return Dense(total)
    if kinds == {Outer}:
        outer = [(weight, term) for weight, term in terms if isinstance(term, Outer)]
        rows = torch.cat([weight * term.rows for weight, term in outer], 1)
        return Outer(rows, torch.cat([term.columns for _, term in outer], 1), outer[0][1].shape)
    if kinds == {Scatter}:
        scatter = [(weight, term) for weight, term in terms if isinstance(term, Scatter)]
        values = torch.cat([weight * term.values for weight, term in scatter], 1)
        return Scatter(torch.cat([term.indices for _, term in scatter], 1), values, scatter[0][1].shape)
    parts = [(weight, part) for weight, term in terms for part in (term.terms if isinstance(term, Sum) else (term,))]
    return Sum(tuple(scaled(weight, part) for weight, part in parts))


def scaled(weight: float, term: PerExample) -> PerExample:
    """Return the gradients times a number.

    Raises:
        TypeError: If they are of a form that is not known here.
    """
    match term:
        case Dense():
            return Dense(weight * term.values)
        case Outer():
            return Outer(weight * term.rows, term.columns, term.shape)
        case Scatter():
            return Scatter(term.indices, weight * term.values, term.shape)
        case Sum():
            return Sum(tuple(scaled(weight, part) for part in term.terms))
        case _:
            raise TypeError(f"Cannot scale {type(term).__name__}.")


def interleave(terms: Sequence[PerExample]) -> PerExample:
    """Return gradients of the first example of each term, then of the second of each, and so on.

    Args:
        terms: Gradients of one parameter, formed in the same way for the same examples (one term a class, say).

    Raises:
        TypeError: If they are of a form that is not known here.
    """
    first = terms[0]
    match first:
        case Dense():
            return Dense(_interleave([term.values for term in terms if isinstance(term, Dense)]))
        case Outer():
            outer = [term for term in terms if isinstance(term, Outer)]
            rows = _interleave([term.rows for term in outer])
            return Outer(rows, _interleave([term.columns for term in outer]), first.shape)
        case Scatter():
            scatter = [term for term in terms if isinstance(term, Scatter)]
            values = _interleave([term.values for term in scatter])
            return Scatter(_interleave([term.indices for term in scatter]), values, first.shape)
        case Sum():
            columns = zip(*(term.terms for term in terms if isinstance(term, Sum)), strict=True)
            return Sum(tuple(interleave(column) for column in columns))
        case _:
            raise TypeError(f"Cannot interleave {type(first).__name__}.")


def _interleave(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(tensors, 1).flatten(0, 1)
