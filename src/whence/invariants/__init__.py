"""Invariants: inputs on which a network takes the value that it takes on a query."""

from whence.invariants.filters import low_pass
from whence.invariants.priors import Prior, draw, evaluations, latent_quantile

__all__ = (
    "Prior",
    "draw",
    "evaluations",
    "latent_quantile",
    "low_pass",
)
