"""The path kernel of a run: inner products of loss gradients along it, what they say of likeness, and their modes."""

from whence.kernel.coefficients import coefficients
from whence.kernel.differentiable import coefficients_of
from whence.kernel.difficulty import answers, class_margin, hidden_top_k, logit_margin, max_softmax, similarity_norm
from whence.kernel.eigenmodes import eigenmodes, mode_sums
from whence.kernel.maps import extremes, layout
from whence.kernel.modes import Modes, modes, modes_for_energy
from whence.kernel.online import OnlineModes, online_modes
from whence.kernel.parameters import Layers, check_layer, parameters_of
from whence.kernel.path import path_kernel
from whence.kernel.question import Times
from whence.kernel.sensitivity import input_sensitivity
from whence.kernel.similarity import angle_distance, chord_distance, similarity
from whence.kernel.sketch import path_features
from whence.kernel.spectrum import participation_ratio
from whence.kernel.storage import load_kernel
from whence.kernel.tensor import gradient_tensor, time_kernel
from whence.kernel.trained import Trained, as_trained, at_step

__all__ = [
    "Layers",
    "Modes",
    "OnlineModes",
    "Times",
    "Trained",
    "angle_distance",
    "answers",
    "as_trained",
    "at_step",
    "check_layer",
    "chord_distance",
    "class_margin",
    "coefficients",
    "coefficients_of",
    "eigenmodes",
    "extremes",
    "gradient_tensor",
    "hidden_top_k",
    "input_sensitivity",
    "layout",
    "load_kernel",
    "logit_margin",
    "max_softmax",
    "mode_sums",
    "modes",
    "modes_for_energy",
    "online_modes",
    "parameters_of",
    "participation_ratio",
    "path_features",
    "path_kernel",
    "similarity",
    "similarity_norm",
    "time_kernel",
]
