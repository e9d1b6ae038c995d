"""A latent flow transformer with the decoder of its latents, as a prior."""

from __future__ import annotations

import copy
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from whence._errors import ArgumentError
from whence._numbers import is_number
from whence.invariants.priors.latent_flow import checked_steps
from whence.invariants.priors.lightning_decoder import LatentDecoder
from whence.invariants.priors.lightning_networks import LightningTransformer
from whence.invariants.priors.protocol import recomputed, walked


@final
class LightningFlow(nn.Module):
    """Unconditional samples of a LightningDiT (Yao et al. 2025): its flow for the null class, and VA-VAE's decoder.

    Euler steps over times that the shift moves towards noise: t becomes shift * t / (1 + (shift - 1) * t). Only the
    transformer's call is computed again on the way back. It is a `Chain`; images are of about -1 to 1, none is clamped.

    Args:
        transformer: The velocity of latents.
        decoder: From latents, as the autoencoder has them, to images.
        mean, deviation: Of the autoencoder's latents, one a channel.
        multiplier: Of standardised latents, as the transformer was trained on them.
        label: The class that the transformer is told; the last of its table, which is the null class, if left out.
        steps: Euler steps; the published 250 times are 249 steps.
        shift: Of the times; 1 leaves them evenly spaced.

    Raises:
        ArgumentError: If one of these is not what it must be.
    """

    mean: Tensor
    deviation: Tensor
    bounds = (-1.0, 1.0)

    def __init__(
        self,
        transformer: LightningTransformer,
        decoder: LatentDecoder,
        mean: Float[Tensor, " channels"],
        deviation: Float[Tensor, " channels"],
        *,
        multiplier: float = 1.0,
        label: int | None = None,
        steps: int = 50,
        shift: float = 1.0,
    ) -> None:
        super().__init__()
        sizes = transformer.sizes
        if not is_number(shift) or shift <= 0 or not is_number(multiplier) or multiplier <= 0:
            raise ArgumentError(f"shift and multiplier are numbers above 0; got {shift!r} and {multiplier!r}.")
        if label is not None and not 0 <= label < sizes.classes:
            raise ArgumentError(f"label is a class from 0 to {sizes.classes - 1}; got {label!r}.")
        self.transformer, self.decoder = transformer, decoder
        self.multiplier, self.shift, self._steps = float(multiplier), float(shift), checked_steps(steps)
        self.label = sizes.classes - 1 if label is None else label
        self.register_buffer("mean", mean.view(-1, 1, 1))
        self.register_buffer("deviation", deviation.view(-1, 1, 1))

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of one latent."""
        sizes = self.transformer.sizes
        return (sizes.channels, sizes.side, sizes.side)

    @property
    def steps(self) -> int:
        """How many steps a decoding takes."""
        return self._steps

    @property
    def evaluations(self) -> int:
        """How many times a decoding calls the transformer."""
        return self._steps

    def with_steps(self, steps: int) -> LightningFlow:
        """Return the same prior, with the same weights, decoded in another number of steps.

        Raises:
            ArgumentError: If the number is not whole and above 0.
        """
        same = copy.copy(self)
        same._steps = checked_steps(steps)
        return same

    def decode(self, latents: Float[Tensor, "some *latent"]) -> Float[Tensor, "some colours height width"]:
        """Return the images of latents.

        Raises:
            ShapeError: If latents have another shape than the prior's.
        """
        return walked(self, latents)

    def advance(
        self, state: Float[Tensor, "some *latent"], step: int
    ) -> tuple[Float[Tensor, "some *latent"], Float[Tensor, "some *latent"]]:
        """Return the latents after a step, and where they would end at the velocity that the step begins with."""
        time, after = self._time(step), self._time(step + 1)
        own = state.to(self.mean.dtype)
        labels = torch.full((len(own),), self.label, device=own.device)
        velocity = recomputed(self.transformer, own, own.new_full((len(own),), time), labels).to(state.dtype)
        return state + (after - time) * velocity, state + (1 - time) * velocity

    def finish(self, end: Float[Tensor, "some *latent"]) -> Float[Tensor, "some colours height width"]:
        """Return the images of the transformer's latents."""
        own = end.to(self.mean.dtype) * self.deviation / self.multiplier + self.mean
        images: Tensor = self.decoder(own).to(end.dtype)
        return images

    def _time(self, step: int) -> float:
        share = step / self._steps
        return self.shift * share / (1 + (self.shift - 1) * share)
