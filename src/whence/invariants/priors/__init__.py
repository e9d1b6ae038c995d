"""Priors: distributions of inputs, from plain pixels to diffusion and flow models."""

from whence.invariants.priors.protocol import Prior, draw, evaluations, latent_quantile

__all__ = (
    "Prior",
    "draw",
    "evaluations",
    "latent_quantile",
)
