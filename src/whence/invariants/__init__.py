"""Invariants: inputs on which a network takes the value that it takes on a query."""

from whence.invariants.api import invariants
from whence.invariants.autoencoders import (
    AutoencoderTraining,
    Relu,
    SparseAutoencoder,
    TopK,
    TrainedAutoencoder,
    autoencoder_figures,
    feature_values,
    load_autoencoder,
    save_autoencoder,
    top_activating,
    train_autoencoder,
)
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
    "AutoencoderTraining",
    "GaussNewton",
    "InvariantSet",
    "Objective",
    "Pool",
    "Prior",
    "Realism",
    "Relu",
    "Search",
    "Solver",
    "SparseAutoencoder",
    "Status",
    "TopK",
    "TrainedAutoencoder",
    "autoencoder_figures",
    "draw",
    "draw_pool",
    "evaluations",
    "feature_values",
    "greatest_difference",
    "invariants",
    "latent_quantile",
    "load_autoencoder",
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
    "save_autoencoder",
    "top_activating",
    "train_autoencoder",
)
