"""The bytes of a tensor, for checksums."""

from __future__ import annotations

import torch
from torch import Tensor


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor's entries, in their order; not copied where they lie so on the CPU already."""
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    flat = plain.as_strided((plain.numel(),), (1,))  # torch takes a single entry as contiguous, whatever its stride
    return flat.view(torch.uint8).numpy().data
