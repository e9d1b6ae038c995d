"""Inputs of a network as pictures: all of one page on one scale, so that they can be compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from whence._errors import ArgumentError
from whence._files import make_folder, write_atomically
from whence.datasets import Examples, Images
from whence.datasets.images import picture
from whence.report.pictures import png, png_bytes

_SIDE = 4  # pixels: what is smaller is no picture
_SHARPEST = 160  # pixels a side on a page of few pictures


@final
@dataclass(frozen=True, eq=False)
class Scale:
    """Which numbers of an input are black and white.

    Attributes:
        low: Black, of each channel or of all.
        high: White.
    """

    low: Float[Tensor, "..."]
    high: Float[Tensor, "..."]

    def pixels(self, view: Tensor) -> np.ndarray | None:
        """Return one input as bytes, (height, width) or (height, width, 3); None if it is no picture."""
        if not _is_picture(view):
            return None
        low, high = self.low.to(view), self.high.to(view)
        return picture((((view - low) / (high - low)).clamp(0, 1) * 255).round())

    def png(self, view: Tensor) -> str | None:
        """Return one input as a data URI; None if it is no picture."""
        pixels = self.pixels(view)
        return None if pixels is None else png(pixels, _SHARPEST)

    def read(self, brightness: Float[Tensor, "channels height width"]) -> Float[Tensor, "channels height width"]:
        """Return a picture of brightness 0 to 1 as an input."""
        return self.low + brightness * (self.high - self.low)


def scale_of(
    examples: Examples | None = None, inputs: Tensor | None = None, bounds: tuple[float, float] | None = None
) -> Scale:
    """Return the scale of some data's images, or else of a prior's bounds, or else from 0 or below to 1 or above.

    Args:
        examples: Data; `Images` know how they were made of bytes.
        inputs: Inputs that are to be seen whole, where nothing else says what black and white are.
        bounds: Of a prior's inputs.
    """
    if examples is not None and isinstance(examples.source, Images):
        mean, std = examples.source.mean, examples.source.std
        return Scale(-mean / std, (1 - mean) / std)
    ends = bounds
    if ends is None and inputs is not None:
        low, high = float(inputs.min()), float(inputs.max())
        ends = (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
    low, high = ends or (0.0, 1.0)
    return Scale(torch.tensor(low), torch.tensor(high if high > low else low + 1))


def refuse_no_picture(view: Tensor) -> None:
    """Check that an input can be drawn.

    Raises:
        ArgumentError: If it is no picture.
    """
    if not _is_picture(view):
        raise ArgumentError(
            f"Inputs of shape {tuple(view.shape)} are no pictures: they need 1 or 3 channels, and sides of at least "
            f"{_SIDE}. Leave the pictures out."
        )


def _is_picture(view: Tensor) -> bool:
    return view.ndim == 3 and view.shape[0] in (1, 3) and min(view.shape[1:]) >= _SIDE


def draw_inputs(inputs: Float[Tensor, "some *input"], names: list[str], folder: str | Path, scale: Scale) -> list[Path]:
    """Write each input as a PNG of its own size.

    Args:
        inputs: Pictures.
        names: Of the files, without their ending.
        folder: Made if it is not there.
        scale: Of the pictures.

    Returns:
        The files.

    Raises:
        ArgumentError: If the inputs are no pictures, or a file stands where the folder would be.
        DiskError: If the disk is full or refuses to write.
    """
    place, files = Path(folder), []
    refuse_no_picture(inputs[0])
    drawn = [scale.pixels(one) for one in inputs]
    make_folder(place)
    for name, pixels in zip(names, drawn, strict=True):
        if pixels is not None:
            files.append(place / f"{name}.png")
            write_atomically(files[-1], png_bytes(pixels))
    return files
