"""How a layer's output is laid out: channels along one axis, positions along the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from whence._errors import ArgumentError, ShapeError
from whence.kernel import check_layer

_MAP = 4  # axes of the output of a convolution over images


def checked_model(model: Any, layer: Any) -> None:
    """Refuse a model that is no module of torch, and a layer's name that is no word.

    Raises:
        ArgumentError: If there is such.
    """
    if not isinstance(model, nn.Module) or not isinstance(layer, str):
        raise ArgumentError(
            f"A model is a torch.nn.Module, and a layer a name of dict(model.named_modules()); got a "
            f"{type(model).__name__} and {layer!r}."
        )


def axis_of(activations: Tensor, channel_axis: int | None, width: int | None = None) -> int:
    """Return the axis along which a layer's output has its channels.

    Args:
        activations: The output.
        channel_axis: The axis that the user named; None for axis 1 of four or more, and for the last of fewer.
        width: How many channels there must be.

    Raises:
        ShapeError: If there is no such axis, or another number of channels.
    """
    shape = tuple(activations.shape)
    axis = (1 if len(shape) >= _MAP else -1) if channel_axis is None else channel_axis
    place = axis % len(shape) if -len(shape) <= axis < len(shape) else 0
    if place == 0:
        raise ShapeError(
            f"The layer's output has shape {shape}: the first axis is the examples, and channels cannot be on axis "
            f"{axis}. Give `channel_axis` from 1 to {len(shape) - 1}, or a layer with channels."
        )
    if width is not None and shape[place] != width:
        fitting = [one for one in range(1, len(shape)) if shape[one] == width]
        hint = f" Axis {fitting[0]} has as many: make it with channel_axis={fitting[0]}." if fitting else ""
        raise ShapeError(
            f"The autoencoder is of a layer with {width} channels; this output of shape {shape} has {shape[place]} on "
            f"axis {place}.{hint or ' Give the layer that it was trained on.'}"
        )
    return place


def rows_of(activations: Float[Tensor, "batch ..."], axis: int) -> Float[Tensor, "batch positions width"]:
    """Return a layer's output with one row of channels a position, in the order of the other axes."""
    moved = activations.movedim(axis, -1)
    return moved.reshape(moved.shape[0], -1, moved.shape[-1])


def laid_back(
    rows: Float[Tensor, "batch positions width"], like: Float[Tensor, "batch ..."], axis: int
) -> Float[Tensor, "batch ..."]:
    """Return rows in the layout, type and shape of a layer's output: the inverse of `rows_of`."""
    shape = like.movedim(axis, -1).shape
    return rows.reshape(shape).movedim(-1, axis).to(like.dtype)


def grid_of(activations: Tensor, axis: int) -> tuple[int, ...]:
    """Return how many positions there are along each axis of a layer's output beside examples and channels."""
    return tuple(size for place, size in enumerate(activations.shape) if place not in {0, axis})


def device_of(model: nn.Module) -> torch.device:
    """Return where a model's parameters are, the CPU if it has none."""
    return next((one.device for one in model.parameters()), torch.device("cpu"))


@contextmanager
def replaced(model: nn.Module, layer: str, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let a layer's output be changed while the block runs.

    Raises:
        LabelError: If there is no such layer.
    """
    check_layer(model, layer)

    def changed(_module: nn.Module, _args: Any, out: Any) -> Tensor:
        if not isinstance(out, Tensor):
            raise ArgumentError(
                f"The layer {layer!r} gives a {type(out).__name__}, not a tensor, so it cannot be replaced. Name "
                "another layer."
            )
        return change(out)

    handle = model.get_submodule(layer).register_forward_hook(changed)
    try:
        yield
    finally:
        handle.remove()
