"""Random projections of gradients, layer by layer, that keep inner products on average."""

from __future__ import annotations

import math
import zlib

import torch
from jaxtyping import Float
from torch import Tensor

from whence._errors import ArgumentError
from whence._numbers import is_whole
from whence.gradients import Dense, Outer, PerExample
from whence.kernel.products import Gradients

_SLAB = 2**22  # entries of a random matrix that are made at once


def as_projection(dimensions: int | None) -> int | None:
    """Check how many numbers to project to.

    Raises:
        ArgumentError: If it is not a whole number, at least 1, or None.
    """
    if dimensions is not None and (not is_whole(dimensions) or dimensions < 1):
        raise ArgumentError(
            "`projection` is how many numbers to keep of each parameter's gradient, at least 1, or None; got "
            f"{dimensions!r}."
        )
    return dimensions


def projected(gradients: Gradients, dimensions: int, seed: int) -> dict[str, PerExample]:
    """Return gradients with every parameter's projected to about so many numbers, the same way in every call.

    An outer product Σ_l e_l ⊗ a_l becomes Σ_l (P e_l) ⊗ (Q a_l) with random signs P and Q (LoGra: Choe et al., 2024,
    section 3), anything else is multiplied by one matrix of random signs. Inner products are right on average over
    seeds; of one seed, their error falls as 1/√dimensions. A parameter with no more entries than that stays as it is.

    Args:
        gradients: By parameter name.
        dimensions: Numbers to keep of each parameter.
        seed: Of the random signs.
    """
    return {
        name: one if one.shape.numel() <= dimensions else _projected(one, dimensions, seed ^ zlib.crc32(name.encode()))
        for name, one in gradients.items()
    }


def _projected(gradient: PerExample, dimensions: int, seed: int) -> Dense:
    if isinstance(gradient, Outer):
        return _of_factors(gradient, dimensions, seed)
    rows, width = gradient.shape[0], gradient.shape[1:].numel()
    most = max(1, _SLAB // (dimensions * width))
    generator = torch.Generator().manual_seed(seed)
    found = gradient.part(0, 0).new_zeros(gradient.examples, dimensions)
    for start in range(0, rows, most):
        part = gradient.part(start, min(start + most, rows))
        found.addmm_(part, _signs(part.shape[1], dimensions, generator, part))
    return Dense(found)


def _of_factors(gradient: Outer, dimensions: int, seed: int) -> Dense:
    """Project rows and columns apart, to sides whose ratio is theirs and whose product is at most ``dimensions``."""
    rows, columns = gradient.rows.shape[2], gradient.columns.shape[2]
    left = min(rows, max(1, round(math.sqrt(dimensions * rows / columns))))
    right = min(columns, max(1, dimensions // left))
    generator = torch.Generator().manual_seed(seed)
    e = gradient.rows @ _signs(rows, left, generator, gradient.rows) if left < rows else gradient.rows
    a = gradient.columns @ _signs(columns, right, generator, gradient.columns) if right < columns else gradient.columns
    return Dense((e.transpose(1, 2) @ a).flatten(1))


def _signs(rows: int, columns: int, generator: torch.Generator, like: Tensor) -> Float[Tensor, "rows columns"]:
    """Return random signs over √columns, so that (P x)·(P y) is x·y on average."""
    signs = torch.randint(0, 2, (rows, columns), generator=generator, dtype=torch.int8)
    return (signs.to(like.device, like.dtype) * 2 - 1) / math.sqrt(columns)
