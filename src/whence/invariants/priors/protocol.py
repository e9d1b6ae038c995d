"""What a prior is: latents that are standard normal, and a differentiable way from them to inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import chi2
from torch import Tensor

from whence._errors import ShapeError


@runtime_checkable
class Prior(Protocol):
    """A distribution of inputs: the image of standard normal latents under a differentiable decoder.

    How an input is made of a latent, in one step or in a thousand, is the prior's own business. The latents of every
    prior are independent standard normal numbers, which is what makes a latent's size a measure of how usual an input
    is, and what exact sampling weighs moves by.

    Attributes:
        latent_shape: The shape of one latent.
    """

    latent_shape: tuple[int, ...]

    def decode(self, latents: Float[Tensor, "some *latent"]) -> Float[Tensor, "some *input"]:
        """Return the inputs that latents stand for, each from its own latent alone; gradients flow back."""
        ...


def draw(
    prior: Prior, n: int, seed: int, *, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "n *latent"]:
    """Draw latents of a prior: standard normal numbers, the same ones for the same seed on every device."""
    numbers = torch.randn(n, *prior.latent_shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return numbers.to(device=device, dtype=dtype)


def latent_quantile(latents: Float[Tensor, "some *latent"]) -> Float[np.ndarray, " some"]:
    """Return the share of a prior's own draws whose latents are shorter than each of these.

    The squared length of d standard normal numbers has the χ² distribution with d degrees of freedom. Draws of the
    prior have quantiles uniform over 0 to 1; one near 1 is longer than the prior ever draws, one near 0 shorter.

    Example:
        >>> latent_quantile(torch.tensor([[0.0, 0.0], [30.0, 0.0]])).tolist()
        [0.0, 1.0]
    """
    flat = latents.detach().double().flatten(1)
    return np.asarray(chi2.cdf(flat.square().sum(1).cpu().numpy(), flat.shape[1]))


def evaluations(prior: Prior) -> int:
    """Return how many times one decoding calls the prior's network: its ``evaluations``, 1 if it tells none."""
    return int(getattr(prior, "evaluations", 1))


def checked_latents(latents: Tensor, shape: Sequence[int]) -> Tensor:
    """Return latents of the shape that a prior decodes.

    Raises:
        ShapeError: If they have another.
    """
    if tuple(latents.shape[1:]) != tuple(shape):
        raise ShapeError(
            f"This prior decodes latents of shape (n, {', '.join(map(str, shape))}); got {tuple(latents.shape)}."
        )
    return latents
