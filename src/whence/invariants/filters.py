"""Ideal low-pass filters of images."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from whence._errors import ArgumentError, DataError, ShapeError
from whence._numbers import is_number

_PICTURES = 3  # dimensions of a picture with its channels


def low_pass(images: Float[Tensor, "... height width"], cutoff: float) -> Float[Tensor, "... height width"]:
    """Keep the frequencies of images up to a share of the highest one (EquiDiff, appendix .4.1, equation 3).

    The filter is ideal: a frequency is kept whole or taken away whole, so that filtering twice is filtering once. A
    frequency's height is its distance from zero in the plane of both directions; the highest one on the grid, in the
    corner, counts as 1.

    Args:
        images: On their last two axes.
        cutoff: Above 0, to 1: at 1 images stay what they are, bit for bit.

    Raises:
        ArgumentError: If the cutoff is outside of this.
        ShapeError: If the images have no height and width.
        DataError: If they are no tensor of real floating-point numbers.

    Examples:
        >>> stripes = torch.tensor([1.0, -1.0]).repeat(4).expand(8, 8)
        >>> low_pass(2 + stripes, 0.5).unique().tolist()
        [2.0]
    """
    if not is_number(cutoff) or not 0 < cutoff <= 1:
        raise ArgumentError(f"cutoff is a share of the highest frequency, above 0 to 1; got {cutoff!r}.")
    _check_numbers(images)
    if images.ndim < _PICTURES - 1:
        raise ShapeError(f"A low-pass filter needs images with a height and a width; got {tuple(images.shape)}.")
    if cutoff == 1:
        return images
    height, width = images.shape[-2:]
    kept = _heights(height, width, images.device) <= cutoff
    spectrum = torch.fft.rfft2(images.double()) * kept
    kept_only: Tensor = torch.fft.irfft2(spectrum, s=(height, width)).to(images.dtype)
    return kept_only


def _check_numbers(images: Any) -> None:
    """Refuse what is no tensor of real floating-point numbers.

    Raises:
        DataError: If it is none.
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        given = f"a tensor of {images.dtype}" if isinstance(images, Tensor) else f"a {type(images).__name__}"
        raise DataError(f"A low-pass filter takes a tensor of floating-point numbers; got {given}.")


def _heights(height: int, width: int, device: torch.device) -> Float[Tensor, "height half"]:
    """Return how high each frequency of a real transform is, as a share of the highest."""
    up = torch.fft.fftfreq(height, dtype=torch.float64, device=device)[:, None]
    across = torch.fft.rfftfreq(width, dtype=torch.float64, device=device)[None]
    # The highest is taken from the axis, not 1/2: an odd axis has none of 1/2.
    return torch.hypot(up, across) / max(math.hypot(float(up.abs().max()), float(across.abs().max())), 1e-300)
