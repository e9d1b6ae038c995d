"""Four numbers that tell whether two gradients are the same, or the same up to a scalar."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

_SMALL = 1 << 17  # tensors on the CPU of at most so many elements are joined and reduced together
_BLOCK = 1 << 13  # elements


@final
@dataclass(frozen=True)
class GradientStatistics:
    """Norms and sum over all elements of all gradients of a step.

    Attributes:
        l2: Euclidean norm.
        linf: Largest absolute value.
        l1: Sum of absolute values.
        total: Signed sum.
    """

    l2: float
    linf: float
    l1: float
    total: float

    def close(self, other: "GradientStatistics", tolerance: float) -> bool:
        """Return whether all four agree within a relative ``tolerance``; the signed sum relative to ``l1``."""
        return (
            _close(self.l2, other.l2, tolerance * other.l2)
            and _close(self.linf, other.linf, tolerance * other.linf)
            and _close(self.l1, other.l1, tolerance * other.l1)
            and _close(self.total, other.total, tolerance * other.l1)
        )


def gradient_statistics(gradients: Iterable[Tensor]) -> GradientStatistics:
    """Measure gradients of any shapes.

    The same gradients give the same numbers, bit by bit. Sums are taken in float64, so that gradients that differ in
    their last bits have different statistics and the order of summation hardly matters.
    """
    small: list[np.ndarray] = []
    rows: list[Tensor] = []
    for gradient in gradients:
        flat = gradient.detach().reshape(-1)
        if flat.device.type == "cpu" and flat.numel() <= _SMALL and flat.dtype in {torch.float32, torch.float64}:
            small.append(flat.numpy())
        elif flat.numel():
            rows.append(_reduce(flat))
    if small:
        rows.append(_reduce_small(np.concatenate(small)))
    table = torch.stack(rows).cpu().numpy() if rows else np.zeros((1, 4))
    l2, linf, l1, total = np.sqrt(np.square(table[:, 0]).sum()), table[:, 1].max(), table[:, 2].sum(), table[:, 3].sum()
    return GradientStatistics(float(l2), float(linf), float(l1), float(total))


def _reduce(flat: Tensor) -> Tensor:
    """Return l2, linf, l1 and sum of a flat tensor, float64 (4,)."""
    low, high = flat.aminmax()
    return torch.stack(
        [
            torch.linalg.vector_norm(flat, dtype=torch.float64),
            torch.maximum(-low, high).double(),
            torch.linalg.vector_norm(flat, 1, dtype=torch.float64),
            flat.sum(dtype=torch.float64),
        ]
    )


def _reduce_small(flat: np.ndarray) -> Tensor:
    """Do the same on one thread, in blocks that stay in its cache; waking other threads takes longer."""
    squares = linf = l1 = total = 0.0
    for start in range(0, len(flat), _BLOCK):
        block = flat[start : start + _BLOCK].astype(np.float64)
        total += float(block.sum())
        squares += float(np.dot(block, block))
        np.abs(block, out=block)
        l1 += float(block.sum())
        linf = max(linf, float(block.max()))
    return torch.tensor([math.sqrt(squares), linf, l1, total], dtype=torch.float64)


def _close(found: float, wanted: float, margin: float) -> bool:
    return found == wanted or abs(found - wanted) <= margin
