"""Labels that a model draws, for the true Fisher matrix of its loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from whence._errors import ArgumentError
from whence.runs import TrainingLoss

FISHERS = ("true", "empirical")
_OF_CLASSES, _SQUARED = ("cross_entropy", "CrossEntropy"), ("mse_loss", "MSELoss")


def can_be_drawn(loss: TrainingLoss, outputs: Any, labels: Any) -> None:
    """Refuse a loss that is not known as the negative logarithm of a probability.

    Raises:
        ArgumentError: If it is not cross-entropy of class numbers given logits, or squared error.
    """
    logits = getattr(outputs, "logits", outputs)
    classes = isinstance(labels, Tensor) and not labels.is_floating_point() and labels.ndim == 1
    one_each = isinstance(logits, Tensor) and logits.ndim == 2
    if not (_is(loss, _SQUARED) and isinstance(logits, Tensor)) and not (
        _is(loss, _OF_CLASSES) and classes and one_each
    ):
        raise ArgumentError(
            f"The model cannot draw labels for the loss {loss.name}: it is not the cross-entropy of one class number "
            "per example, nor the squared error. Give fisher='empirical', which takes the training labels."
        )


def drawn_labels(loss: TrainingLoss, outputs: Any, ids: Sequence[int], seed: int) -> Tensor:
    """Return labels drawn from what the outputs say, the same for an example in every batch.

    Args:
        loss: Cross-entropy, where exp(-loss) is a probability; or squared error, summed over outputs, where it is a
            normal density of variance 1/2 up to a factor.
        outputs: One row per example.
        ids: Of the examples.
        seed: Of the draws.
    """
    logits: Tensor = getattr(outputs, "logits", outputs).detach()
    own = [torch.Generator().manual_seed((seed * 2**31 + one) % 2**63) for one in ids]
    if _is(loss, _SQUARED):
        noise = torch.stack([torch.randn(logits.shape[1:], generator=one) for one in own]).to(logits)
        return torch.add(logits, noise, alpha=0.5**0.5)
    uniform = torch.cat([torch.rand(1, generator=one) for one in own]).to(logits)
    below = torch.softmax(logits, 1).cumsum(1)[:, :-1].contiguous()
    return torch.searchsorted(below, uniform[:, None], right=True).squeeze(1)


def _is(loss: TrainingLoss, names: tuple[str, ...]) -> bool:
    return any(name in loss.name for name in names)
