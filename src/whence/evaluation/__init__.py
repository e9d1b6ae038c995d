"""Evaluation: which explanation to trust, measured; every function gives a table with intervals and a plot."""

from whence.evaluation.comparison import compare_attributors
from whence.evaluation.datamodeling import linear_datamodeling_score
from whence.evaluation.diffroar import Blocks, block_digits, diffroar
from whence.evaluation.insertion import Intervention, deletion, insertion
from whence.evaluation.membership import membership_table
from whence.evaluation.noise import NoisyLabels, add_label_noise, label_noise
from whence.evaluation.orders import (
    at_random,
    balanced_at_random,
    class_balanced,
    least_absolute,
    least_summed,
    most_harmful,
    most_helpful,
    most_redundant,
    upweighted,
    whole_clusters,
)
from whence.evaluation.provenance import (
    MakeNetwork,
    Outliers,
    Trainings,
    add_outliers,
    conditions_sheet,
    entropy_detection,
    entropy_ranking,
    entropy_sheet,
    membership_by_index,
    memorisation_curve,
    robustness,
)
from whence.evaluation.pruning import pruning
from whence.evaluation.sanity import duplicates, identical_class, model_randomisation, reinitialised
from whence.evaluation.shortcut import Patch, ShortcutSizes, shortcut, square_patch
from whence.evaluation.specificity import TwoDigits, specificity, two_digits
from whence.evaluation.table import Table, Tables, load_table
from whence.evaluation.truth import Truth, load_truth, random_parts, removal_losses, subset_losses, truth_of

__all__ = (
    "Blocks",
    "Intervention",
    "MakeNetwork",
    "NoisyLabels",
    "Outliers",
    "Patch",
    "ShortcutSizes",
    "Table",
    "Tables",
    "Trainings",
    "Truth",
    "TwoDigits",
    "add_label_noise",
    "add_outliers",
    "at_random",
    "balanced_at_random",
    "block_digits",
    "class_balanced",
    "compare_attributors",
    "conditions_sheet",
    "deletion",
    "diffroar",
    "duplicates",
    "entropy_detection",
    "entropy_ranking",
    "entropy_sheet",
    "identical_class",
    "insertion",
    "label_noise",
    "least_absolute",
    "least_summed",
    "linear_datamodeling_score",
    "load_table",
    "load_truth",
    "membership_by_index",
    "membership_table",
    "memorisation_curve",
    "model_randomisation",
    "most_harmful",
    "most_helpful",
    "most_redundant",
    "pruning",
    "random_parts",
    "reinitialised",
    "removal_losses",
    "robustness",
    "shortcut",
    "specificity",
    "square_patch",
    "subset_losses",
    "truth_of",
    "two_digits",
    "upweighted",
    "whole_clusters",
)
