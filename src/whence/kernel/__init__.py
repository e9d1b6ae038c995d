"""The path kernel of a run: inner products of loss gradients along it, what they say of likeness, and their modes."""

from whence.kernel.coefficients import coefficients
from whence.kernel.differentiable import coefficients_of
from whence.kernel.modes import Modes, modes, modes_for_energy
from whence.kernel.parameters import Layers, check_layer, parameters_of
from whence.kernel.path import path_kernel
from whence.kernel.question import Times
from whence.kernel.sensitivity import input_sensitivity
from whence.kernel.similarity import angle_distance, chord_distance, similarity
from whence.kernel.spectrum import participation_ratio
from whence.kernel.storage import load_kernel
from whence.kernel.trained import Trained, as_trained, at_step

__all__ = [
    "Layers",
    "Modes",
    "Times",
    "Trained",
    "angle_distance",
    "as_trained",
    "at_step",
    "check_layer",
    "chord_distance",
    "coefficients",
    "coefficients_of",
    "input_sensitivity",
    "load_kernel",
    "modes",
    "modes_for_energy",
    "parameters_of",
    "participation_ratio",
    "path_kernel",
    "similarity",
]
