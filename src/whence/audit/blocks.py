"""Parameters cut into blocks of whole rows, and the batch's gradients that meet them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from whence.gradients import PerExample

BLOCK_BYTES = 4 * 2**20  # per matrix; measured best on CPUs with 16-32 MiB of shared cache
BLOCK_BYTES_BEYOND = 32 * 2**20  # elsewhere, where each call has its price
Coefficient = float | Tensor


@final
@dataclass(frozen=True)
class Block:
    """Rows ``start..stop`` of one parameter's first axis; ``width`` entries in all, from entry ``first``."""

    name: str
    layer: int
    start: int
    stop: int
    first: int
    width: int


@final
@dataclass(frozen=True)
class Microbatch:
    """Per-example gradients of one microbatch, and what the loop and the clipping made of them."""

    gradients: Mapping[str, PerExample]
    examples: int
    scale: Mapping[str, Coefficient] | float

    def scale_of(self, name: str) -> Coefficient:
        """Return the factor from raw to used gradient of a parameter: a number, or one number an entry."""
        return self.scale if isinstance(self.scale, float | int) else self.scale.get(name, 1.0)


def blocks(
    shapes: Mapping[str, torch.Size],
    layers: Mapping[str, int],
    rows: int,
    dtype: torch.dtype,
    device: torch.device,
) -> list[Block]:
    """Cut the parameters into blocks of whole rows, for ``rows`` targets of few enough bytes for the device."""
    most = BLOCK_BYTES if device.type == "cpu" else BLOCK_BYTES_BEYOND
    found = []
    for name, shape in shapes.items():
        length = shape[0] if shape else 1
        row = shape.numel() // length if length else 0
        step = max(1, most // max(1, rows * row * dtype.itemsize))
        for start in range(0, length, step):
            stop = min(start + step, length)
            found.append(Block(name, layers[name], start, stop, start * row, (stop - start) * row))
    return found


def entries(value: Coefficient, block: Block) -> Coefficient:
    """Return what a coefficient is in a block."""
    if isinstance(value, Tensor):
        return value.reshape(-1)[block.first : block.first + block.width]
    return float(value)
