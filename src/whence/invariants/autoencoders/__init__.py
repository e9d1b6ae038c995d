"""Sparse autoencoders: the features that a layer's activations are sums of."""

from whence.invariants.autoencoders.examples import top_activating
from whence.invariants.autoencoders.figures import autoencoder_figures
from whence.invariants.autoencoders.loop import AutoencoderTraining
from whence.invariants.autoencoders.network import Relu, SparseAutoencoder, TopK, feature_values
from whence.invariants.autoencoders.result import TrainedAutoencoder, load_autoencoder, save_autoencoder
from whence.invariants.autoencoders.training import train_autoencoder

__all__ = (
    "AutoencoderTraining",
    "Relu",
    "SparseAutoencoder",
    "TopK",
    "TrainedAutoencoder",
    "autoencoder_figures",
    "feature_values",
    "load_autoencoder",
    "save_autoencoder",
    "top_activating",
    "train_autoencoder",
)
