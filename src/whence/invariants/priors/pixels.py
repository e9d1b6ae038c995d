"""Priors without a network: pixels around a mean, and images of a falling spectrum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from whence._errors import ArgumentError, DataError
from whence._numbers import even_parts, is_number, is_whole
from whence.invariants.priors.protocol import checked_latents, checked_shape
from whence.kernel.answers import read_examples

_AT_ONCE = 1024  # images read together
_FLOOR = 0.05  # of the greatest deviation, below which no pixel's is taken to be
_NEVER = 10.0  # deviations that no draw is away from the mean: one number in 10^23 is


@final
@dataclass(frozen=True, eq=False)
class Pixels:
    """No prior: x = mean + deviation * z, each pixel for itself, and nothing is clamped (a clamp has no gradient).

    Attributes:
        mean: Of the inputs.
        deviation: Of each pixel, or of all.

    Raises:
        ArgumentError: If one of these is no tensor of finite numbers, the mean is empty, or the deviation is not above
            0 everywhere or does not go with the mean.

    Examples:
        >>> Pixels(torch.full((1, 2, 2), 0.5), torch.tensor(0.1)).decode(torch.ones(1, 1, 2, 2)).unique().tolist()
        [0.6000000238418579]
    """

    mean: Float[Tensor, "*input"]
    deviation: Float[Tensor, "*deviation"]

    def __post_init__(self) -> None:
        parts: tuple[tuple[str, Any], ...] = (("mean", self.mean), ("deviation", self.deviation))
        for name, one in parts:
            if not isinstance(one, Tensor) or not one.is_floating_point() or not bool(one.isfinite().all()):
                given = f"one of {one.dtype}" if isinstance(one, Tensor) else f"a {type(one).__name__}"
                raise ArgumentError(f"`{name}` is a tensor of finite floating-point numbers; got {given}.")
        if not self.mean.numel():
            raise ArgumentError(f"`mean` holds a number at least; got one of shape {tuple(self.mean.shape)}.")
        if not bool((self.deviation > 0).all()):
            raise ArgumentError(f"A deviation is above 0 everywhere; got one of {float(self.deviation.min()):.4g}.")
        if not _fits(self.deviation.shape, self.mean.shape):
            raise ArgumentError(
                f"The deviation is one number, or one for each of the mean's {tuple(self.mean.shape)}; got "
                f"{tuple(self.deviation.shape)}."
            )

    @classmethod
    def of(cls, data: Any, most: int = 10_000) -> Pixels:
        """Return the pixels' mean and deviation over the first examples of data.

        A pixel that hardly ever changes gets a twentieth of the greatest deviation, so that it can be moved.

        Args:
            data: Images, alone or with labels: anything `as_examples` takes.
            most: How many examples at most.

        Raises:
            ArgumentError: If ``most`` is not a whole number above 0.
            DataError: If inputs are no tensors of finite floating-point numbers, or every one is the same.
        """
        examples = read_examples(data, "predicted")
        if not is_whole(most) or most < 1:
            raise ArgumentError(f"most is how many examples are read, at least 1; got {most!r}.")
        parts = even_parts(range(min(most, len(examples))), _AT_ONCE)
        inputs = torch.cat([floats(examples.batch(part)[0]) for part in parts]).double()
        if not bool(inputs.isfinite().all()):
            raise DataError("The data holds numbers that are not finite. Clean it first.")
        deviation = inputs.std(0, correction=0)
        if float(deviation.max()) == 0:
            raise DataError("Every input of the data is the same: there is no deviation. Give other data.")
        return cls(inputs.mean(0).float(), deviation.clamp_min(_FLOOR * float(deviation.max())).float())

    def __repr__(self) -> str:
        low, high = self.bounds
        return f"Pixels(inputs of shape {self.latent_shape}, from {low:.4g} to {high:.4g} in ten deviations)"

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of the inputs."""
        return tuple(self.mean.shape)

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest number that a draw may have: ten deviations from the mean."""
        away = _NEVER * self.deviation
        return float((self.mean - away).min()), float((self.mean + away).max())

    def decode(self, latents: Float[Tensor, "some *latent"]) -> Float[Tensor, "some *input"]:
        """Return mean + deviation * latents.

        Raises:
            ShapeError: If latents have another shape than the mean.
        """
        checked_latents(latents, self.latent_shape)
        return self.mean.to(latents) + self.deviation.to(latents) * latents


@final
@dataclass(frozen=True)
class Fourier:
    """Images whose spectrum falls with the frequency, brought into a range by a sigmoid (lucid's parametrisation).

    Latents are white noise of the images' shape; each of its frequencies f is weighed by f^-decay (the mean as the
    lowest frequency is), so that every pixel of the image before the sigmoid has the deviation ``contrast``. The map
    to it is linear and loses nothing: a start without a network, smoother than plain pixels.

    Attributes:
        shape: (channels, height, width) of the images.
        bounds: Their range.
        decay: How fast the spectrum falls; natural images have about 1.
        contrast: Deviation of a pixel before the sigmoid.

    Raises:
        ArgumentError: If one of these is not what it must be.

    Examples:
        >>> Fourier((1, 8, 8), bounds=(-1, 1)).decode(torch.zeros(1, 1, 8, 8)).unique().tolist()
        [0.0]
    """

    shape: tuple[int, int, int]
    bounds: tuple[float, float] = (0.0, 1.0)
    decay: float = 1.0
    contrast: float = 1.5

    def __post_init__(self) -> None:
        checked_shape(self.shape)
        bounds: Any = self.bounds
        known = isinstance(bounds, Sequence) and len(bounds) == 2 and all(map(is_number, bounds))
        if not known or self.bounds[0] >= self.bounds[1]:
            raise ArgumentError(f"bounds are a least and a greater number; got {self.bounds!r}.")
        if not is_number(self.decay) or self.decay < 0 or not is_number(self.contrast) or self.contrast <= 0:
            raise ArgumentError(f"decay is at least 0 and contrast above 0; got {self.decay!r} and {self.contrast!r}.")

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of the images."""
        return tuple(self.shape)

    def decode(self, latents: Float[Tensor, "some *latent"]) -> Float[Tensor, "some channels height width"]:
        """Return the images of white noise.

        Raises:
            ShapeError: If latents have another shape than the images.
        """
        checked_latents(latents, self.latent_shape)
        low, high = self.bounds
        spectrum = torch.fft.rfft2(latents.double(), norm="ortho") * self._weights(latents.device)
        images = torch.fft.irfft2(spectrum, s=self.shape[1:], norm="ortho")
        ranged: Tensor = low + (high - low) * images.sigmoid()
        return ranged.to(latents.dtype)

    def _weights(self, device: torch.device) -> Float[Tensor, "height half"]:
        """Return what each frequency is weighed by; over the whole plane the mean square is contrast²."""
        _, height, width = self.shape
        up = torch.fft.fftfreq(height, dtype=torch.float64, device=device)[:, None]
        across = torch.fft.fftfreq(width, dtype=torch.float64, device=device)[None]
        weights = torch.hypot(up, across).clamp_min(1 / max(height, width)) ** -self.decay
        weights *= self.contrast / weights.square().mean().sqrt()
        found: Tensor = weights[:, : width // 2 + 1]
        return found


def _fits(shape: torch.Size, whole: torch.Size) -> bool:
    """Say whether numbers of a shape can be taken for every place of a whole."""
    pairs = zip(reversed(shape), reversed(whole), strict=False)
    return len(shape) <= len(whole) and all(one in (1, other) for one, other in pairs)


def floats(inputs: Any) -> Float[Tensor, "some *input"]:
    """Return a batch of inputs that is one floating-point tensor.

    Raises:
        DataError: If it is not.
    """
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        told = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
        raise DataError(f"A prior needs inputs that are floating-point tensors; these are {told}. Convert the data.")
    return inputs
