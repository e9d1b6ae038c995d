"""The generative provenance network: it makes a picture and names the training pictures that it comes from."""

from whence.provenance.generative.heads import ClassHeads, SharedClassHead
from whence.provenance.generative.losses import WEIGHTS, GenerativeLoss, generative_loss
from whence.provenance.generative.networks import GenerativeNetwork, Reconstruction
from whence.provenance.generative.pixels import nearest_in_pixels
from whence.provenance.generative.sampling import generate
from whence.provenance.generative.scoring import Scoring, across_classes, within_class
from whence.provenance.generative.sheets import exemplar_sheet
from whence.provenance.generative.training import train_generative

__all__ = (
    "WEIGHTS",
    "ClassHeads",
    "GenerativeLoss",
    "GenerativeNetwork",
    "Reconstruction",
    "Scoring",
    "SharedClassHead",
    "across_classes",
    "exemplar_sheet",
    "generate",
    "generative_loss",
    "nearest_in_pixels",
    "train_generative",
    "within_class",
)
