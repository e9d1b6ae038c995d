"""Which training example is looked at for which target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Integer

from whence._errors import ArgumentError, LabelError
from whence._numbers import is_whole
from whence.attribution.scores import check_scores

Pairs = Sequence[tuple[int, int]] | Integer[np.ndarray, "pairs 2"]
"""Ids: (target, training example)."""


def top_pairs(scores: xr.DataArray, count: int = 5, *, harmful: bool = False) -> list[tuple[int, int]]:
    """Return the pairs of each target with the examples that helped it most.

    Args:
        scores: Dims ``("target", "train")``, from `whence.attribution.attribute`.
        count: How many examples a target.
        harmful: Take those that harmed it most instead.

    Raises:
        ArgumentError: If ``count`` is not between 1 and the number of examples, or the scores are something else.

    Examples:
        >>> found = xr.DataArray([[3.0, 1.0, 2.0]], {"target": [7], "train": [0, 1, 2]}, attrs={"helps": 1})
        >>> top_pairs(found, 2)
        [(7, 0), (7, 2)]
    """
    check_scores(scores)
    if not is_whole(count) or not 1 <= count <= scores.sizes["train"]:
        raise ArgumentError(f"`count` is 1 to {scores.sizes['train']}, the scored examples; got {count!r}.")
    sign = scores.attrs["helps"] * (1 if harmful else -1)
    order = np.argsort(sign * scores.values, axis=1, kind="stable")[:, :count]
    train, targets = scores["train"].values, scores["target"].values
    return [(int(targets[row]), int(train[column])) for row, columns in enumerate(order) for column in columns]


def as_pairs(pairs: Any, targets: int, train: int) -> Integer[np.ndarray, "pairs 2"]:
    """Return pairs as an array, checked.

    Args:
        pairs: What a caller gave.
        targets, train: How many examples there are of each kind.

    Raises:
        ArgumentError: If these are not pairs of whole numbers, or none.
        LabelError: If there is no such target or training example.
    """
    try:
        found = np.asarray(pairs if isinstance(pairs, np.ndarray) else [tuple(one) for one in pairs])
    except (TypeError, ValueError):
        found = np.empty(0)
    if found.ndim != 2 or found.shape[1] != 2 or len(found) == 0 or not np.issubdtype(found.dtype, np.integer):
        shown = repr(pairs) if len(repr(pairs)) < 80 else f"{repr(pairs)[:77]}..."
        raise ArgumentError(
            f"`pairs` are (target id, training id), at least one, such as [(0, 17)] or top_pairs(scores); got {shown}."
        )
    for column, (name, count) in enumerate((("target", targets), ("training example", train))):
        outside = found[(found[:, column] < 0) | (found[:, column] >= count), column]
        if len(outside):
            raise LabelError(f"No {name} {outside[0]}: there are {count}, with ids 0 to {count - 1}.")
    return found
