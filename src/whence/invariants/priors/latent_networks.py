"""The networks of a latent flow: an encoder, a decoder, and the velocity of latents."""

from __future__ import annotations

import math
from math import prod
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Shape = tuple[int, int, int]

_SMALL = 7  # a side that is not halved any more
_WIDEST = 4  # times the width, that channels grow to
_GROUPS = 8  # of channels, normalised together
_FREQUENCIES = 32  # of the time's embedding


def halved_sizes(shape: Shape) -> list[tuple[int, int]]:
    """Return the sizes of an image halved until its shorter side is at most 7, the image's own first.

    Examples:
        >>> halved_sizes((1, 28, 28)), halved_sizes((3, 5, 5))
        ([(28, 28), (14, 14), (7, 7)], [(5, 5)])
    """
    sizes = [shape[1:]]
    while min(sizes[-1]) > _SMALL:
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    return sizes


def _channels(sizes: list[tuple[int, int]], width: int) -> list[int]:
    """Return how many channels there are at each halved size, without the image's own."""
    return [min(width * 2**place, _WIDEST * width) for place in range(max(1, len(sizes) - 1))]


def _normalised(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.GroupNorm(_GROUPS, channels), nn.SiLU())


@final
class Encoder(nn.Module):
    """Convolutions that halve an image, and a linear layer to the mean and log-variance of its latent.

    Args:
        shape: Of an image.
        latent: Numbers of a latent.
        width: Channels after the first convolution, a multiple of 8.
    """

    def __init__(self, shape: Shape, latent: int, width: int) -> None:
        super().__init__()
        sizes = halved_sizes(shape)
        layers: list[nn.Module] = []
        before = shape[0]
        for channels in _channels(sizes, width):
            stride = 2 if len(sizes) > 1 else 1
            layers += [nn.Conv2d(before, channels, 3, stride=stride, padding=1), _normalised(channels)]
            before = channels
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.last = nn.Linear(before * prod(sizes[-1]), 2 * latent)

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch latent"]]:
        """Return mean and log-variance."""
        mean, log_variance = self.last(self.layers(images)).chunk(2, 1)
        return mean, log_variance.clamp(-12, 6)


@final
class Decoder(nn.Module):
    """A linear layer, and transposed convolutions that double up to the image's size: logits of its brightness.

    Args:
        shape: Of an image.
        latent: Numbers of a latent.
        width: Channels at half the size, a multiple of 8.
    """

    def __init__(self, shape: Shape, latent: int, width: int) -> None:
        super().__init__()
        self._sizes = halved_sizes(shape)[::-1]
        channels = _channels(self._sizes, width)[::-1]
        self._start = (channels[0], *self._sizes[0])
        self.first = nn.Linear(latent, prod(self._start))
        after = [*channels[1:], width // 2][: len(self._sizes) - 1]  # none if the image is too small to be halved
        self.stages = nn.ModuleList(
            nn.Sequential(_normalised(one), nn.ConvTranspose2d(one, two, 4, stride=2, padding=1))
            for one, two in zip(channels, after, strict=False)
        )
        last = after[-1] if after else channels[-1]
        self.last = nn.Sequential(_normalised(last), nn.Conv2d(last, shape[0], 3, padding=1))

    def forward(self, latents: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch channels height width"]:
        """Return logits of brightness."""
        found = self.first(latents).unflatten(1, self._start)
        for stage, (height, width) in zip(self.stages, self._sizes[1:], strict=True):
            found = stage(found)[..., :height, :width]  # a doubled half of an odd side is one too long
        logits: Tensor = self.last(found)
        return logits


@final
class _Block(nn.Module):
    """A residual block of two linear layers, told the time."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.one, self.two = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.time = nn.Linear(2 * _FREQUENCIES, hidden)
        nn.init.zeros_(self.two.weight)
        nn.init.zeros_(self.two.bias)

    def forward(self, state: Tensor, time: Tensor) -> Tensor:
        """Return the state after the block."""
        found: Tensor = state + self.two(F.silu(self.one(self.norm(state)) + self.time(time)))
        return found


@final
class Velocity(nn.Module):
    """A residual network: the velocity at which a latent moves from noise (time 0) to data (time 1).

    Args:
        latent: Numbers of a latent.
        hidden: Width.
        blocks: How many residual blocks.
    """

    frequencies: Tensor

    def __init__(self, latent: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.first = nn.Linear(latent, hidden)
        self.time = nn.Sequential(nn.Linear(2 * _FREQUENCIES, 2 * _FREQUENCIES), nn.SiLU())
        self.blocks = nn.ModuleList(_Block(hidden) for _ in range(blocks))
        self.last = nn.Sequential(nn.LayerNorm(hidden), nn.SiLU(), nn.Linear(hidden, latent))
        powers = torch.linspace(0, 1, _FREQUENCIES, dtype=torch.float64)
        self.register_buffer("frequencies", (2 * math.pi * 16**powers / 4).float())  # a quarter to four turns

    def forward(
        self, latents: Float[Tensor, "batch latent"], times: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch latent"]:
        """Return the velocity of latents at times from 0 to 1."""
        angles = times[:, None] * self.frequencies
        time = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        state = self.first(latents)
        for block in self.blocks:
            state = block(state, time)
        velocity: Tensor = self.last(state)
        return velocity
