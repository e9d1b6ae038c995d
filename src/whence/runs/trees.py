"""Batches and outputs are tensors, or tuples, lists and dicts of them: the few operations needed on these."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def leaves(tree: Any) -> Iterator[Tensor]:
    """Yield the tensors of a tree, in order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from leaves(value)
    elif isinstance(tree, tuple | list):
        for value in tree:
            yield from leaves(value)


def transform(tree: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return the tree with ``function`` applied to each of its tensors."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        changed = {key: transform(value, function) for key, value in tree.items()}
        return type(tree)(**changed) if hasattr(tree, "to_tuple") else changed  # outputs of transformers
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(transform(value, function) for value in tree))
    if isinstance(tree, tuple | list):
        return type(tree)(transform(value, function) for value in tree)
    return tree


def to_device(tree: Any, device: torch.device) -> Any:
    """Return the tree with its tensors on ``device``."""
    return transform(tree, lambda tensor: tensor.to(device))


def cast_floating(tree: Any, dtype: torch.dtype) -> Any:
    """Return the tree with its floating-point tensors in ``dtype``, the others as they are."""
    return transform(tree, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)


def cast_model(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Bring a model's floating-point parameters and buffers to ``dtype``; ``model.to`` would cut complex ones, too."""
    cast: nn.Module = model._apply(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)
    return cast


def rows(tree: Any, start: int, stop: int) -> Any:
    """Return examples ``start`` to ``stop`` of a batch."""
    return transform(tree, lambda tensor: tensor[start:stop] if tensor.dim() else tensor)


def repeated(tree: Any, row: int, times: int) -> Any:
    """Return a batch of one example of a batch, ``times`` times."""
    index = [row] * times
    return transform(tree, lambda tensor: tensor[index] if tensor.dim() else tensor)
