"""Examples as a reader can look at them: pictures as PNG data, everything else as a few named values."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from whence.datasets import Examples
from whence.report.words import number

_LARGEST = 64  # pixels a side in the page; a larger picture is scaled down to it
_FEATURES = 12  # values shown of an example that is not a picture
_COLOURS = 96  # in a palette: a third of the bytes of full colour, no difference to the eye at this size


@final
@dataclass(frozen=True)
class Look:
    """One example as it is shown.

    Attributes:
        picture: A PNG as a data URI, or None.
        features: Otherwise: pairs of name and value, the first few.
        more: How many values are not shown.
    """

    picture: str | None
    features: tuple[tuple[str, str], ...] = ()
    more: int = 0


def look(examples: Examples, index: int) -> Look:
    """Return how an example is shown."""
    pixels = examples.picture(index)
    if pixels is not None:
        return Look(png(pixels))
    inputs, _ = examples.batch([index])
    named = _values(inputs)
    return Look(None, tuple(named[:_FEATURES]), max(0, _size(inputs) - _FEATURES))


def png(pixels: np.ndarray, largest: int = _LARGEST) -> str:
    """Return a picture as a data URI, scaled down to the largest side that the page shows."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if max(image.size) > largest:
        image.thumbnail((largest, largest))
    if image.mode == "RGB":
        image = image.quantize(_COLOURS)
    return f"data:image/png;base64,{base64.b64encode(_encoded(image)).decode('ascii')}"


def png_bytes(pixels: np.ndarray) -> bytes:
    """Return a picture as the bytes of a PNG file, as large as it is."""
    return _encoded(Image.fromarray(np.ascontiguousarray(pixels)))


def _encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _values(inputs: Any, name: str = "") -> list[tuple[str, str]]:
    """List the first values of a batch of one with their names: ``key[position]``."""
    if isinstance(inputs, Mapping):
        return [pair for key, value in inputs.items() for pair in _values(value, f"{name}{key}")]
    if isinstance(inputs, tuple | list):
        return [pair for key, value in enumerate(inputs) for pair in _values(value, f"{name}{key}")]
    flat = torch.as_tensor(inputs).detach().reshape(-1)
    if flat.numel() == 1:
        return [(name or "value", _value(flat[0]))]
    return [(f"{name or 'value'}[{position}]", _value(value)) for position, value in enumerate(flat[:_FEATURES])]


def _value(value: Tensor) -> str:
    return number(float(value), 4) if value.is_floating_point() else str(value.item())


def _size(inputs: Any) -> int:
    if isinstance(inputs, Mapping):
        return sum(_size(value) for value in inputs.values())
    if isinstance(inputs, tuple | list):
        return sum(_size(value) for value in inputs)
    return int(torch.as_tensor(inputs).numel())
