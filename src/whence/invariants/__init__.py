"""Invariants: inputs on which a network takes the value that it takes on a query."""

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
from whence.invariants.priors import Prior, draw, evaluations, latent_quantile

__all__ = (
    "AutoencoderTraining",
    "Prior",
    "Relu",
    "SparseAutoencoder",
    "TopK",
    "TrainedAutoencoder",
    "autoencoder_figures",
    "draw",
    "evaluations",
    "feature_values",
    "latent_quantile",
    "load_autoencoder",
    "low_pass",
    "save_autoencoder",
    "top_activating",
    "train_autoencoder",
)
