"""The path kernel of a run: inner products of loss gradients along it, what they say of likeness, and their modes."""

from whence.kernel.parameters import Layers, check_layer, parameters_of
from whence.kernel.trained import Trained, as_trained, at_step

__all__ = ["Layers", "Trained", "as_trained", "at_step", "check_layer", "parameters_of"]
