"""What distortions do to a batch of pictures, with a strength for each picture; no loop over pictures."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from whence._errors import ArgumentError, DataError, ShapeError
from whence._numbers import is_number, is_whole

Pictures = Float[Tensor, "batch channels height width"]
Each = Float[Tensor, " batch"]

_NARROWEST = 1e-3  # standard deviation of a Gaussian that is one pixel in any precision


def as_pictures(given: Any) -> Pictures:
    """Return a batch of pictures.

    Raises:
        ShapeError: If it is not four-dimensional.
        DataError: If it is no tensor of floating-point numbers.
    """
    if not isinstance(given, Tensor) or not given.is_floating_point():
        kind = str(given.dtype) if isinstance(given, Tensor) else type(given).__name__
        raise DataError(
            f"Pictures must be a tensor of floating-point numbers; got {kind}. Convert and scale them first."
        )
    if given.dim() != 4:
        raise ShapeError(
            f"Pictures need shape (batch, channels, height, width); got {tuple(given.shape)}. Add the missing axes, "
            "with picture[None] for a single one."
        )
    return given


def check_number(value: Any, name: str, least: float, most: float | None = None, *, above: bool = False) -> None:
    """Refuse what is no number within bounds.

    Args:
        value: What was given.
        name: What the argument is called.
        least, most: The bounds; without ``most`` there is none above.
        above: Whether ``least`` itself is too small.

    Raises:
        ArgumentError: If it is none.
    """
    if is_number(value) and (value > least if above else value >= least) and (most is None or value <= most):
        return
    lower = f"above {least:g}" if above else f"at least {least:g}"
    raise ArgumentError(
        f"`{name}` must be a number {lower}{'' if most is None else f', at most {most:g}'}; got {value!r}."
    )


def check_whole(value: Any, name: str, least: int) -> None:
    """Refuse what is no whole number of at least so much.

    Raises:
        ArgumentError: If it is none.
    """
    if not is_whole(value) or value < least:
        raise ArgumentError(f"`{name}` must be a whole number of pixels, at least {least}; got {value!r}.")


def check_range(low: Any, high: Any) -> None:
    """Refuse a darkest and a brightest value that are no range.

    Raises:
        ArgumentError: If they are none.
    """
    if not (is_number(low) and is_number(high) and low < high):
        raise ArgumentError(
            f"`low` and `high`, the ends of the pictures' range, must be low < high; got {low!r}, {high!r}."
        )


def uniform(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Float[Tensor, "..."]:
    """Draw uniform numbers from 0 to 1 where the generator is, so that a seed gives the same on any device."""
    drawn = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float32)
    return drawn.to(like)


def signs(count: int, generator: torch.Generator, like: Tensor) -> Each:
    """Draw 1 or -1 for each of so many pictures."""
    drawn = torch.randint(0, 2, (count,), generator=generator, device=generator.device)
    return drawn.to(like) * 2 - 1


def warped(pictures: Pictures, degrees: Each, scales: Each, across: Each, down: Each, low: float) -> Pictures:
    """Turn and scale each picture about its middle, then move it; bilinear between pixels.

    Args:
        pictures: The pictures.
        degrees: How far to turn, counter-clockwise.
        scales: How much larger to draw.
        across, down: How far to move, in pixels to the right and to the bottom.
        low: What comes in from beyond the border.
    """
    count, _, height, width = pictures.shape
    if count == 0:
        return pictures
    angles = degrees * (torch.pi / 180)
    cosine, sine = torch.cos(angles) / scales, torch.sin(angles) / scales
    x, y = 2 * across / width, 2 * down / height  # where -1 to 1 is the whole picture
    ratio = height / width
    rows = (
        torch.stack([cosine, -sine * ratio, sine * ratio * y - cosine * x], 1),
        torch.stack([sine / ratio, cosine, -sine / ratio * x - cosine * y], 1),
    )
    wide = torch.promote_types(pictures.dtype, torch.float32)  # fewer digits do not tell pixels apart
    grid = F.affine_grid(torch.stack(rows, 1).to(wide), [count, 1, height, width], align_corners=False)
    return (F.grid_sample((pictures - low).to(wide), grid, align_corners=False) + low).to(pictures.dtype)


def noised(pictures: Pictures, sigmas: Each, generator: torch.Generator, low: float, high: float) -> Pictures:
    """Add normal noise to each picture, and clamp; pictures without noise stay as they are."""
    drawn = torch.randn(pictures.shape, generator=generator, device=generator.device, dtype=torch.float32).to(pictures)
    strength = sigmas.view(-1, 1, 1, 1)
    return torch.where(strength > 0, (pictures + strength * (high - low) * drawn).clamp(low, high), pictures)


def speckled(pictures: Pictures, shares: Each, generator: torch.Generator, low: float, high: float) -> Pictures:
    """Set a share of each picture's pixels, all channels at once, to the lowest or the highest value."""
    count, _, height, width = pictures.shape
    drawn, limit = uniform((count, 1, height, width), generator, pictures), shares.view(-1, 1, 1, 1)
    ends = torch.where(drawn < limit / 2, pictures.new_tensor(low), pictures.new_tensor(high))
    return torch.where(drawn < limit, ends, pictures)


def occluded(pictures: Pictures, sizes: Int[Tensor, " batch"], generator: torch.Generator, low: float) -> Pictures:
    """Cover a square somewhere within each picture; a size of 0 covers nothing."""
    inside = [_stretch(sizes, length, uniform((len(sizes),), generator, pictures)) for length in pictures.shape[2:]]
    square = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return torch.where(square, pictures.new_tensor(low), pictures)


def check_fits(pictures: Pictures, size: int) -> None:
    """Refuse a square that does not fit into the pictures.

    Raises:
        ArgumentError: If it does not.
    """
    height, width = pictures.shape[2:]
    if size > min(height, width):
        raise ArgumentError(
            f"A square of {size} pixels a side does not fit into pictures of {height}×{width}. Make it smaller."
        )


def gaussian(sigmas: Each, radius: int) -> Float[Tensor, "batch taps"]:
    """Return a normalised Gaussian for each picture, cut off beyond the radius; 0 leaves a picture as it is."""
    places = torch.arange(-radius, radius + 1).to(sigmas)
    weights = torch.exp(-((places / sigmas.clamp(min=_NARROWEST)[:, None]) ** 2) / 2)
    return weights / weights.sum(1, keepdim=True)


def smoothed(pictures: Pictures, kernels: Float[Tensor, "batch taps"], axis: int, low: float) -> Pictures:
    """Average each picture along an axis with its own symmetric kernel; ``low`` is what lies beyond the border."""
    taps, length = kernels.shape[1], pictures.shape[axis]
    beyond = [taps // 2] * 2
    wide = F.pad(pictures - low, beyond if axis == 3 else [0, 0, *beyond])
    found = torch.zeros_like(pictures)
    for tap in range(taps):
        found = found + kernels[:, tap].view(-1, 1, 1, 1) * wide.narrow(axis, tap, length)
    return found + low


def _stretch(sizes: Int[Tensor, " batch"], length: int, where: Each) -> Tensor:
    """Return which of so many pixels in a row lie in a stretch of each size, somewhere."""
    most = length - sizes
    start = (where * (most + 1)).floor().to(sizes).minimum(most)  # a product may round up to the end
    places = torch.arange(length, device=sizes.device)
    return (places >= start[:, None]) & (places < (start + sizes)[:, None])
