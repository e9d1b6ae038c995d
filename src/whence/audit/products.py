"""The one large matrix product of the audit, in the precision asked for.

Some CPUs run float32 products at less than half their speed through the default library, while oneDNN reaches it. The
switch that routes products to oneDNN also permits it to round to bfloat16 where the CPU has units for that, so it is
used only after its error has been measured on this very machine. Likewise, factors in bfloat16 are multiplied as they
are only where that is measured to be no slower: a CPU without instructions for it takes ten times as long.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

_TRIES = 5  # the first of them also sets up the library
_FLOAT32_ERROR = 1e-5  # relative; a sum of 4096 float32 products errs by about 1e-6, one of bfloat16 products by 1e-3


def add_product(
    total: Float[Tensor, "targets examples"],
    left: Float[Tensor, "targets width"],
    right: Float[Tensor, "examples width"],
    scale: float,
) -> None:
    """Add ``scale * left @ right.T`` to ``total`` in place.

    Where ``right`` is of a lower type, ``left`` is rounded to it if the device is fast in that type; if not, the
    product is taken in the type of ``left``.
    """
    if left.dtype == right.dtype:
        total.addmm_(left, right.T, alpha=scale)
    elif multiplies_low(right, left):
        total.add_(left.to(right.dtype) @ right.T, alpha=scale)
    else:
        total.addmm_(left, right.to(left.dtype).T, alpha=scale)


def multiplies_low(right: Tensor, left: Tensor) -> bool:
    """Say whether a product of factors of two types is taken in the lower, that of ``right``."""
    if left.dtype == right.dtype:
        return False
    return right.device.type != "cpu" or _no_slower(right.dtype, left.dtype)


@contextmanager
def fast_products() -> Iterator[None]:
    """Let oneDNN compute float32 matrix products on the CPU inside the ``with``, where that is measured to be exact."""
    backend = _switch()
    before = backend.fp32_precision
    if not _exact_through_onednn():
        yield
        return
    backend.fp32_precision = "bf16"
    try:
        yield
    finally:
        backend.fp32_precision = before


def _switch() -> Any:
    """Return the object whose ``fp32_precision`` decides how oneDNN multiplies matrices (torch's types lack it)."""
    return torch.backends.mkldnn.matmul  # type: ignore[attr-defined]


@cache
def _exact_through_onednn() -> bool:
    if not torch._C._has_mkldnn:
        return False
    backend = _switch()
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(64, 4096, generator=generator) for _ in range(2))
    true = left.double() @ right.double().T
    before = backend.fp32_precision
    try:
        backend.fp32_precision = "bf16"
        ours = left @ right.T
    finally:
        backend.fp32_precision = before
    return bool((ours - true).abs().max() <= _FLOAT32_ERROR * true.abs().max())


@cache
def _no_slower(low: torch.dtype, high: torch.dtype) -> bool:
    """Measure whether this CPU multiplies matrices of one type at least as fast as those of another."""
    return _seconds(low) <= _seconds(high)


def _seconds(dtype: torch.dtype) -> float:
    left, right = (torch.ones(128, 2048, dtype=dtype) for _ in range(2))
    found = []
    for _ in range(_TRIES):
        start = time.perf_counter()
        left @ right.T
        found.append(time.perf_counter() - start)
    return min(found)
