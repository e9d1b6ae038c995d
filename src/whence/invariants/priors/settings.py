"""How a latent flow is made and trained."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple, final

from whence._errors import ArgumentError
from whence._numbers import is_number, is_whole
from whence.invariants.priors.latent_flow import checked_rule, checked_steps
from whence.invariants.priors.latent_networks import Shape

_SEEDS = 2**32  # of which others are made
BATCH = 128  # images of a step of the autoencoder's training


@final
class _Suited(NamedTuple):
    """What suits images of so many numbers at most."""

    most: float
    latent: int
    hidden: int
    coding: int  # steps of the autoencoder, at least three epochs
    flowing: int  # steps of the flow
    divergence: float


_SUITED = (
    _Suited(256, 16, 128, 700, 1500, 0.05),
    _Suited(1600, 32, 256, 1600, 6000, 0.2),
    _Suited(8192, 96, 256, 3200, 9000, 0.2),
    _Suited(math.inf, 128, 384, 6400, 12_000, 0.2),
)


@final
@dataclass(frozen=True)
class PriorSettings:
    """How a latent flow is made and trained; what is None suits the size and number of the images.

    Attributes:
        latent: Numbers of a latent; for one channel of 8 x 8 suits 16, of 28 x 28 32, for three of 32 x 32 96.
        epochs: Passes of the autoencoder's training over the data.
        flow_steps: Steps of the flow's training, 512 latents each.
        steps: Of a decoding.
        rule: ``"midpoint"`` or ``"euler"``.
        width: Channels of the autoencoder's first convolution, a multiple of 16.
        hidden: Width of the flow's network.
        divergence: Weight of the autoencoder's Kullback-Leibler divergence; small, as the flow takes latents as they
            come.
        rate: Greatest learning rate of both trainings.
        seed: Of initial weights, order and noise, and of which images are held out.

    Raises:
        ArgumentError: If one of these is not what it must be.
    """

    latent: int | None = None
    epochs: int | None = None
    flow_steps: int | None = None
    steps: int = 4
    rule: str = "midpoint"
    width: int = 32
    hidden: int | None = None
    divergence: float | None = None
    rate: float = 2e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("latent", "epochs", "flow_steps", "hidden"):
            given = getattr(self, name)
            if given is not None and (not is_whole(given) or given < 1):
                raise ArgumentError(f"`{name}` is a whole number, at least 1; got {given!r}.")
        if not is_whole(self.seed) or not 0 <= self.seed < _SEEDS:
            raise ArgumentError(f"`seed` is a whole number, at least 0 and below 2^32; got {self.seed!r}.")
        weight = 0.0 if self.divergence is None else self.divergence
        if not is_number(self.rate) or self.rate <= 0 or not is_number(weight) or weight < 0:
            raise ArgumentError(f"`rate` is above 0 and `divergence` at least 0; got {self.rate!r} and {weight!r}.")
        checked_rule(self.rule)
        checked_steps(self.steps)

    def suited(self, shape: Shape, count: int) -> PriorSettings:
        """Return the same with a number for each None."""
        best = next(one for one in _SUITED if math.prod(shape) <= one.most)
        return replace(
            self,
            latent=self.latent or best.latent,
            hidden=self.hidden or best.hidden,
            epochs=self.epochs or max(3, -(-best.coding * BATCH // count)),
            flow_steps=self.flow_steps or best.flowing,
            divergence=best.divergence if self.divergence is None else self.divergence,
        )
