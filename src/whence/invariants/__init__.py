"""Invariants: inputs on which a network takes the value that it takes on a query."""

from whence.invariants.api import invariants
from whence.invariants.filters import low_pass
from whence.invariants.objective import (
    Objective,
    greatest_difference,
    logits,
    named_unit,
    neuron,
    probabilities,
    root_mean_square,
)
from whence.invariants.pool import Pool, draw_pool
from whence.invariants.priors import Prior, draw, evaluations, latent_quantile
from whence.invariants.realism import Realism, precision, realism, recall
from whence.invariants.result import InvariantSet, load_invariants
from whence.invariants.solvers import GaussNewton, Search, Solver, Status

__all__ = (
    "GaussNewton",
    "InvariantSet",
    "Objective",
    "Pool",
    "Prior",
    "Realism",
    "Search",
    "Solver",
    "Status",
    "draw",
    "draw_pool",
    "evaluations",
    "greatest_difference",
    "invariants",
    "latent_quantile",
    "load_invariants",
    "logits",
    "low_pass",
    "named_unit",
    "neuron",
    "precision",
    "probabilities",
    "realism",
    "recall",
    "root_mean_square",
)
