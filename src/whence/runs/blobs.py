"""The parts of a step's row that are bytes: example ids, buffers."""

from collections.abc import Mapping

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

_FOUR_BYTES = 1 << 32


def encode_ids(ids: np.ndarray) -> bytes:
    """Return ids in four bytes each if they fit, else in eight."""
    return ids.astype("<u4" if ids.max() < _FOUR_BYTES else "<i8").tobytes()


def batches_of(ids: bytes, sizes: bytes) -> tuple[Tensor, ...]:
    """Return the ids of each microbatch, int64 (batch,), from what `encode_ids` wrote and the number of each."""
    counts = np.frombuffer(sizes, dtype="<i8").tolist()
    kind = "<u4" if len(ids) == 4 * sum(counts) else "<i8"
    return torch.split(torch.from_numpy(np.frombuffer(ids, dtype=kind).astype(np.int64)), counts)


def encode_buffers(buffers: Mapping[int, Mapping[str, Tensor]]) -> bytes | None:
    """Return the buffers before some microbatches, by their number and name, as bytes; None if there are none."""
    named = {
        f"{number}/{name}": value.contiguous() for number, group in buffers.items() for name, value in group.items()
    }
    return save_tensors(named) if named else None


def decode_buffers(content: bytes | None) -> dict[int, dict[str, Tensor]]:
    """Return the buffers that `encode_buffers` wrote."""
    found: dict[int, dict[str, Tensor]] = {}
    for key, value in (load_tensors(content) if content else {}).items():
        number, _, name = key.partition("/")
        found.setdefault(int(number), {})[name] = value
    return found
