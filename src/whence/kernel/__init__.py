"""The path kernel of a run: inner products of loss gradients along it, what they say of likeness, and their modes."""

from whence.kernel.coefficients import coefficients
from whence.kernel.differentiable import coefficients_of
from whence.kernel.modes import Modes, modes, modes_for_energy
from whence.kernel.parameters import Layers, check_layer, parameters_of
from whence.kernel.sensitivity import input_sensitivity
from whence.kernel.spectrum import participation_ratio
from whence.kernel.trained import Trained, as_trained, at_step

__all__ = [
    "Layers",
    "Modes",
    "Trained",
    "as_trained",
    "at_step",
    "check_layer",
    "coefficients",
    "coefficients_of",
    "input_sensitivity",
    "modes",
    "modes_for_energy",
    "parameters_of",
    "participation_ratio",
]
