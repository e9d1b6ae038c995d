"""Whence: trace what a trained network does back to where it came from."""

from whence.datasets import Examples, as_examples

__all__ = (
    "Examples",
    "as_examples",
)
