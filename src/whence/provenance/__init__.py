"""Provenance networks: models that name the training examples behind their answer."""

from whence.provenance.asking import retrieval_rows, retrieve_examples
from whence.provenance.attributor import Provenance
from whence.provenance.backbones import small_backbone
from whence.provenance.codes import CodeHead
from whence.provenance.conditions import CONDITIONS, conditions
from whence.provenance.cosine import CosineHead, MemoryBank, Neighbours
from whence.provenance.distortions import (
    Blur,
    Distortion,
    GaussianNoise,
    MotionBlur,
    NoDistortion,
    Occlusion,
    Rotation,
    SaltAndPepper,
    Scaling,
    Translation,
)
from whence.provenance.folders import FolderSettings, NetworkFolder, folder_settings, open_folder, train_folder
from whence.provenance.generative import (
    WEIGHTS,
    ClassHeads,
    GenerativeLoss,
    GenerativeNetwork,
    Reconstruction,
    Scoring,
    SharedClassHead,
    across_classes,
    exemplar_sheet,
    generate,
    generative_loss,
    nearest_in_pixels,
    train_generative,
    within_class,
)
from whence.provenance.heads import IndexHead, LinearHead, SharedHead
from whence.provenance.indices import ClassIndex, class_index
from whence.provenance.loss import provenance_loss
from whence.provenance.mixture import DISTORT, Mixture, mixture_for
from whence.provenance.network import Answer, ProvenanceNetwork
from whence.provenance.objective import Losses, Objective, index_loss, neighbourhood_loss
from whence.provenance.papers import shared_levels, single_branch, two_branches
from whence.provenance.parts import Branches, Task
from whence.provenance.retrieval import embeddings, reading, retrieve
from whence.provenance.sheets import retrieval_sheet
from whence.provenance.storage import load_network, save_network
from whence.provenance.training import Optimization, one_cycle, train, warm_up_and_decay

__all__ = (
    "CONDITIONS",
    "DISTORT",
    "WEIGHTS",
    "Answer",
    "Blur",
    "Branches",
    "ClassHeads",
    "ClassIndex",
    "CodeHead",
    "CosineHead",
    "Distortion",
    "FolderSettings",
    "GaussianNoise",
    "GenerativeLoss",
    "GenerativeNetwork",
    "IndexHead",
    "LinearHead",
    "Losses",
    "MemoryBank",
    "Mixture",
    "MotionBlur",
    "Neighbours",
    "NetworkFolder",
    "NoDistortion",
    "Objective",
    "Occlusion",
    "Optimization",
    "Provenance",
    "ProvenanceNetwork",
    "Reconstruction",
    "Rotation",
    "SaltAndPepper",
    "Scaling",
    "Scoring",
    "SharedClassHead",
    "SharedHead",
    "Task",
    "Translation",
    "across_classes",
    "class_index",
    "conditions",
    "embeddings",
    "exemplar_sheet",
    "folder_settings",
    "generate",
    "generative_loss",
    "index_loss",
    "load_network",
    "mixture_for",
    "nearest_in_pixels",
    "neighbourhood_loss",
    "one_cycle",
    "open_folder",
    "provenance_loss",
    "reading",
    "retrieval_rows",
    "retrieval_sheet",
    "retrieve",
    "retrieve_examples",
    "save_network",
    "shared_levels",
    "single_branch",
    "small_backbone",
    "train",
    "train_folder",
    "train_generative",
    "two_branches",
    "warm_up_and_decay",
    "within_class",
)
