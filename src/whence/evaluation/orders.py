"""Orders in which to remove training examples, from scores or similarities (PLGK, appendix A.4).

Each is an array of all ids, the first to be removed first. The reverse of an order, ``order[::-1]``, removes what it
keeps longest: ``least_absolute(scores)[::-1]`` is the most influential data first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float, Int
from numpy.typing import NDArray

from whence._errors import ArgumentError, ShapeError
from whence.evaluation.inputs import as_count, as_help

Order = Int[np.ndarray, " train"]
Keep = Callable[[int, int], Sequence[int]]
"""(how many to remove, seed) -> ids to train on; one that comes twice has twice the weight."""
_SYMMETRIC = 1e-5


def least_summed(scores: xr.DataArray) -> Order:
    """Order by |sum of scores over targets|, smallest first: "least influential by sum".

    Args:
        scores: Of an attributor, such as an audit.

    Raises:
        ArgumentError: If these are no scores.

    Examples:
        >>> scores = xr.DataArray([[1.0, -5.0, 2.0], [1.0, 5.0, 2.0]], dims=("target", "train"), attrs={"helps": 1})
        >>> least_summed(scores).tolist(), least_absolute(scores).tolist()
        ([1, 0, 2], [0, 2, 1])
    """
    return _ascending(np.abs(as_help(scores).sum(0, dtype=np.float64)))


def least_absolute(scores: xr.DataArray) -> Order:
    """Order by the sum over targets of |score|, smallest first: "least influential by absolute sum".

    Args:
        scores: Of an attributor, such as an audit.

    Raises:
        ArgumentError: If these are no scores.
    """
    return _ascending(np.abs(as_help(scores)).sum(0, dtype=np.float64))


def most_harmful(scores: xr.DataArray) -> Order:
    """Order by the sum of scores over targets, most harmful first.

    Args:
        scores: Of an attributor, such as an audit of the loss.

    Raises:
        ArgumentError: If these are no scores.
    """
    return _ascending(as_help(scores).sum(0, dtype=np.float64))


def most_helpful(scores: xr.DataArray) -> Order:
    """Order by the sum of scores over targets, most helpful first.

    Args:
        scores: Of an attributor, such as an audit of the loss.

    Raises:
        ArgumentError: If these are no scores.
    """
    return _ascending(-as_help(scores).sum(0, dtype=np.float64))


def class_balanced(order: Order, labels: Any) -> Order:
    """Rearrange an order so that every class loses the same share at any point; within a class it stays.

    Args:
        order: Any order.
        labels: Class of each training example, (train,).

    Raises:
        ShapeError: If there is not one label an example.

    Examples:
        >>> class_balanced(np.array([0, 1, 2, 3]), [5, 5, 7, 7]).tolist()
        [0, 2, 1, 3]
    """
    classes = np.asarray(labels)
    if classes.shape != order.shape:
        raise ShapeError(f"Labels must be one for each of {order.size} training examples; got shape {classes.shape}.")
    shares = np.empty(order.size)
    for kind in np.unique(classes):
        where = np.flatnonzero(classes[order] == kind)
        shares[where] = (np.arange(where.size) + 0.5) / where.size
    return order[np.argsort(shares, kind="stable")]


def at_random(count: int) -> Keep:
    """Return the baseline that removes examples at random, others with each seed.

    Args:
        count: How many training examples there are.

    Raises:
        ArgumentError: If it is no number of examples.
    """
    whole = as_count(count, "count")
    return lambda removed, seed: np.random.default_rng(seed).permutation(whole)[removed:].tolist()


def balanced_at_random(labels: Any) -> Keep:
    """Return the baseline that removes the same share of each class at random.

    Args:
        labels: Class of each training example, (train,).
    """
    classes = np.asarray(labels)

    def keep(removed: int, seed: int) -> Sequence[int]:
        order = np.random.default_rng(seed).permutation(classes.size)
        left: list[int] = class_balanced(order, classes)[removed:].tolist()
        return left

    return keep


def most_redundant(similarity: Any) -> Order:
    """Order by redundancy: of the two most similar clusters one representative goes, then of the next two.

    Average linkage over 1 - similarity. A cluster's representative is that of the larger of the two it was made of;
    the one that no other outlives is last.

    Args:
        similarity: Of training examples to each other, (train, train), such as intrinsic path similarity
            (`whence.attribution.PathSimilarity` with the training data as targets).

    Raises:
        ShapeError: If it is not square.
        ArgumentError: If it is not symmetric or not finite.

    Examples:
        >>> most_redundant([[1, 0.9, 0], [0.9, 1, 0], [0, 0, 1]]).tolist()
        [1, 2, 0]
    """
    merged, last = _merges(similarity)
    return np.array([one for one, _ in merged] + [last], dtype=np.int64)


def upweighted(similarity: Any) -> Keep:
    """Return the strategy that removes redundant examples and trains on each representative as often as it stands for.

    Args:
        similarity: As `most_redundant` takes it.

    Raises:
        ShapeError: If it is not square.
        ArgumentError: If it is not symmetric or not finite.
    """
    merged, last = _merges(similarity)
    whole = len(merged) + 1

    def keep(removed: int, _seed: int) -> Sequence[int]:
        counts = np.ones(whole, dtype=np.int64)
        for gone, by in merged[:removed]:
            counts[by] += counts[gone]
            counts[gone] = 0
        if removed == whole:
            counts[last] = 0
        return np.repeat(np.arange(whole), counts).tolist()

    return keep


def whole_clusters(similarity: Any, clusters: int) -> Order:
    """Order by cluster, the largest first, each removed as a whole.

    Args:
        similarity: As `most_redundant` takes it.
        clusters: How many clusters of average linkage to form, at most.

    Raises:
        ShapeError: If the similarity is not square.
        ArgumentError: If it is not symmetric or not finite, or ``clusters`` is none of 1 to the number of examples.
    """
    from scipy.cluster.hierarchy import fcluster

    tree, count = _tree(similarity)
    if as_count(clusters, "clusters") > count:
        raise ArgumentError(f"`clusters` must be at most the number of training examples, {count}; got {clusters}.")
    members = fcluster(tree, clusters, criterion="maxclust") if count > 1 else np.ones(1, dtype=np.int64)
    sizes = np.bincount(members)
    return np.lexsort((np.arange(count), members, -sizes[members])).astype(np.int64)


def _merges(similarity: Any) -> tuple[list[tuple[int, int]], int]:
    """Return who goes and who stands for it, in order, and who is left."""
    tree, count = _tree(similarity)
    representative, size = {one: one for one in range(count)}, dict.fromkeys(range(count), 1)
    merged = []
    for step, (one, other) in enumerate(tree[:, :2].astype(np.int64).tolist()):
        smaller, larger = sorted((one, other), key=lambda cluster: (size[cluster], -representative[cluster]))
        merged.append((representative[smaller], representative[larger]))
        representative[count + step], size[count + step] = representative[larger], size[one] + size[other]
    return merged, representative[2 * count - 2]


def _tree(similarity: Any) -> tuple[NDArray[np.float64], int]:
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    values = np.asarray(similarity, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or not values.size:
        raise ShapeError(f"A similarity of training examples needs shape (train, train); got {values.shape}.")
    if not np.isfinite(values).all() or np.abs(values - values.T).max() > _SYMMETRIC * max(1, np.abs(values).max()):
        raise ArgumentError(
            "A similarity of training examples must be symmetric and finite. Score the training data as its own "
            "targets, all of it and in its order, by a symmetric method such as PathSimilarity()."
        )
    distance = np.maximum(0, 1 - (values + values.T) / 2)
    np.fill_diagonal(distance, 0)
    if len(values) == 1:
        return np.empty((0, 4)), 1
    return linkage(squareform(distance, checks=False), "average"), len(values)


def _ascending(values: Float[np.ndarray, " train"]) -> Order:
    return np.argsort(values, kind="stable")
