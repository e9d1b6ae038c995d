"""Per-example gradients of a convolution's weight."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

from jaxtyping import Float
from torch import Tensor

from whence._errors import ShapeError
from whence.compiled.loading import loaded, plain, run

_AXES = 2


def convolution(
    a: Float[Tensor, "examples channels height width"],
    e: Float[Tensor, "examples rows *positions"],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> Float[Tensor, "examples rows channels *kernel"]:
    """Return Σ_l e_l ⊗ (patch of a under l) over positions l, example by example.

    Args:
        a: The layer's input, padded.
        e: Its output gradients.
        kernel, stride, dilation: The layer's.

    Raises:
        TypeError: If there are no kernels for numbers as in ``e``; ask `has_kernels` first.
        ShapeError: If the output gradients are not those of such an input.
        MemoryError: If a thread found no memory.
    """
    kernels = loaded(e)
    a, e = plain(a, e.dtype), plain(e, e.dtype)
    examples, channels, height, width = a.shape
    seen = [
        (n - 1) * step + (k - 1) * d + 1 for n, step, k, d in zip(e.shape[2:], stride, kernel, dilation, strict=True)
    ]
    if len(e) != examples or seen[0] > height or seen[1] > width:
        raise ShapeError(
            f"Output gradients of shape {tuple(e.shape)} see inputs of as many examples and of at least {tuple(seen)}; "
            f"got {tuple(a.shape)}. Give the input as it is padded."
        )
    found = e.new_empty(examples, e.shape[1], channels, *kernel)
    pair = ctypes.c_long * _AXES
    job = _kind()(
        examples=examples,
        rows=e.shape[1],
        channels=channels,
        height=height,
        width=width,
        positions=pair(*e.shape[2:]),
        kernel=pair(*kernel),
        stride=pair(*stride),
        dilation=pair(*dilation),
        input=a.data_ptr(),
        output_gradients=e.data_ptr(),
        found=found.data_ptr(),
    )
    run(kernels.convolve, job)
    return found


@cache
def _kind() -> Any:
    """Return the job as the kernels know it."""

    class Job(ctypes.Structure):
        _fields_ = (
            *((name, ctypes.c_long) for name in ("examples", "rows", "channels", "height", "width")),
            *((name, ctypes.c_long * _AXES) for name in ("positions", "kernel", "stride", "dilation")),
            *((name, ctypes.c_void_p) for name in ("input", "output_gradients", "found")),
        )

    return Job
