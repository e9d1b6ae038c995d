"""Attributors: score training examples for targets by any method, through one protocol."""

from whence.attribution.baselines import Random, SameClass
from whence.attribution.comparing import GradCos, GradDot, PathSimilarity, TracIn
from whence.attribution.ekfac import EKFAC
from whence.attribution.indexes import FlatIndex, HNSWIndex, Index
from whence.attribution.influence import Influence
from whence.attribution.protocol import Attributor, Fitted, SelfScoring, attribute
from whence.attribution.recorded import Counterfactual, PathAudit, audit_scores
from whence.attribution.scores import harmful, helpful, label, load_scores, save_scores
from whence.attribution.similarity import NearestNeighbours, RepresentationCos, RepresentationDot
from whence.attribution.trak import TRAK
from whence.attribution.wrappers import ClassBalanced, Ensemble, Relative, self_influence
from whence.kernel.parameters import Layers, check_layer, parameters_of
from whence.kernel.trained import Trained, as_trained, at_step

__all__ = (
    "EKFAC",
    "TRAK",
    "Attributor",
    "ClassBalanced",
    "Counterfactual",
    "Ensemble",
    "Fitted",
    "FlatIndex",
    "GradCos",
    "GradDot",
    "HNSWIndex",
    "Index",
    "Influence",
    "Layers",
    "NearestNeighbours",
    "PathAudit",
    "PathSimilarity",
    "Random",
    "Relative",
    "RepresentationCos",
    "RepresentationDot",
    "SameClass",
    "SelfScoring",
    "TracIn",
    "Trained",
    "as_trained",
    "at_step",
    "attribute",
    "audit_scores",
    "check_layer",
    "harmful",
    "helpful",
    "label",
    "load_scores",
    "parameters_of",
    "save_scores",
    "self_influence",
)
