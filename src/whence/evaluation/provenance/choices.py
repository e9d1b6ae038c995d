"""Orders in which to leave out training examples, so that those stay that an index of few is best made of.

As in `whence.evaluation.orders`, each names all ids, the first to be left out first. Those by influence are there:
`least_absolute` and `most_harmful` of any attributor's scores, such as an audit's; at random by class is
`balanced_at_random`. `class_balanced` makes any of them keep the classes' shares.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from whence._errors import ArgumentError, ShapeError
from whence.evaluation.orders import Order


def least_prototypical(embedding: Any, labels: Any) -> Order:
    """Order by distance to the centre of the class, the farthest first: prototypes stay (Provenance Networks, 4.3).

    Args:
        embedding: Of each training example, (train, width), such as `whence.provenance.embeddings` gives; or inputs.
        labels: Its class, (train,).

    Raises:
        ShapeError: If there is not one label an example.
        ArgumentError: If a number is not finite.

    Examples:
        >>> least_prototypical([[0.0], [1.0], [5.0], [9.0]], [0, 0, 0, 1]).tolist()
        [2, 0, 1, 3]
    """
    points, kinds = _points(embedding), np.asarray(labels)
    if kinds.shape != (len(points),):
        raise ShapeError(f"Labels must be one for each of {len(points)} training examples; got shape {kinds.shape}.")
    far = np.empty(len(points))
    for kind in np.unique(kinds):
        own = kinds == kind
        far[own] = np.linalg.norm(points[own] - points[own].mean(0), axis=1)
    return np.argsort(-far, kind="stable")


def least_ambiguous(margins: Any) -> Order:
    """Order by margin, the largest first: what lies near the boundary between classes stays (4.3).

    Args:
        margins: Of each training example, (train,), such as `whence.membership.log_margin` of logits and labels.

    Raises:
        ShapeError: If it is not one number an example.
        ArgumentError: If a number is not finite.

    Examples:
        >>> least_ambiguous([0.5, 3.0, -1.0]).tolist()
        [1, 0, 2]
    """
    values = np.asarray(margins.detach().cpu() if isinstance(margins, Tensor) else margins, dtype=np.float64)
    if values.ndim != 1:
        raise ShapeError(f"Margins must be one number a training example; got shape {values.shape}.")
    if not np.isfinite(values).all():
        raise ArgumentError(f"Margins must be finite numbers; {int((~np.isfinite(values)).sum())} are not.")
    return np.argsort(-values, kind="stable")


def least_diverse(embedding: Any) -> Order:
    """Order so that what stays covers the rest: farthest points first to stay, the greedy k-centre (Gonzalez, 1985).

    The last to be left out is the example nearest to the mean; before it, always the one farthest from all that stay
    longer. The radius within which any number of them covers all is at most twice the least possible.

    Args:
        embedding: Of each training example, (train, width), or inputs.

    Raises:
        ShapeError: If there is no example.
        ArgumentError: If a number is not finite.

    Examples:
        >>> least_diverse([[0.0], [1.0], [4.0], [10.0]])[::-1].tolist()
        [2, 3, 0, 1]
    """
    points = torch.from_numpy(_points(embedding))
    chosen = [int((points - points.mean(0)).square().sum(1).argmin())]
    apart = torch.full((len(points),), torch.inf, dtype=points.dtype)  # squared, to the nearest that is chosen
    for _ in range(len(points) - 1):
        apart = torch.minimum(apart, (points - points[chosen[-1]]).square().sum(1))
        apart[chosen[-1]] = -1
        chosen.append(int(apart.argmax()))
    return np.array(chosen[::-1], dtype=np.int64)


def _points(given: Any) -> Float[np.ndarray, "train width"]:
    values = np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given, dtype=np.float64)
    if values.ndim < 2 or not values.size:
        raise ShapeError(f"Embeddings need shape (train, width), one a training example; got {values.shape}.")
    if not np.isfinite(values).all():
        raise ArgumentError(f"Embeddings must be finite numbers; {int((~np.isfinite(values)).sum())} are not.")
    return values.reshape(len(values), -1)
