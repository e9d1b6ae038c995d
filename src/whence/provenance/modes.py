"""Training and evaluation mode, of a whole module and of its parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from torch import nn


def rest(module: nn.Module) -> None:
    """Put the frozen parts of a module into evaluation mode, with all that is in them."""
    for part in module.children():
        own = [one.requires_grad for one in part.parameters()]
        if own and not any(own):
            part.eval()
        else:
            rest(part)


_Own = TypeVar("_Own", bound="Resting")


class Resting(nn.Module):
    """A module whose frozen parts stay in evaluation mode."""

    def train(self: _Own, mode: bool = True) -> _Own:  # beartype does not know Self here
        """Set the mode as torch does, but leave parts that are frozen in evaluation mode.

        A part is frozen if it has parameters and none of them requires a gradient. Its batch normalisation then keeps
        its statistics and its dropout rests, so that a part which does not learn stays as it is. To let one adapt
        in a loop of your own, call its ``train`` after this one.

        Args:
            mode: Whether to train.
        """
        super().train(mode)
        if mode:
            rest(self)
        return self


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and each part of it back into the mode it had."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
