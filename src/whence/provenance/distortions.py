"""Distortions of pictures: the 15 conditions under which provenance is measured (Provenance Networks, 5.2 and 7.8).

The paper names the distortions and their strengths (figure 22), and no more. What it leaves open is decided here, and
said in each docstring: the harder reading, where there are two. Strengths of noise are shares of the pictures' range,
from ``low`` to ``high``; what comes in from beyond the border is ``low``. Distort before a normalisation by channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from torch import Tensor

from whence._errors import ArgumentError
from whence.provenance.pixels import (
    Each,
    Pictures,
    as_pictures,
    check_fits,
    check_number,
    check_range,
    check_whole,
    gaussian,
    noised,
    occluded,
    signs,
    smoothed,
    speckled,
    uniform,
    warped,
)


@runtime_checkable
class Distortion(Protocol):
    """Changes pictures at random, each on its own; all randomness is the generator's."""

    def __call__(self, pictures: Tensor, generator: torch.Generator) -> Pictures:
        """Return distorted pictures of the same shape and type.

        Args:
            pictures: (batch, channels, height, width), floating point.
            generator: On any device: numbers are drawn where it is, and moved to the pictures.

        Raises:
            ShapeError: If pictures are not four-dimensional.
            DataError: If they are not floating-point numbers.
        """
        ...


@final
@dataclass(frozen=True)
class NoDistortion:
    """The pictures as they are."""

    def __call__(self, pictures: Tensor, generator: torch.Generator) -> Pictures:  # noqa: ARG002
        """Return the pictures; see `Distortion`."""
        return as_pictures(pictures)


@final
@dataclass(frozen=True)
class SaltAndPepper:
    """A pixel becomes, with all its channels, ``high`` or ``low`` with chance ``p / 2`` each.

    Args:
        p: The share of pixels that change, as expected.
        low, high: The ends of the pictures' range.

    Raises:
        ArgumentError: If ``p`` is not 0 to 1, or the range is none.
    """

    p: float
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        check_number(self.p, "p", 0, 1)
        check_range(self.low, self.high)

    def __call__(self, pictures: Tensor, generator: torch.Generator) -> Pictures:
        """Return noisy pictures; see `Distortion`."""
        given = as_pictures(pictures)
        return speckled(given, _all(self.p, given), generator, self.low, self.high)


@final
@dataclass(frozen=True)
class GaussianNoise:
    """Normal noise on each number on its own, clamped to the pictures' range.

    Args:
        sigma: Its standard deviation, as a share of the range: of [0, 1] pictures the very standard deviation.
        low, high: The ends of the pictures' range.

    Raises:
        ArgumentError: If ``sigma`` is negative, or the range is none.
    """

    sigma: float
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        check_number(self.sigma, "sigma", 0)
        check_range(self.low, self.high)

    def __call__(self, pictures: Tensor, generator: torch.Generator) -> Pictures:
        """Return noisy pictures; see `Distortion`."""
        given = as_pictures(pictures)
        return noised(given, _all(self.sigma, given), generator, self.low, self.high)


@final
@dataclass(frozen=True)
class Occlusion:
    """A square becomes ``low``: one in each picture, wholly inside it, anywhere with the same chance.

    Args:
        size: The length of its side in pixels.
        low: What it is filled with.

    Raises:
        ArgumentError: If ``size`` is no whole number, at least 1; when called, if it does not fit.
    """

    size: int
    low: float = 0.0

    def __post_init__(self) -> None:
        check_whole(self.size, "size", 1)

    def __call__(self, pictures: Tensor, generator: torch.Generator) -> Pictures:
        """Return pictures with a square covered; see `Distortion`."""
        given = as_pictures(pictures)
        check_fits(given, self.size)
        sizes = torch.full((len(given),), self.size, device=given.device)
        return occluded(given, sizes, generator, self.low)


@final
@dataclass(frozen=True)
class Translation:
    """A move on both axes, by exactly ``pixels`` with a random sign on each: the hard reading of "±3 px".

    Under it, neighbours in pixels and in a classifier's embedding find the original of no picture of MNIST.

    Args:
        pixels: How far, on each axis.
        uniform: Draw on each axis anything from ``-pixels`` to ``pixels`` (bilinear between pixels), the mild reading.
        low: What comes in from beyond the border.

    Raises:
        ArgumentError: If ``pixels`` is negative.
    """

    pixels: float
    uniform: bool = False
    low: float = 0.0

    def __post_init__(self) -> None:
        check_number(self.pixels, "pixels", 0)

    def __call__(self, pictures: Tensor, generator: torch.Generator) -> Pictures:
        """Return moved pictures; see `Distortion`."""
        given = as_pictures(pictures)
        across, down = (_either(self.pixels, self.uniform, given, generator) for _ in range(2))
        return warped(given, _all(0, given), _all(1, given), across, down, self.low)


