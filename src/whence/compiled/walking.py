"""One step of an audit's walk, for a weight whose gradients are outer products."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from whence._errors import ShapeError
from whence.compiled.loading import REALS, loaded, plain, run

Coefficient = float | Tensor


@final
@dataclass(frozen=True)
class Carried:
    """What some rows of a weight carry from step to step, (targets, rows x columns); None if it is not carried.

    Attributes:
        rows: How many rows.
        buffers, weights: b and p of `Transpose`.
    """

    rows: int
    buffers: Tensor | None
    weights: Tensor | None


@final
@dataclass(frozen=True)
class Transpose:
    """What the transpose of the optimizer's step does to each entry: h comes in, u is found, b and p are carried.

        m = p + h,  b = b - σ m / pending,  u = κ pending b - γ m,  p = keep m + coupled u - h

    Attributes:
        kappa, sigma, gamma: κ, σ and γ; numbers, or one number an entry of the weight.
        pending: A factor of b that has not been multiplied in.
        keep: What of p stays.
        coupled: Weight decay that is a gradient.
    """

    kappa: Coefficient
    sigma: Coefficient
    gamma: Coefficient
    pending: float
    keep: float
    coupled: float


@final
@dataclass(frozen=True)
class Factors:
    """Sums of outer products over positions, Σ_l e_il ⊗ a_il."""

    rows: Float[Tensor, "examples positions rows"]
    columns: Float[Tensor, "examples positions columns"]


def walk(
    blocks: Sequence[Carried],
    targets: Factors,
    batch: Factors,
    transpose: Transpose,
    found: Float[Tensor, "targets examples"],
) -> None:
    """Walk one step back and add ⟨u of each target, gradient of each example⟩ to ``found``.

    Args:
        blocks: What is carried by some rows each, in order, contiguous; changed in place. All carry the same.
        targets: The targets' gradients h.
        batch: The examples' gradients, of one position.
        transpose: The step.
        found: Changed in place; its rows may stand apart, the numbers of a row may not.

    Raises:
        TypeError: If there are no kernels for numbers as in ``found``; ask `has_kernels` first.
        ShapeError: If the arguments do not fit together, or what is changed does not lie as it must in memory.
        MemoryError: If a thread found no memory.
    """
    dtype = found.dtype
    kernels = loaded(found)
    _check(blocks, targets, batch, transpose, found)
    (count, positions, rows), columns = targets.rows.shape, targets.columns.shape[2]
    kind, block = _kinds(dtype)
    held: list[Tensor] = []  # what the job points to, until it is done

    def pointer(tensor: Tensor) -> int:
        held.append(plain(tensor, dtype))
        return held[-1].data_ptr()

    def coefficient(value: Coefficient) -> tuple[int, int]:
        if isinstance(value, Tensor):
            return pointer(value), columns
        return pointer(torch.full((columns,), value, dtype=dtype)), 0

    parts = (block * len(blocks))(*((address(one.buffers), address(one.weights), one.rows) for one in blocks))
    size = kernels.panel()
    job = kind(
        targets=count,
        positions=positions,
        rows=rows,
        columns=columns,
        examples=len(batch.rows),
        blocks=len(blocks),
        part=_part(count, kernels.tile()),
        block=ctypes.addressof(parts),
        target_rows=pointer(targets.rows),
        target_columns=pointer(targets.columns),
        kappa=coefficient(transpose.kappa),
        sigma=coefficient(transpose.sigma),
        gamma=coefficient(transpose.gamma),
        pending=transpose.pending,
        keep=transpose.keep,
        coupled=transpose.coupled,
        batch_rows=pointer(panels(batch.rows[:, 0], size)),
        batch_columns=pointer(panels(batch.columns[:, 0], size)),
        found=found.data_ptr(),
        stride=found.stride(0),
    )
    run(kernels.walk, job)


def _check(blocks: Sequence[Carried], targets: Factors, batch: Factors, transpose: Transpose, found: Tensor) -> None:
    """Refuse what the kernels would read or write past its end."""
    (count, positions, rows), columns = targets.rows.shape, targets.columns.shape[-1]
    examples = len(batch.rows)
    entries = [one.numel() for one in (transpose.kappa, transpose.sigma, transpose.gamma) if isinstance(one, Tensor)]
    carried = [(one.rows, held) for one in blocks for held in (one.buffers, one.weights) if held is not None]
    fits = (
        targets.columns.shape == (count, positions, columns)
        and batch.rows.shape == (examples, 1, rows)
        and batch.columns.shape == (examples, 1, columns)
        and found.shape == (count, examples)
        and (found.stride(1) == 1 or examples < 2)
        and all(one == rows * columns for one in entries)
        and sum(one.rows for one in blocks) == rows
        and all(held.shape == (count, height * columns) and held.dtype == found.dtype for height, held in carried)
        and all(held.is_contiguous() for _, held in carried)
    )
    if not fits:
        told = {
            "targets": (tuple(targets.rows.shape), tuple(targets.columns.shape)),
            "batch": (tuple(batch.rows.shape), tuple(batch.columns.shape)),
            "found": (tuple(found.shape), found.stride()),
            "blocks": [(height, tuple(held.shape), held.dtype) for height, held in carried],
            "coefficients": entries,
        }
        raise ShapeError(f"These do not make a step of a walk: {told}. See the arguments of whence.compiled.walk.")


def address(tensor: Tensor | None) -> int | None:
    """Return where a tensor's numbers are."""
    return None if tensor is None else tensor.data_ptr()


def _part(targets: int, tile: int) -> int:
    """Return how many targets a thread walks at once: two tiles, to read the batch half as often, if all have them."""
    return tile * (2 if targets > 2 * tile * (torch.get_num_threads() - 1) else 1)


def panels(rows: Float[Tensor, "examples columns"], size: int) -> Float[Tensor, "panels columns panel"]:
    """Return the rows as columns, in panels of so many, the last filled up with zeros."""
    missing = -len(rows) % size
    filled = torch.nn.functional.pad(rows, (0, 0, 0, missing)) if missing else rows
    return filled.reshape(-1, size, rows.shape[1]).transpose(1, 2)


@cache
def _kinds(dtype: torch.dtype) -> tuple[Any, Any]:
    """Return the job and the block as the kernels know them."""
    real = REALS[dtype][1]

    class OneCoefficient(ctypes.Structure):
        _fields_ = (("values", ctypes.c_void_p), ("stride", ctypes.c_long))

    class Block(ctypes.Structure):
        _fields_ = (("buffers", ctypes.c_void_p), ("weights", ctypes.c_void_p), ("rows", ctypes.c_long))

    class Job(ctypes.Structure):
        _fields_ = (
            *((name, ctypes.c_long) for name in ("targets", "positions", "rows", "columns")),
            *((name, ctypes.c_long) for name in ("examples", "blocks", "part")),
            *((name, ctypes.c_void_p) for name in ("block", "target_rows", "target_columns")),
            *((name, OneCoefficient) for name in ("kappa", "sigma", "gamma")),
            *((name, real) for name in ("pending", "keep", "coupled")),
            *((name, ctypes.c_void_p) for name in ("batch_rows", "batch_columns", "found")),
            ("stride", ctypes.c_long),
        )

    return Job, Block
