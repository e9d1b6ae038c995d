"""Provenance networks: models that name the training examples behind their answer."""

from whence.provenance.attributor import Provenance
from whence.provenance.codes import CodeHead
from whence.provenance.heads import CosineHead, IndexHead, LinearHead, MemoryBank, Neighbours, SharedHead
from whence.provenance.indices import ClassIndex, class_index
from whence.provenance.loss import provenance_loss
from whence.provenance.network import Answer, Branches, ProvenanceNetwork, Task
from whence.provenance.objective import Losses, Objective, index_loss, neighbourhood_loss
from whence.provenance.papers import shared_levels, single_branch, two_branches
from whence.provenance.retrieval import embeddings, reading, retrieve
from whence.provenance.storage import load_network, save_network
from whence.provenance.training import Optimization, one_cycle, train, warm_up_and_decay

__all__ = (
    "Answer",
    "Branches",
    "ClassIndex",
    "CodeHead",
    "CosineHead",
    "IndexHead",
    "LinearHead",
    "Losses",
    "MemoryBank",
    "Neighbours",
    "Objective",
    "Optimization",
    "Provenance",
    "ProvenanceNetwork",
    "SharedHead",
    "Task",
    "class_index",
    "embeddings",
    "index_loss",
    "load_network",
    "neighbourhood_loss",
    "one_cycle",
    "provenance_loss",
    "reading",
    "retrieve",
    "save_network",
    "shared_levels",
    "single_branch",
    "train",
    "two_branches",
    "warm_up_and_decay",
)
