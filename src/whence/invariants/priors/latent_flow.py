"""A latent flow: noise flows to the latents of a small autoencoder, which decodes them to images."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from whence._errors import ArgumentError, ShapeError
from whence._numbers import is_whole
from whence.invariants.priors.latent_networks import Decoder, Encoder, Shape, Velocity
from whence.invariants.priors.protocol import checked_shape, recomputed, walked

RULES = {"euler": 1, "midpoint": 2}
"""The rules that steps are taken by, and how often each calls the network."""


@final
@dataclass(frozen=True)
class Sizes:
    """How large a latent flow is.

    Attributes:
        shape: (channels, height, width) of the images.
        latent: Numbers of a latent.
        width: Channels of the autoencoder's first convolution, a multiple of 8 (16 at least).
        hidden: Width of the network that moves latents.
        blocks: Its residual blocks.

    Raises:
        ArgumentError: If one of these is not what it must be.
    """

    shape: Shape
    latent: int = 32
    width: int = 32
    hidden: int = 256
    blocks: int = 4

    def __post_init__(self) -> None:
        checked_shape(self.shape)
        for name in ("latent", "hidden", "blocks"):
            if not is_whole(getattr(self, name)) or getattr(self, name) < 1:
                raise ArgumentError(f"{name} is a whole number above 0; got {getattr(self, name)!r}.")
        if not is_whole(self.width) or self.width < 16 or self.width % 16:
            raise ArgumentError(f"width is a multiple of 16, for groups of channels; got {self.width!r}.")


@final
class LatentFlow(nn.Module):
    """A prior of images: a flow (Lipman et al. 2023; Liu et al. 2023) over the latents of an autoencoder.

    Latents of the prior are the flow's noise. Its steps move them to latents of the autoencoder, standardised, whose
    decoder gives an image in the range of the images it was trained on. Activations of the flow's network are computed
    again on the way back, so that a gradient through more steps keeps only the latents of each. It is a `Chain`.

    Args:
        sizes: How large the networks are.
        steps: Of a decoding.
        rule: ``"midpoint"``, which calls the network twice a step, or ``"euler"``, once.

    Attributes:
        low, high: Ends of the range of each channel of the training images, (channels, 1, 1).
        latent_mean, latent_deviation: Of the autoencoder's latents.
    """

    low: Tensor
    high: Tensor
    latent_mean: Tensor
    latent_deviation: Tensor

    def __init__(self, sizes: Sizes, *, steps: int = 4, rule: str = "midpoint") -> None:
        super().__init__()
        self.sizes, self.rule, self._steps = sizes, checked_rule(rule), checked_steps(steps)
        self.encoder = Encoder(sizes.shape, sizes.latent, sizes.width)
        self.decoder = Decoder(sizes.shape, sizes.latent, sizes.width)
        self.velocity = Velocity(sizes.latent, sizes.hidden, sizes.blocks)
        self.register_buffer("low", torch.zeros(sizes.shape[0], 1, 1))
        self.register_buffer("high", torch.ones(sizes.shape[0], 1, 1))
        self.register_buffer("latent_mean", torch.zeros(sizes.latent))
        self.register_buffer("latent_deviation", torch.ones(sizes.latent))

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of one latent."""
        return (self.sizes.latent,)

    @property
    def steps(self) -> int:
        """How many steps a decoding takes."""
        return self._steps

    @property
    def evaluations(self) -> int:
        """How many times a decoding calls the flow's network."""
        return self._steps * RULES[self.rule]

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest number of an image."""
        return float(self.low.min()), float(self.high.max())

    def with_steps(self, steps: int, rule: str | None = None) -> LatentFlow:
        """Return the same prior, with the same weights, decoded in another number of steps or by another rule.

        Raises:
            ArgumentError: If the number is not whole and above 0, or there is no such rule.
        """
        same = copy.copy(self)
        same._steps, same.rule = checked_steps(steps), checked_rule(self.rule if rule is None else rule)
        return same

    def decode(self, latents: Float[Tensor, "some latent"]) -> Float[Tensor, "some channels height width"]:
        """Return the images of latents.

        Raises:
            ShapeError: If latents have another shape than (n, latent).
        """
        return walked(self, latents)

    def advance(
        self, state: Float[Tensor, "some latent"], step: int
    ) -> tuple[Float[Tensor, "some latent"], Float[Tensor, "some latent"]]:
        """Return the latents after a step, and where they would end at the velocity that the step begins with."""
        length = 1 / self._steps
        time = step * length
        velocity = self._moved(state, time)
        end = state + (1 - time) * velocity
        if self.rule == "midpoint":
            velocity = self._moved(state + length / 2 * velocity, time + length / 2)
        return state + length * velocity, end

    def finish(self, end: Float[Tensor, "some latent"]) -> Float[Tensor, "some channels height width"]:
        """Return the images of standardised latents of the autoencoder."""
        own = end.to(self.latent_mean.dtype) * self.latent_deviation + self.latent_mean
        return self.in_range(self.decoder(own)).to(end.dtype)

    def reconstruct(
        self, images: Float[Tensor, "some channels height width"]
    ) -> Float[Tensor, "some channels height width"]:
        """Return the images encoded and decoded again: what the autoencoder alone makes of them.

        Raises:
            ShapeError: If the images have another shape than those the prior was trained on.
        """
        mean, _ = self.encoder(self.brightness(images))
        return self.in_range(self.decoder(mean)).to(images.dtype)

    def brightness(
        self, images: Float[Tensor, "some channels height width"]
    ) -> Float[Tensor, "some channels height width"]:
        """Return images from 0 to 1, in the dtype of the networks; what is outside of the range is brought to its end.

        Raises:
            ShapeError: If the images have another shape than those the prior was trained on.
        """
        if tuple(images.shape[1:]) != self.sizes.shape:
            raise ShapeError(
                f"This prior is of images of shape {self.sizes.shape}; got a batch of shape {tuple(images.shape)}."
            )
        return ((images.to(self.low.dtype) - self.low) / (self.high - self.low)).clamp(0, 1)

    def in_range(
        self, logits: Float[Tensor, "some channels height width"]
    ) -> Float[Tensor, "some channels height width"]:
        """Return the images, in the range of the training images, of logits of their brightness."""
        return self.low + (self.high - self.low) * logits.sigmoid()

    def _moved(self, state: Tensor, time: float) -> Tensor:
        """Return the velocity of latents at one time."""
        own = state.to(self.latent_mean.dtype)
        return recomputed(self.velocity, own, own.new_full((len(own),), time)).to(state.dtype)


def checked_rule(rule: str) -> str:
    """Return a rule that there is.

    Raises:
        ArgumentError: If there is none.
    """
    if rule not in tuple(RULES):  # which also asks of what has no hash
        raise ArgumentError(f"rule is {' or '.join(map(repr, RULES))}; got {rule!r}.")
    return rule


def checked_steps(steps: int) -> int:
    """Return a number of steps.

    Raises:
        ArgumentError: If it is not whole and above 0.
    """
    if not is_whole(steps) or steps < 1:
        raise ArgumentError(f"A decoding takes a whole number of steps, at least 1; got {steps!r}.")
    return int(steps)
