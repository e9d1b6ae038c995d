"""The epochs of a latent flow's training: of its autoencoder, then of its flow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim import Adam

from whence._errors import DataError
from whence.datasets import Examples
from whence.invariants.priors.latent_flow import LatentFlow
from whence.invariants.priors.latent_networks import Shape
from whence.invariants.priors.pixels import floats
from whence.invariants.priors.settings import BATCH, PriorSettings
from whence.provenance.training import one_cycle

PARTS = 12  # of the flow's training, each an epoch of the history
LEAST_IMAGES = 40  # so that a tenth of them has three neighbours of its own
_FLOW_BATCH = 512  # latents of a step of the flow's training
_AT_ONCE = 512  # images read together
_BATCHED = 4  # dimensions of a batch of images


@final
@dataclass(eq=False)
class Fitting:
    """A latent flow in training: one epoch at a time, each with numbers drawn for it alone.

    Attributes:
        prior: What is trained, on its device.
        examples: The data.
        train: Which of it to train on.
        settings: Without None.
    """

    prior: LatentFlow
    examples: Examples
    train: Int[Tensor, " images"]
    settings: PriorSettings

    def __post_init__(self) -> None:
        coder = [*self.prior.encoder.parameters(), *self.prior.decoder.parameters()]
        self.optimizers = (Adam(coder), Adam(self.prior.velocity.parameters()))
        self._codes: tuple[Tensor, Tensor] | None = None

    @property
    def epochs(self) -> int:
        """How many epochs there are, of both trainings."""
        return (self.settings.epochs or 1) + PARTS

    def epoch(self, number: int) -> tuple[float, float, float]:
        """Train for an epoch; return the means of reconstruction, divergence and the flow's error, or NaN for each."""
        generator = torch.Generator().manual_seed(self.settings.seed * 7919 + number)
        before = self.settings.epochs or 1
        if number < before:
            return (*self._code(number, before, generator), math.nan)
        return (math.nan, math.nan, self._flow(number - before, generator))

    def images(self, ids: Int[Tensor, " some"], epoch: int = 0) -> Float[Tensor, "some channels height width"]:
        """Return images on the prior's device."""
        return pictures(self.examples, ids, epoch).to(self.prior.low)

    def _code(self, epoch: int, epochs: int, generator: torch.Generator) -> tuple[float, float]:
        """Train the autoencoder for an epoch: the bound of Kingma & Welling (2014), with a weight on the divergence."""
        order = self.train[torch.randperm(len(self.train), generator=generator)]
        sums, batches, optimizer = torch.zeros(2), order.split(BATCH), self.optimizers[0]
        for place, ids in enumerate(batches):
            optimizer.param_groups[0]["lr"] = self.settings.rate * one_cycle(
                epoch + (place + 0.5) / len(batches), epochs
            )
            wanted = self.prior.brightness(self.images(ids, epoch))
            mean, log_variance = self.prior.encoder(wanted)
            logits = self.prior.decoder(drawn(mean, log_variance, generator))
            missing = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / len(ids)
            spent = (mean.square() + log_variance.exp() - 1 - log_variance).sum() / (2 * len(ids))
            optimizer.zero_grad()
            (missing + (self.settings.divergence or 0.0) * spent).backward()
            optimizer.step()
            sums += torch.stack([missing, spent]).detach().cpu() * len(ids)
        found = (sums / len(order)).tolist()
        return found[0], found[1]

    def _flow(self, part: int, generator: torch.Generator) -> float:
        """Train the flow for a part of its steps: towards straight lines from noise to latents (Liu et al. 2023)."""
        (mean, log_variance), optimizer, prior = self._encoded(), self.optimizers[1], self.prior
        steps = len(range(part, self.settings.flow_steps or PARTS, PARTS))
        total = torch.zeros((), device=mean.device)
        for place in range(steps):
            share = (part + (place + 0.5) / max(1, steps)) / PARTS
            optimizer.param_groups[0]["lr"] = self.settings.rate / 2 * one_cycle(PARTS * share, PARTS)
            ids = torch.randint(len(mean), (_FLOW_BATCH,), generator=generator).to(mean.device)
            ends = (drawn(mean[ids], log_variance[ids], generator) - prior.latent_mean) / prior.latent_deviation
            noise = torch.randn(ends.shape, generator=generator).to(ends)
            times = torch.rand(len(ends), generator=generator).to(ends)
            found = prior.velocity(noise + times[:, None] * (ends - noise), times)
            loss = (found - (ends - noise)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return float(total) / max(1, steps)

    def _encoded(self) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of every image's latent; their common ones become the prior's, once."""
        if self._codes is None:
            with torch.no_grad():
                parts = [
                    self.prior.encoder(self.prior.brightness(self.images(one))) for one in self.train.split(_AT_ONCE)
                ]
            mean, log_variance = (torch.cat([part[which] for part in parts]) for which in (0, 1))
            variance = mean.var(0, correction=0) + log_variance.exp().mean(0)
            self.prior.latent_mean.copy_(mean.mean(0))
            self.prior.latent_deviation.copy_(variance.sqrt())
            self._codes = mean, log_variance
        return self._codes


def drawn(
    mean: Float[Tensor, "some latent"], log_variance: Float[Tensor, "some latent"], generator: torch.Generator
) -> Float[Tensor, "some latent"]:
    """Draw latents from independent normal distributions."""
    noise = torch.randn(mean.shape, generator=generator).to(mean)
    return mean + (log_variance / 2).exp() * noise


def pictures(examples: Examples, ids: Tensor, epoch: int = 0) -> Float[Tensor, "some channels height width"]:
    """Return examples that are images.

    Raises:
        DataError: If they are none, or hold numbers that are not finite.
    """
    found = floats(examples.batch(ids, epoch=epoch)[0])
    if found.dim() != _BATCHED:
        raise DataError(
            f"A latent flow is of images (channels, height, width); a batch of this data has the shape "
            f"{tuple(found.shape)}. Give the images a channel axis, as by unsqueeze(1)."
        )
    if not bool(found.isfinite().all()):
        raise DataError("The images hold numbers that are not finite. Clean the data first.")
    return found


def limits(examples: Examples) -> tuple[Shape, Tensor, Tensor]:
    """Return the shape of images, and the ends of each channel's range: 0 and 1 unless it goes beyond.

    Raises:
        DataError: If there are too few, or they are no images of one size.
    """
    if len(examples) < LEAST_IMAGES:
        raise DataError(f"A prior is trained on {LEAST_IMAGES} images at least; got {len(examples)}. Give more.")
    parts = [pictures(examples, ids) for ids in torch.arange(len(examples)).split(_AT_ONCE)]
    low = torch.stack([part.amin((0, 2, 3)) for part in parts]).amin(0).float()
    high = torch.stack([part.amax((0, 2, 3)) for part in parts]).amax(0).float()
    inside = (low >= 0) & (high <= 1)
    low, high = torch.where(inside, 0.0, low), torch.where(inside, 1.0, high)
    channels, height, width = parts[0].shape[1:]
    return (channels, height, width), low[:, None, None], torch.where(high > low, high, low + 1)[:, None, None]
