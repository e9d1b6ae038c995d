"""Four numbers that tell whether two gradients are the same, or the same up to a scalar."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

_JOINED = 1 << 16  # tensors of at most so many elements are joined before they are reduced


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

    The same gradients give the same numbers, bit by bit, on the same machine. Small tensors are reduced together.
    """
    small: list[Tensor] = []
    parts: list[Tensor] = []
    for gradient in gradients:
        if gradient.numel() <= _JOINED:
            small.append(gradient.detach().reshape(-1))
        else:
            parts.append(gradient.detach().reshape(-1))
    if small:
        parts.append(torch.cat(small) if len(small) > 1 else small[0])
    rows = [_reduce(part) for part in parts if part.numel()]
    if not rows:
        return GradientStatistics(0.0, 0.0, 0.0, 0.0)
    table = torch.stack(rows).cpu()
    l2, linf, l1, total = table[:, 0].norm(), table[:, 1].max(), table[:, 2].sum(), table[:, 3].sum()
    return GradientStatistics(float(l2), float(linf), float(l1), float(total))


def _reduce(flat: Tensor) -> Tensor:
    """Return l2, linf, l1 and sum of a flat tensor, as float64 (4,)."""
    working = flat.float() if flat.dtype in {torch.float16, torch.bfloat16} else flat
    low, high = working.aminmax()
    sizes = working.abs()
    return torch.stack(
        [
            torch.linalg.vector_norm(working),
            torch.maximum(-low, high),
            sizes.sum(),
            working.sum(),
        ]
    ).double()


def _close(found: float, wanted: float, margin: float) -> bool:
    return found == wanted or abs(found - wanted) <= margin
