"""The rule of convolutions."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from whence import compiled
from whence.gradients.calls import Call
from whence.gradients.factored import Outer
from whence.gradients.per_example import Dense, PerExample

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
_ROWS, _COLUMNS = 4, 6  # of a group's weight; the compiled kernel computes some such tile, or a larger one, at once
_ROOM = 2**26  # bytes that the patches may take on an accelerator, where one product of all beats many of few


def convolution(call: Call, wanted: frozenset[str]) -> dict[str, PerExample]:
    """Σ_l e_l ⊗ (patch of a under l) for the weight, Σ_l e_l for the bias, over positions l.

    The weight's gradients are written out, unless the patches take less room (a layer with many
    channels and few positions).
    """
    layer = cast("Convolution", call.module)
    a, e = call.factors(layer.weight.dtype)
    found: dict[str, PerExample] = {}
    if "weight" in wanted:
        rows, columns = layer.out_channels, prod(layer.weight.shape[1:])
        positions = prod(e.shape[2:])
        whole = layer.groups == 1
        if whole and positions * (rows + columns) < rows * columns:
            found["weight"] = patched(layer, padded(layer, a), e)
        elif whole and not a.is_cpu and len(e) * positions * columns * e.itemsize <= _ROOM:
            found["weight"] = at_once(layer, padded(layer, a), e)
        elif isinstance(layer, nn.Conv1d | nn.Conv2d) and suits_kernel(layer, len(e)) and compiled.has_kernels(e):
            found["weight"] = by_kernel(layer, padded(layer, a), e)
        else:
            found["weight"] = written(layer, padded(layer, a), e)
    if "bias" in wanted:
        found["bias"] = Dense(e.flatten(2).sum(2))
    return found


def padded(layer: Convolution, a: Tensor) -> Tensor:
    """Return the input with the layer's own padding around it."""
    sides: list[int] = []
    for axis in reversed(range(len(layer.kernel_size))):
        if layer.padding == "same":
            total = layer.dilation[axis] * (layer.kernel_size[axis] - 1)
            sides += [total // 2, total - total // 2]
        elif layer.padding == "valid":
            sides += [0, 0]
        else:
            sides += [cast("tuple[int, ...]", layer.padding)[axis]] * 2
    if not any(sides):
        return a
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(a, sides, mode=mode)


def written(
    layer: Convolution,
    a: Float[Tensor, "examples channels *space"],
    e: Float[Tensor, "examples rows *positions"],
) -> Dense:
    """Return the weight's gradients written out, one matrix product per offset of the kernel.

    Patches are unfolded along the last axis only; an offset along the others is a slice. On LeNet-5
    (batch 256, float32, 2 threads) that takes 1.0 ms for the first layer and 1.7 ms for the second;
    a full unfold and one product 4.1 and 3.6, einsum over windows 3.8 and 3.2, one grouped
    convolution 1.9 and 2.2, a product per single offset without unfolding 2.1 and 3.7.
    """
    *outer, last = layer.kernel_size
    examples, groups, inside = e.shape[0], layer.groups, layer.in_channels // layer.groups
    unfolded = windows(a, -1, last, layer.stride[-1], layer.dilation[-1]).movedim(-1, 2).contiguous()
    by_group = e.reshape(examples * groups, e.shape[1] // groups, prod(e.shape[2:]))
    values = e.new_empty(*by_group.shape[:2], inside, *layer.kernel_size)
    for offset in product(*(range(size) for size in outer)):
        block = unfolded
        for axis, at in enumerate(offset):
            begin, step = at * layer.dilation[axis], layer.stride[axis]
            block = block[
                (slice(None),) * (3 + axis) + (slice(begin, begin + step * (e.shape[2 + axis] - 1) + 1, step),)
            ]
        block = block.reshape(examples * groups, inside * last, by_group.shape[2])
        one = torch.bmm(block, by_group.transpose(1, 2)).view(examples * groups, inside, last, by_group.shape[1])
        values[(slice(None),) * 3 + offset] = one.movedim(3, 1)
    return Dense(values.reshape(examples, *layer.weight.shape))


def suits_kernel(layer: Convolution, examples: int) -> bool:
    """Say whether the compiled kernel, rather than products, suits a layer.

    It needs rows and columns to fill its tiles, more than one tap, and examples for every thread.
    """
    groups, taps = layer.groups, prod(layer.kernel_size)
    filled = layer.out_channels // groups >= _ROWS and layer.in_channels // groups * taps >= _COLUMNS
    return filled and taps > 1 and examples * groups >= torch.get_num_threads()


def by_kernel(
    layer: nn.Conv1d | nn.Conv2d,
    a: Float[Tensor, "examples channels *space"],
    e: Float[Tensor, "examples rows *positions"],
) -> Dense:
    """Return the weight's gradients written out, by the compiled kernel; one axis is two, the first of length 1."""
    flat = isinstance(layer, nn.Conv1d)
    kernel, stride, dilation = (
        (1, int(one[0])) if flat else (int(one[0]), int(one[1]))
        for one in (layer.kernel_size, layer.stride, layer.dilation)
    )
    if flat:
        a, e = a.unsqueeze(2), e.unsqueeze(2)
    examples, groups = len(e), layer.groups
    a = a.reshape(examples * groups, layer.in_channels // groups, *a.shape[2:])
    e = e.reshape(examples * groups, layer.out_channels // groups, *e.shape[2:])
    found = compiled.convolution(a, e, kernel, stride, dilation)
    return Dense(found.view(examples, *layer.weight.shape))


def at_once(
    layer: Convolution,
    a: Float[Tensor, "examples channels *space"],
    e: Float[Tensor, "examples rows *positions"],
) -> Dense:
    """Return the weight's gradients written out, in one matrix product with the patches."""
    return Dense(patched(layer, a, e).part(0, layer.out_channels).view(len(e), *layer.weight.shape))


def patched(
    layer: Convolution,
    a: Float[Tensor, "examples channels *space"],
    e: Float[Tensor, "examples rows *positions"],
) -> Outer:
    """Return the weight's gradients as factors: output gradients and the patches they saw."""
    dimensions = len(layer.kernel_size)
    patches = a
    for axis in range(dimensions):
        size, stride, dilation = layer.kernel_size[axis], layer.stride[axis], layer.dilation[axis]
        patches = windows(patches, 2 + axis, size, stride, dilation)
    positions = range(2, 2 + dimensions)
    kernel = range(2 + dimensions, 2 + 2 * dimensions)
    columns = patches.permute(0, *positions, 1, *kernel)
    columns = columns.reshape(e.shape[0], prod(e.shape[2:]), prod(layer.weight.shape[1:]))
    return Outer(e.flatten(2).transpose(1, 2), columns, layer.weight.shape)


def windows(a: Tensor, axis: int, size: int, stride: int, dilation: int) -> Tensor:
    """Return a view in which ``axis`` counts positions and a new last axis the kernel's taps."""
    return a.unfold(axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
