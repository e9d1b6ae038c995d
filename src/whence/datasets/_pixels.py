"""Image files and bytes, read with Pillow."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from whence._errors import DataError

Mode = Literal["RGB", "L"]
Size = tuple[int, int]
_GREATEST = 2**16 - 1  # of 16 bits
_STEPS = _GREATEST // 255  # of them to one of 8


def read_pixels(content: bytes | Path, *, mode: Mode, size: Size | None, name: str) -> Tensor:
    """Read one image as bytes (channels, height, width).

    Args:
        content: The encoded image, or the file that holds it.
        mode: ``"RGB"`` for three channels, ``"L"`` for grey.
        size: (height, width) to resize to; None keeps its own.
        name: What to call the image in an error.

    Raises:
        DataError: If it is not an image that Pillow can read.
    """
    try:
        with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as opened:
            image = _eight_bits(opened).convert(mode)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{name} is not an image that can be read: {error}. Repair it or take it out.") from error
    if size is not None and (image.height, image.width) != size:
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    array = np.array(image, dtype=np.uint8)
    return torch.from_numpy(array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1)))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return an image whose numbers end at 255: Pillow takes every greater one of 16 bits for white."""
    if not image.mode.startswith("I"):
        return image
    numbers = np.asarray(image)
    if numbers.min() < 0 or numbers.max() > _GREATEST:
        raise ValueError(f"its numbers go from {numbers.min()} to {numbers.max()}, beyond 16 bits")
    return Image.fromarray((numbers / _STEPS).round().astype(np.uint8))


def check_sizes(sizes: Sequence[Size], names: Sequence[str]) -> None:
    """Check that all images have one size, (height, width).

    Raises:
        DataError: If two differ.
    """
    for size, name in zip(sizes, names, strict=True):
        if size != sizes[0]:
            raise DataError(
                f"The images differ in size: {names[0]} is {sizes[0]}, {name} is {size} (height, width). "
                "Give size=(height, width) to resize them all."
            )
