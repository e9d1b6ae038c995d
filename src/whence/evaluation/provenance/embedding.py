"""What the index branch sees alike: styles within a class, and a map of the embedding in two dimensions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image

from whence._errors import ArgumentError, DataError, ShapeError
from whence._extras import require
from whence._numbers import is_number
from whence.datasets import as_examples
from whence.evaluation.inputs import as_count
from whence.evaluation.provenance.sheets import Cell, Row, picture, sheet_of
from whence.provenance import ProvenanceNetwork, embeddings, retrieve

Points = Float[np.ndarray, "inputs width"]
Projection = Callable[[Points], Float[np.ndarray, "inputs two"]]
"""Embeddings (inputs, width) -> places in the plane (inputs, 2)."""


def styles(
    network: ProvenanceNetwork, inputs_of_a_class: Any, clusters: int = 6, *, exemplars: int = 4, seed: int = 0
) -> xr.Dataset:
    """Cluster inputs of a class in the embedding of the index branch (Provenance Networks, 4.2 and 7.3, figures 3, 13).

    k-means by Euclidean distance in the last embedding of the index branch, the paper's 2048 numbers, from ten starts.

    Args:
        network: A trained network.
        inputs_of_a_class: A batch of inputs as the backbone takes it, such as the training examples of a class.
        clusters: How many.
        exemplars: How many inputs nearest to each centre to name; the paper shows four.
        seed: Of the starts.

    Returns:
        ``cluster``, the style of each "input"; ``centre`` ("style", "width"), ``size`` ("style") and ``exemplar``
        ("style", "rank"): which inputs, the nearest to the centre first, of the cluster's own; -1 where it has fewer.
        Clusters are numbered by size, the largest 0.

    Raises:
        ArgumentError: If a number is no whole one, at least 1, or there are fewer inputs than clusters.
        DataError: If the embedding of an input is no finite number.
    """
    many, named = as_count(clusters, "clusters"), as_count(exemplars, "exemplars")
    points = _points(network, inputs_of_a_class)
    if len(points) < many:
        raise ArgumentError(f"`clusters`, {many}, must be at most the {len(points)} inputs.")
    from sklearn.cluster import KMeans  # here, as it takes long to import

    found = KMeans(many, n_init=10, random_state=seed).fit(points)
    sizes = np.bincount(found.labels_, minlength=many)
    order = np.argsort(-sizes, kind="stable")
    cluster, centres = np.argsort(order)[found.labels_], found.cluster_centers_[order]
    nearest = np.full((many, named), -1)
    for place, centre in enumerate(centres):
        own = np.flatnonzero(cluster == place)
        chosen = own[np.argsort(np.linalg.norm(points[own] - centre, axis=1), kind="stable")[:named]]
        nearest[place, : len(chosen)] = chosen
    return xr.Dataset(
        {
            "cluster": ("input", cluster),
            "centre": (("style", "width"), centres),
            "size": ("style", sizes[order]),
            "exemplar": (("style", "rank"), nearest),
        },
        {"input": np.arange(len(points)), "style": np.arange(many), "rank": np.arange(1, named + 1)},
        {"seed": seed, "inertia": float(found.inertia_)},
    )


def styles_sheet(found: xr.Dataset, inputs_of_a_class: Any, *, size: int = 48) -> Image.Image:
    """Draw the inputs nearest to each cluster's centre, a row a cluster (figures 3 and 13).

    Args:
        found: Of `styles`; under each picture stands its coordinate "input", to which ids may be assigned.
        inputs_of_a_class: Its inputs, pictures.
        size: Length of the longer side of each picture, in pixels; at least 40.

    Raises:
        ArgumentError: If inputs are no pictures, of another number, or the size is too small.
    """
    count = found.sizes["input"]
    if len(inputs_of_a_class) != count:
        raise ArgumentError(f"The styles are of {count} inputs; these are {len(inputs_of_a_class)}.")
    examples = as_examples((inputs_of_a_class, torch.zeros(count, dtype=torch.int64)))
    names, rows = found["input"].values, []
    for place, near in enumerate(found["exemplar"].values.tolist()):
        cells = [Cell(picture(examples, one, size), str(names[one])) if one >= 0 else Cell() for one in near]
        rows.append(Row(f"style {place}, {int(found['size'][place])} inputs", [cells]))
    return sheet_of(rows, ("nearest to the centre",))


@final
@dataclass(frozen=True)
class TSNE:
    """t-distributed stochastic neighbour embedding (van der Maaten and Hinton, 2008), scikit-learn's.

    Attributes:
        perplexity: About how many neighbours of each count; below the number of inputs.
        seed: Of the start.
    """

    perplexity: float = 30.0
    seed: int = 0

    def __call__(self, points: Points) -> Float[np.ndarray, "inputs two"]:
        """Return places in the plane.

        Raises:
            ArgumentError: If the perplexity is not between 0 and the number of points.
        """
        if not is_number(self.perplexity) or not 0 < self.perplexity < len(points):
            raise ArgumentError(
                f"`perplexity` must be above 0 and below the {len(points)} inputs; got {self.perplexity!r}."
            )
        from sklearn import manifold  # here, as it takes long to import

        fitted = manifold.TSNE(2, perplexity=self.perplexity, init="pca", random_state=self.seed)
        found: NDArray[np.floating] = fitted.fit_transform(points)
        return found


@final
@dataclass(frozen=True)
class UMAP:
    """Uniform manifold approximation and projection (McInnes et al., 2018); needs the extra ``umap``.

    Attributes:
        neighbours: How many neighbours of each count.
        seed: Of the start.
    """

    neighbours: int = 15
    seed: int = 0

    def __call__(self, points: Points) -> Float[np.ndarray, "inputs two"]:
        """Return places in the plane.

        Raises:
            MissingExtraError: If umap-learn is not installed.
        """
        found: NDArray[np.floating] = (
            require("umap", "umap").UMAP(n_neighbors=self.neighbours, random_state=self.seed).fit_transform(points)
        )
        return found


def embedding_map(
    network: ProvenanceNetwork, inputs: Any, labels: Any = None, *, projection: Projection | None = None
) -> xr.Dataset:
    """Lay the embedding of the index branch out in the plane (Provenance Networks, 4.2, figure 3).

    Distances between groups, and their sizes, mean nothing in such a map: it shows who is beside whom.

    Args:
        network: A trained network.
        inputs: A batch as the backbone takes it.
        labels: A whole number an input, such as its class, or its cluster of `styles`.
        projection: From embeddings to places; `TSNE()` by default, `UMAP()` with the extra ``umap``, or your own.

    Returns:
        ``place`` ("input", "axis") and, by "input", ``exemplar``, the id of the first retrieved training example,
        ``exemplar_class``, its class, and ``label``, where there are labels.

    Raises:
        ShapeError: If there is not one label an input, or the projection gives no places in the plane.
        ArgumentError: If t-SNE's perplexity does not fit the number of inputs, or the projection is no function.
        DataError: If the embedding of an input is no finite number.
        MissingExtraError: If UMAP is asked for and not installed.
    """
    if projection is not None and not callable(projection):
        raise ArgumentError(f"`projection` is a function of embeddings, such as TSNE() or UMAP(); got {projection!r}.")
    points = _points(network, inputs)
    known = None if labels is None else np.asarray(labels)
    if known is not None and (known.shape != (len(points),) or known.dtype.kind not in "iu"):
        raise ShapeError(
            f"`labels` needs a whole number for each of {len(points)} inputs; got {known.dtype} {known.shape}."
        )
    places = np.asarray((projection or TSNE())(points), dtype=np.float64)
    if places.shape != (len(points), 2):
        raise ShapeError(f"A projection must give places of shape ({len(points)}, 2); it gave {places.shape}.")
    first = retrieve(network, inputs, 1)
    data = {
        "place": (("input", "axis"), places),
        "exemplar": ("input", first["exemplar"].values[:, 0]),
        "exemplar_class": ("input", first["exemplar_class"].values[:, 0]),
    }
    if known is not None:
        data["label"] = ("input", known)
    return xr.Dataset(
        data, {"input": np.arange(len(points)), "axis": ["x", "y"]}, {"projection": repr(projection or TSNE())}
    )


def _points(network: ProvenanceNetwork, inputs: Any) -> Points:
    """Return the embedding of each input.

    Raises:
        DataError: If one is no finite number.
    """
    found: NDArray[np.float64] = embeddings(network, inputs).cpu().double().numpy()
    wrong = ~np.isfinite(found).all(1)
    if wrong.any():
        raise DataError(
            f"The embedding of input {int(wrong.argmax())} is no finite number. Look for numbers that are not finite "
            "in the inputs, torch.isfinite(inputs), and in the network's parameters."
        )
    return found


def map_figure(found: xr.Dataset) -> Any:
    """Return a plotly figure of a map: a colour a label, or a class of the first exemplar where there are none.

    Inputs whose first exemplar is of another class than their label are crossed: the paper's misattributed ones. Leave
    that aside where labels are clusters.

    Args:
        found: Of `embedding_map`.
    """
    import plotly.graph_objects as go

    kinds = found["label" if "label" in found else "exemplar_class"].values
    wrong, figure = kinds != found["exemplar_class"].values, go.Figure()
    for kind in np.unique(kinds):
        own = np.flatnonzero(kinds == kind)
        figure.add_scatter(
            x=found["place"].values[own, 0],
            y=found["place"].values[own, 1],
            mode="markers",
            name=str(kind),
            marker={"symbol": ["x" if wrong[one] else "circle" for one in own], "size": 6},
            text=[f"input {found['input'].values[one]}, exemplar {found['exemplar'].values[one]}" for one in own],
        )
    return figure.update_layout(
        title="Embedding of the index branch", template="simple_white", xaxis_visible=False, yaxis_visible=False
    )
