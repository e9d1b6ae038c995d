"""Applications of provenance networks, each measured beside what needs no such network."""

from whence.evaluation.provenance.choices import (
    least_ambiguous,
    least_diverse,
    least_prototypical,
)
from whence.evaluation.provenance.embedding import (
    TSNE,
    UMAP,
    Projection,
    embedding_map,
    map_figure,
    styles,
    styles_sheet,
)
from whence.evaluation.provenance.entropy import (
    Outliers,
    add_outliers,
    entropy_detection,
    entropy_ranking,
    entropy_sheet,
)
from whence.evaluation.provenance.membership import membership_by_index, membership_figure
from whence.evaluation.provenance.memorisation import (
    memorisation_curve,
)
from whence.evaluation.provenance.retrieval import distorted_retrieval, evaluate_provenance, retrieval_accuracy
from whence.evaluation.provenance.robustness import (
    conditions_sheet,
    robustness,
)
from whence.evaluation.provenance.scaling import (
    subset_scaling,
)
from whence.evaluation.provenance.sharing import (
    sharing_by_size,
)
from whence.evaluation.provenance.trainings import (
    MakeNetwork,
    Trainings,
)

__all__ = (
    "TSNE",
    "UMAP",
    "MakeNetwork",
    "Outliers",
    "Projection",
    "Trainings",
    "add_outliers",
    "conditions_sheet",
    "distorted_retrieval",
    "embedding_map",
    "entropy_detection",
    "entropy_ranking",
    "entropy_sheet",
    "evaluate_provenance",
    "least_ambiguous",
    "least_diverse",
    "least_prototypical",
    "map_figure",
    "membership_by_index",
    "membership_figure",
    "memorisation_curve",
    "retrieval_accuracy",
    "robustness",
    "sharing_by_size",
    "styles",
    "styles_sheet",
    "subset_scaling",
)
