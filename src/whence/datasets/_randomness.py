"""The three random number generators of a Python program, seeded or kept for the length of a block."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def kept_generators() -> Iterator[None]:
    """Put the CPU generators of Python, numpy and torch back, at the end, as they were at the start."""
    python, numpy, torch_state = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.default_generator.set_state(torch_state)


@contextmanager
def seeded_generators(*numbers: int) -> Iterator[None]:
    """Seed the three generators by a hash of ``numbers`` for the length of the block; then put them back."""
    digest = hashlib.blake2b(repr(numbers).encode(), digest_size=16).digest()
    with kept_generators():
        random.seed(digest)
        np.random.seed(np.frombuffer(digest, dtype=np.uint32))
        torch.default_generator.manual_seed(int.from_bytes(digest[:8], "little", signed=True))
        yield
