"""A fingerprint of data: the same in every process, another when the data is another."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from whence._bytes import bytes_of
from whence._errors import DataError

Feed = Callable[[bytes], object]


def fingerprint(parts: Iterable[Any]) -> str:
    """Return ``"blake2b:..."`` of nested tensors, arrays, numbers, texts, images, mappings and sequences."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        _feed(digest.update, part)
    return f"blake2b:{digest.hexdigest()}"


def _feed(feed: Feed, value: Any) -> None:
    """Feed one value, with its kind and length before its bytes, so that no two values give the same stream."""
    if isinstance(value, Tensor):
        _framed(feed, f"tensor {value.dtype} {tuple(value.shape)}", bytes_of(value))
    elif isinstance(value, np.ndarray | np.generic):
        array = np.ascontiguousarray(value)
        _framed(feed, f"array {array.dtype} {array.shape}", array.tobytes())
    elif isinstance(value, Image.Image):
        _framed(feed, f"image {value.mode} {value.size}", value.tobytes())
    elif isinstance(value, bytes):
        _framed(feed, "bytes", value)
    elif value is None or isinstance(value, bool | int | float | complex | str):
        _framed(feed, type(value).__name__, repr(value).encode())
    elif isinstance(value, Mapping):
        _framed(feed, f"mapping {len(value)}", b"")
        for key, item in value.items():
            _feed(feed, key)
            _feed(feed, item)
    elif isinstance(value, tuple | list):
        _framed(feed, f"sequence {len(value)}", b"")
        for item in value:
            _feed(feed, item)
    else:
        raise DataError(
            f"An example holds a {type(value).__name__}, of which no fingerprint can be taken. "
            "Let the dataset return tensors, arrays, numbers, texts, images, or tuples and dicts of them."
        )


def _framed(feed: Feed, kind: str, content: bytes | memoryview) -> None:
    feed(f"{kind} {len(content)}:".encode())
    feed(content)  # type: ignore[arg-type]  # hashlib takes any buffer
