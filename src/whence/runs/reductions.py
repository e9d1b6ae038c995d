"""Losses that say by ``reduction`` how one loss per example becomes one for the batch."""

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn

_OF_TORCH = ("torch.nn.functional", "torch.nn.modules.loss")


def is_of_torch(loss: Any) -> bool:
    """Return whether a loss is torch's own, whose reduction is what it says."""
    if isinstance(loss, functools.partial):
        return is_of_torch(loss.func)
    return getattr(type(loss) if isinstance(loss, nn.Module) else loss, "__module__", None) in _OF_TORCH


def takes_reduction(loss: Callable[..., Tensor]) -> bool:
    """Return whether a function has an argument ``reduction``."""
    try:
        return "reduction" in inspect.signature(loss).parameters
    except (TypeError, ValueError):
        return False


def without_reduction(loss: nn.Module) -> Callable[..., Tensor]:
    """Return a loss module that gives one loss per example."""
    unreduced: Any = copy.copy(loss)
    unreduced.reduction = "none"
    return cast("Callable[..., Tensor]", unreduced)
