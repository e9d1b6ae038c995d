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
from whence.invariants.dictionary import feature, shared_features
from whence.invariants.filters import low_pass
from whence.invariants.guidance import guided
from whence.invariants.objective import Objective, greatest_difference, root_mean_square
from whence.invariants.pool import Pool, draw_pool
from whence.invariants.priors import (
    Chain,
    Diffusion,
    Fourier,
    LatentFlow,
    LightningFlow,
    Pixels,
    Prior,
    PriorSettings,
    Sizes,
    draw,
    evaluations,
    latent_quantile,
    load_diffusion,
    load_lightningdit,
    load_prior,
    prior_facts,
    train_prior,
)
from whence.invariants.ranking import most_telling
from whence.invariants.realism import Realism, precision, realism, recall
from whence.invariants.result import InvariantSet, load_invariants
from whence.invariants.solvers import FirstOrder, GaussNewton, InfiniteOptimization, Metropolis, Search, Solver, Status
from whence.invariants.traversal import Traversal, traverse, triangle
from whence.invariants.units import logits, named_unit, neuron, probabilities

__all__ = (
    "AutoencoderTraining",
    "Chain",
    "Diffusion",
    "FirstOrder",
    "Fourier",
    "GaussNewton",
    "InfiniteOptimization",
    "InvariantSet",
    "LatentFlow",
    "LightningFlow",
    "Metropolis",
    "Objective",
    "Pixels",
    "Pool",
    "Prior",
    "PriorSettings",
    "Realism",
    "Relu",
    "Search",
    "Sizes",
    "Solver",
    "SparseAutoencoder",
    "Status",
    "TopK",
    "TrainedAutoencoder",
    "Traversal",
    "autoencoder_figures",
    "draw",
    "draw_pool",
    "evaluations",
    "feature",
    "feature_values",
    "greatest_difference",
    "guided",
    "invariants",
    "latent_quantile",
    "load_autoencoder",
    "load_diffusion",
    "load_invariants",
    "load_lightningdit",
    "load_prior",
    "logits",
    "low_pass",
    "most_telling",
    "named_unit",
    "neuron",
    "precision",
    "prior_facts",
    "probabilities",
    "realism",
    "recall",
    "root_mean_square",
    "save_autoencoder",
    "shared_features",
    "top_activating",
    "train_autoencoder",
    "train_prior",
    "traverse",
    "triangle",
)
