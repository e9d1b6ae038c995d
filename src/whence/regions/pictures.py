"""Region maps as pictures: laid over the image, and side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float
from PIL import Image, ImageDraw

from whence._errors import ArgumentError, ShapeError
from whence._numbers import is_whole

_RAISES, _LOWERS = np.array([214.0, 96.0, 20.0]), np.array([35.0, 110.0, 200.0])  # orange and blue: told apart by all
_QUANTILE = 0.99  # of the map's absolute values, which is drawn at full strength
_GREY = 0.5  # how much of the image's own colour is taken away
_GAP, _LINE = 8, 16  # pixels between panels, and of a line of text


def overlay(
    picture: np.ndarray | Image.Image, region: xr.DataArray | Float[np.ndarray, "height width"], *, size: int = 160
) -> Image.Image:
    """Lay a map over its image: orange raises the score, blue lowers it, and the image fades to grey below.

    Args:
        picture: (height, width) or (height, width, 3) bytes, as `Examples.picture` gives, or a Pillow image.
        region: The map, (height, width).
        size: Length of the longer side of the result, in pixels.

    Raises:
        ShapeError: If map and image differ in height or width.
        ArgumentError: If the size is below 1, or the map is not finite.

    Examples:
        >>> overlay(np.zeros((2, 2), dtype=np.uint8), np.array([[1.0, 0.0], [0.0, -1.0]]), size=2).getpixel((0, 0))
        (214, 96, 20)
    """
    values, image = np.asarray(region, dtype=np.float64), as_image(picture)
    if values.shape != (image.height, image.width):
        raise ShapeError(
            f"The map has shape {values.shape} and the image {(image.height, image.width)}. Give one map, such as "
            "maps[0], and the picture of its training example."
        )
    if not np.isfinite(values).all():
        raise ArgumentError("The map has entries that are not finite. Look at its scores for the pair that overflowed.")
    scale = float(np.quantile(np.abs(values), _QUANTILE)) or float(np.abs(values).max()) or 1.0
    strength = np.clip(np.abs(values) / scale, 0, 1)[..., None]
    colour = np.where(values[..., None] > 0, _RAISES, _LOWERS)
    own = np.asarray(image, dtype=np.float64)
    faded = (1 - _GREY) * own + _GREY * own.mean(2, keepdims=True)
    mixed = (1 - strength) * faded + strength * colour
    return enlarged(Image.fromarray(mixed.round().astype(np.uint8)), size)


def side_by_side(panels: Mapping[str, np.ndarray | Image.Image], *, size: int = 160) -> Image.Image:
    """Put pictures in a row, each with its caption above.

    Args:
        panels: Pictures by caption.
        size: Length of the longer side of each, in pixels.

    Raises:
        ArgumentError: If there is no picture, or the size is below 1.

    Examples:
        >>> side_by_side({"target": np.zeros((4, 4), np.uint8), "map": np.zeros((4, 4), np.uint8)}, size=40).size
        (104, 68)
    """
    if not panels:
        raise ArgumentError("No picture to put side by side. Give them by caption: {'target': picture, ...}.")
    images = {caption: enlarged(as_image(one), size) for caption, one in panels.items()}
    head = _LINE + _GAP // 2
    width = sum(one.width for one in images.values()) + _GAP * (len(images) + 1)
    sheet = Image.new("RGB", (width, head + max(one.height for one in images.values()) + _GAP), "white")
    draw, left = ImageDraw.Draw(sheet), _GAP
    for caption, one in images.items():
        draw.text((left, _GAP // 2), caption, fill="black")
        sheet.paste(one, (left, head))
        left += one.width + _GAP
    return sheet


def as_image(picture: Any) -> Image.Image:
    """Read a picture.

    Raises:
        ArgumentError: If it is none.
    """
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    array = np.asarray(picture)
    if (
        array.dtype != np.uint8
        or not array.size
        or array.ndim not in {2, 3}
        or (array.ndim == 3 and array.shape[2] != 3)
    ):
        raise ArgumentError(
            "A picture is a Pillow image, or bytes (height, width) or (height, width, 3), as examples.picture(id) "
            f"gives; got {array.dtype} of shape {array.shape}."
        )
    return Image.fromarray(array).convert("RGB")


def enlarged(image: Image.Image, size: int) -> Image.Image:
    """Return an image with its longer side of a length, its pixels as squares.

    Raises:
        ArgumentError: If the size is below 1.
    """
    if not is_whole(size) or size < 1:
        raise ArgumentError(f"`size` is a whole number of pixels, at least 1; got {size!r}.")
    scale = size / max(image.size)
    side = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(side, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS)
