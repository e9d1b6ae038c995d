"""Attributors: score training examples for targets by any method, through one protocol."""

from whence.attribution.comparing import GradCos, GradDot, PathSimilarity, TracIn
from whence.attribution.parameters import Layers, check_layer, parameters_of
from whence.attribution.protocol import Attributor, Fitted, attribute
from whence.attribution.scores import harmful, helpful, label, load_scores, save_scores
from whence.attribution.trained import Trained, as_trained

__all__ = (
    "Attributor",
    "Fitted",
    "GradCos",
    "GradDot",
    "Layers",
    "PathSimilarity",
    "TracIn",
    "Trained",
    "as_trained",
    "attribute",
    "check_layer",
    "harmful",
    "helpful",
    "label",
    "load_scores",
    "parameters_of",
    "save_scores",
)
