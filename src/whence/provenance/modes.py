"""Training and evaluation mode, of a whole module and of its parts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


def rest(module: nn.Module) -> None:
    """Put the frozen parts of a module into evaluation mode, with all that is in them."""
    for part in module.children():
        own = [one.requires_grad for one in part.parameters()]
        if own and not any(own):
            part.eval()
        else:
            rest(part)


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