@final
@dataclass(frozen=True)
class Rotation:
    """A turn about the middle, by exactly ``degrees`` either way (the hard reading of "±30°"), bilinear.

    Args:
        degrees: How far.
        uniform: Draw anything from ``-degrees`` to ``degrees``, the mild reading.
        low: What comes in from beyond the border.

    Raises:
        ArgumentError: If ``degrees`` is not 0 to 180.
    """

    degrees: float
    uniform: bool = False
    low: float = 0.0

    def __post_init__(self) -> None:
        check_number(self.degrees, "degrees", 0, 180)

    def __call__(self, pictures: Tensor, generator: torch.Generator) -> Pictures:
        """Return turned pictures; see `Distortion`."""
        given = as_pictures(pictures)
        still = _all(0, given)
        return warped(
            given, _either(self.degrees, self.uniform, given, generator), _all(1, given), still, still, self.low
        )


@final
@dataclass(frozen=True)
class Scaling:
    """The picture drawn smaller or larger about its middle on the same canvas, both axes alike, bilinear.

    Args:
        smallest, largest: Between which the factor is drawn, uniformly.
        low: What comes in from beyond the border.

    Raises:
        ArgumentError: If the factors are not above 0, or the largest is below the smallest.
    """

    smallest: float
    largest: float
    low: float = 0.0

    def __post_init__(self) -> None:
        check_number(self.smallest, "smallest", 0, above=True)
        check_number(self.largest, "largest", self.smallest)

    def __call__(self, pictures: Tensor, generator: torch.Generator) -> Pictures:
        """Return scaled pictures; see `Distortion`."""
        given = as_pictures(pictures)
        still, share = _all(0, given), uniform((len(given),), generator, given)
        return warped(given, still, self.smallest + (self.largest - self.smallest) * share, still, still, self.low)


@final
@dataclass(frozen=True)
class Blur:
    """A Gaussian blur, cut off at four standard deviations as in ``scipy.ndimage``; ``low`` lies beyond the border.

    Args:
        sigma: The standard deviation in pixels.
        low: What lies beyond the border.

    Raises:
        ArgumentError: If ``sigma`` is negative.
    """

    sigma: float
    low: float = 0.0

    def __post_init__(self) -> None:
        check_number(self.sigma, "sigma", 0)

    def __call__(self, pictures: Tensor, generator: torch.Generator) -> Pictures:  # noqa: ARG002
        """Return blurred pictures; see `Distortion`. Nothing is drawn."""
        given = as_pictures(pictures)
        kernels = gaussian(_all(self.sigma, given), int(4 * self.sigma + 0.5))
        return smoothed(smoothed(given, kernels, 3, self.low), kernels, 2, self.low)


@final
@dataclass(frozen=True)
class MotionBlur:
    """The mean over a horizontal line of pixels around each; the paper says no direction.

    Args:
        pixels: The line's length, odd so that it has a middle.
        low: What lies beyond the border.

    Raises:
        ArgumentError: If ``pixels`` is no odd whole number, at least 1.
    """

    pixels: int
    low: float = 0.0

    def __post_init__(self) -> None:
        check_whole(self.pixels, "pixels", 1)
        if self.pixels % 2 == 0:
            raise ArgumentError(f"`pixels` must be odd, so that the line has a middle; got {self.pixels}.")

    def __call__(self, pictures: Tensor, generator: torch.Generator) -> Pictures:  # noqa: ARG002
        """Return blurred pictures; see `Distortion`. Nothing is drawn."""
        given = as_pictures(pictures)
        return smoothed(given, given.new_full((len(given), self.pixels), 1 / self.pixels), 3, self.low)


def _all(value: float, pictures: Pictures) -> Each:
    return pictures.new_full((len(pictures),), value)


def _either(size: float, anything: bool, pictures: Pictures, generator: torch.Generator) -> Each:
    """Draw plus or minus a size, or anything between both."""
    if anything:
        return size * (2 * uniform((len(pictures),), generator, pictures) - 1)
    return size * signs(len(pictures), generator, pictures)
