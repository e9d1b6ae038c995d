"""Priors: distributions of inputs, from plain pixels to diffusion and flow models."""

from whence.invariants.priors.diffusion import Diffusion
from whence.invariants.priors.latent_flow import LatentFlow, Sizes
from whence.invariants.priors.pipelines import load_diffusion
from whence.invariants.priors.pixels import Fourier, Pixels
from whence.invariants.priors.protocol import Chain, Prior, draw, evaluations, latent_quantile
from whence.invariants.priors.settings import PriorSettings
from whence.invariants.priors.storage import load_prior, prior_facts
from whence.invariants.priors.training import train_prior

__all__ = (
    "Chain",
    "Diffusion",
    "Fourier",
    "LatentFlow",
    "Pixels",
    "Prior",
    "PriorSettings",
    "Sizes",
    "draw",
    "evaluations",
    "latent_quantile",
    "load_diffusion",
    "load_prior",
    "prior_facts",
    "train_prior",
)
