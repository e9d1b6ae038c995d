"""torch's random state: of the CPU, and of the model's CUDA device."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

_LENGTH = struct.Struct("<I")


@final
@dataclass(frozen=True)
class RandomState:
    """Where torch's global generators stand.

    Attributes:
        cpu: State of the CPU generator (bytes,).
        cuda: State of the model's device's generator (bytes,); None if the model is on the CPU.
    """

    cpu: Tensor
    cuda: Tensor | None = None

    @classmethod
    def read(cls, device: torch.device) -> "RandomState":
        """Return the state now."""
        return cls(torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None)

    def restore(self, device: torch.device) -> None:
        """Set the generators back to this state."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None and device.type == "cuda":
            torch.cuda.set_rng_state(self.cuda, device)

    def same(self, other: "RandomState") -> bool:
        """Return whether two states are equal."""
        return self.encode() == other.encode()  # faster than comparing tensors

    def encode(self) -> bytes:
        """Return the state as bytes: the length of the CPU's part, that part, the device's part."""
        cpu = self.cpu.numpy().tobytes()
        return _LENGTH.pack(len(cpu)) + cpu + (b"" if self.cuda is None else self.cuda.cpu().numpy().tobytes())

    @classmethod
    def decode(cls, content: bytes) -> "RandomState":
        """Return the state that `encode` wrote."""
        end = _LENGTH.size + _LENGTH.unpack_from(content)[0]
        cuda = torch.frombuffer(bytearray(content[end:]), dtype=torch.uint8) if len(content) > end else None
        return cls(torch.frombuffer(bytearray(content[_LENGTH.size : end]), dtype=torch.uint8), cuda)


@contextmanager
def kept_randomness(device: torch.device) -> Iterator[None]:
    """Put the generators back, at the end, as they were at the start, also on error."""
    state = RandomState.read(device)
    try:
        yield
    finally:
        state.restore(device)


@contextmanager
def same_convolutions(device: torch.device) -> Iterator[None]:
    """Have cuDNN compute convolutions on a CUDA device alike each time, until the end; elsewhere they are already.

    By default it chooses among algorithms by speed, some of which add up in the order in which threads end: a training
    made again then drifts from the recorded one by rounding, which grows from step to step.
    """
    cudnn: Any = torch.backends.cudnn
    if device.type != "cuda":
        yield
        return
    before = cudnn.benchmark, cudnn.deterministic
    cudnn.benchmark, cudnn.deterministic = False, True
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = before
