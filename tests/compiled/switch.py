"""Doing without the compiled kernels, as on a machine without C compiler."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch


@contextmanager
def without_kernels() -> Iterator[None]:
    """Compute by torch's own operations inside the ``with``."""
    with patch("whence.compiled.loading.library", lambda _dtype: None):
        yield
