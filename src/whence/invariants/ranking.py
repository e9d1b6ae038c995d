"""Which samples of an invariant set tell most: unlike the query, unlike each other, and realistic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from whence._errors import ArgumentError, ShapeError
from whence._numbers import is_whole
from whence.invariants.realism import within
from whence.invariants.result import InvariantSet

Features = Callable[[Tensor], Tensor]
"""From inputs to one row of numbers each: a space whose distances mean something."""

_TAIL = 0.05  # of the prior's draws, at both ends of their lengths: latents beyond are unusual
_LEAST = 0.1  # what the distance of an unrealistic sample counts
_NEIGHBOUR = 3  # which nearest real input reaches around another (Kynkäänniemi et al. 2019)


def most_telling(
    found: InvariantSet, features: Features | None = None, *, k: int = 8, real: Tensor | None = None
) -> Int[np.ndarray, " telling"]:
    """Order the solved samples: first the one farthest from the query, then each time the one farthest from all taken.

    The query counts as taken from the start, so that none is a twin of it (Gonzalez 1985). A distance counts in full
    for a realistic sample and to a tenth for one that is not, see `realism_weights`: far away alone is no merit, as
    noise is far from everything.

    Args:
        found: The samples; those that are not solved are left out.
        features: A space that distances are taken in, such as the layer of a network trained apart; the inputs
            themselves if left out. Not what was kept: in its eyes all samples are one.
        k: How many to choose at most.
        real: Real inputs, more than three, to judge realism by as well.

    Returns:
        Their rows, most telling first; fewer than ``k`` if fewer are solved.

    Raises:
        ArgumentError: If ``k`` is not a whole number above 0, there are no samples in ``found``'s place, or real inputs
            are no tensor or too few.
        ShapeError: If features give no row of numbers for each input.
    """
    if not is_whole(k) or k < 1:
        raise ArgumentError(f"k is how many samples are chosen, at least 1; got {k!r}.")
    given: Any = found
    if not isinstance(given, InvariantSet):
        raise ArgumentError(f"`found` is an InvariantSet, as `invariants` returns; got a {type(given).__name__}.")
    rows = found.solved.nonzero()[0]
    if not len(rows):
        return rows
    some = found.only(rows)
    points = _points(torch.cat([found.query[None], some.inputs]), features)
    weights = torch.from_numpy(realism_weights(some, features, real=real)).to(points)
    nearest = (points[1:] - points[0]).square().sum(1).sqrt()
    order: list[int] = []
    for _ in range(min(k, len(rows))):
        worth = weights * nearest
        worth[order] = -1
        order.append(int(worth.argmax()))
        nearest = torch.minimum(nearest, (points[1:] - points[1 + order[-1]]).square().sum(1).sqrt())
    return np.asarray(rows[order])


def realism_weights(
    found: InvariantSet, features: Features | None = None, *, real: Tensor | None = None
) -> Float[np.ndarray, " samples"]:
    """Return from 1 (realistic) to 0.1 how much the distance of each sample counts.

    It is 1 while the latent is as long as those of the middle 95 % of the prior's draws, and falls with the share of
    draws beyond. With real inputs, a sample outside of their manifold (`whence.invariants.realism.within`) gets 0.1.

    Args:
        found: The samples.
        features: The space of the manifold; the inputs themselves if left out.
        real: Real inputs, more than three.

    Raises:
        ArgumentError: If real inputs are no tensor, or too few.
        ShapeError: If features give no row of numbers for each input.
    """
    quantile = found.certificate["latent_quantile"].values.astype(np.float64)
    weights = np.clip(2 * np.minimum(quantile, 1 - quantile) / _TAIL, _LEAST, 1)
    if real is not None:
        if not isinstance(real, Tensor | np.ndarray):
            raise ArgumentError(f"`real` is a tensor of inputs like the query; got a {type(real).__name__}.")
        known = torch.as_tensor(real).to(found.inputs)
        inside = within(_points(found.inputs, features), _points(known, features), _NEIGHBOUR)
        weights = np.where(inside.cpu().numpy(), weights, _LEAST)
    return np.asarray(weights)


def _points(inputs: Tensor, features: Features | None) -> Float[Tensor, "some numbers"]:
    """Return inputs as points of the space of distances.

    Raises:
        ShapeError: If features give no row for each.
    """
    with torch.no_grad():
        points: Any = inputs if features is None else features(inputs)
    if not isinstance(points, Tensor):
        raise ShapeError(f"features give a tensor, a row for each input; got a {type(points).__name__}.")
    if points.ndim == 0 or len(points) != len(inputs):
        raise ShapeError(f"features give a row for each of {len(inputs)} inputs; got shape {tuple(points.shape)}.")
    return points.flatten(1).double()
