"""Augmentation that keeps the index: a distorted training picture is still that training example."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, final

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
    smoothed,
    speckled,
    uniform,
    warped,
)

_KINDS = 5  # noise, occlusion, blur, salt-and-pepper, nothing: one of them, each as likely


@final
@dataclass(frozen=True)
class Mixture:
    """A random affine map of each picture, and then one of noise, occlusion, blur, salt-and-pepper or nothing.

    To train index heads with: a picture keeps its number under all of these, so they learn to find it under the paper's
    distortions. Each of the five comes with the same chance and a strength of its own. Defaults are `DISTORT`, made for
    pictures of 28×28; `mixture_for` gives those for another size.

    Args:
        rotation: The largest turn in degrees, either way.
        shift: The largest move in pixels, either way, on each axis.
        scale: The largest share by which a picture grows or shrinks.
        turned, moved, scaled: With what chance each of them happens (``moved``: on each axis).
        noise: The largest standard deviation of normal noise, as a share of the range.
        occlusion: The side of the covered square in pixels.
        blur: The smallest and largest standard deviation of the blur in pixels.
        speckles: The largest share of salt-and-pepper.
        low, high: The ends of the pictures' range.

    Raises:
        ArgumentError: If one of them is outside its bounds; when called, if the square does not fit.
    """

    rotation: float = 40.0
    shift: float = 4.0
    scale: float = 0.2
    turned: float = 0.6
    moved: float = 0.6
    scaled: float = 0.3
    noise: float = 0.15
    occlusion: int = 6
    blur: tuple[float, float] = (0.5, 1.3)
    speckles: float = 0.1
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        check_number(self.rotation, "rotation", 0, 180)
        for name in ("shift", "noise"):
            check_number(getattr(self, name), name, 0)
        for name in ("scale", "turned", "moved", "scaled", "speckles"):
            check_number(getattr(self, name), name, 0, 1)
        if self.scale == 1:
            raise ArgumentError("`scale` must be below 1: a picture that shrinks by all of it is gone.")
        check_whole(self.occlusion, "occlusion", 0)
        given: Any = self.blur
        if not isinstance(given, tuple | list) or len(given) != 2:
            raise ArgumentError(f"`blur` is the smallest and the largest deviation, such as (0.5, 1.3); got {given!r}.")
        check_number(self.blur[0], "blur[0]", 0)
        check_number(self.blur[1], "blur[1]", self.blur[0])
        check_range(self.low, self.high)

    def __call__(self, pictures: Tensor, generator: torch.Generator) -> Pictures:
        """Return distorted pictures; see `Distortion`."""
        given = as_pictures(pictures)
        check_fits(given, self.occlusion)
        kind = (uniform((len(given),), generator, given) * _KINDS).floor()
        strength = uniform((len(given),), generator, given)
        found = self._warped(given, generator)
        # one of these has a strength; at zero the others leave a picture as it is
        found = noised(found, self.noise * strength * (kind == 0), generator, self.low, self.high)
        found = occluded(found, self.occlusion * (kind == 1).long(), generator, self.low)
        sigmas = (self.blur[0] + (self.blur[1] - self.blur[0]) * strength) * (kind == 2)
        kernels = gaussian(sigmas, max(1, round(3 * self.blur[1])))
        blurred = smoothed(smoothed(found, kernels, 3, self.low), kernels, 2, self.low)
        found = torch.where((kind == 2).view(-1, 1, 1, 1), blurred, found)
        return speckled(found, self.speckles * strength * (kind == 3), generator, self.low, self.high)

    def _warped(self, pictures: Pictures, generator: torch.Generator) -> Pictures:
        def drawn(size: float, chance: float) -> Each:
            happens, share = uniform((2, len(pictures)), generator, pictures)
            return torch.where(happens < chance, size * (2 * share - 1), torch.zeros_like(share))

        degrees, scales = drawn(self.rotation, self.turned), 1 + drawn(self.scale, self.scaled)
        across, down = drawn(self.shift, self.moved), drawn(self.shift, self.moved)
        return warped(pictures, degrees, scales, across, down, self.low)


DISTORT = Mixture()


def mixture_for(side: int, low: float = 0.0, high: float = 1.0) -> Mixture:
    """Return `DISTORT` for pictures of another size and range: what it counts in pixels, times ``side / 28``.

    Args:
        side: Of the pictures, the shorter one.
        low, high: The ends of their range.

    Raises:
        ArgumentError: If the side is no whole number, at least 4, or the ends are no range.

    Examples:
        >>> mixture_for(14).shift, mixture_for(14).occlusion
        (2.0, 3)
    """
    check_whole(side, "side", 4)
    scale = side / 28
    blur = (DISTORT.blur[0] * scale, DISTORT.blur[1] * scale)
    occlusion = max(1, round(DISTORT.occlusion * scale))
    return replace(DISTORT, shift=DISTORT.shift * scale, occlusion=occlusion, blur=blur, low=low, high=high)
