"""Test-specificity: does the map of a training image of two digits follow the digit that the target shows?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from whence._errors import ArgumentError, ShapeError
from whence._numbers import check_seed
from whence._statistics import mean_interval
from whence.evaluation.inputs import as_count, as_maps, check_classes, check_pictures, named
from whence.evaluation.masks import fitting, mass_inside
from whence.evaluation.table import Table, table_of


@final
@dataclass(frozen=True)
class TwoDigits:
    """Images of two digits side by side, and for each two targets that show one of them.

    Attributes:
        inputs: The training images, (images, channels, height, 2 × width).
        labels: The classes on them, one and zero, (images, classes); for a loss of several labels.
        left, right: Targets with another example of the left or right digit's class, alone, in a random half.
        left_labels, right_labels: The targets' labels, (images, classes).
        inside: Which pixels are of the left half, (height, 2 × width).
    """

    inputs: Float[Tensor, "images channels height width"]
    labels: Float[Tensor, "images classes"]
    left: Float[Tensor, "images channels height width"]
    right: Float[Tensor, "images channels height width"]
    left_labels: Float[Tensor, "images classes"]
    right_labels: Float[Tensor, "images classes"]
    inside: Bool[np.ndarray, "height width"]


def two_digits(
    images: Float[Tensor, "examples channels height width"],
    classes: Int[Tensor, " examples"],
    count: int,
    *,
    seed: int = 0,
) -> TwoDigits:
    """Put pairs of images of different classes side by side.

    Args:
        images: Single images; their smallest value is the background.
        classes: Their classes.
        count: How many images of two to make.
        seed: Of all draws.

    Raises:
        ArgumentError: If ``count`` or the seed is none, classes are no whole numbers from 0, a class has a single
            image, or there is but one class.
        ShapeError: If these are no images.
    """
    as_count(count, "count")
    check_seed(seed)
    check_pictures(images)
    check_classes(classes, len(images))
    sizes = torch.bincount(classes)
    if int((sizes > 0).sum()) < 2 or bool((sizes == 1).any()):
        raise ArgumentError("Two digits need at least two classes with at least two images each; there are fewer.")
    rng = np.random.default_rng(seed)
    ours = rng.integers(len(classes), size=count)
    theirs = np.array([rng.choice(np.flatnonzero((classes != classes[one]).numpy())) for one in ours])
    many, floor = len(sizes), images.min()

    def alone(of: NDArray[np.int64]) -> Tensor:
        others = [rng.choice(np.setdiff1d(np.flatnonzero((classes == classes[one]).numpy()), [one])) for one in of]
        shown, empty = images[others], torch.full_like(images[others], float(floor))
        first = torch.from_numpy(rng.random(count) < 0.5).reshape(-1, 1, 1, 1)
        return torch.cat([torch.where(first, shown, empty), torch.where(first, empty, shown)], 3)

    hot = [torch.nn.functional.one_hot(classes[of], many).to(images) for of in (ours, theirs)]
    width = images.shape[3]
    inside = np.broadcast_to(np.arange(2 * width) < width, (images.shape[2], 2 * width)).copy()
    pairs = torch.cat([images[ours], images[theirs]], 3)
    return TwoDigits(pairs, hot[0] + hot[1], alone(ours), alone(theirs), hot[0], hot[1], inside)


def specificity(one: Any | Mapping[str, Any], other: Any | Mapping[str, Any], inside: Bool[np.ndarray, "..."]) -> Table:
    """Measure whether a map moves to what the target shows (TFA, section 4.2, as a number).

    The share of a map's absolute values on the half of the training image that its target shows, less the share there
    of the map for the other target: 1 if each map lies wholly on its half, exactly 0 for a map that does not look at
    the target, negative if it looks at the wrong half.

    Args:
        one: Maps of training images for the target that shows what is inside, (pairs, height, width); or several
            kinds, by name.
        other: Maps of the same images for the target that shows what is outside, under the same names.
        inside: Which pixels show what the first target shows, (height, width) or (pairs, height, width).

    Returns:
        A row a kind of map: mean over pairs, interval over pairs.

    Raises:
        ArgumentError: If names differ, or a map is zero everywhere or not finite.
        ShapeError: If shapes differ.
    """
    first, second = named(one, "map"), named(other, "map")
    if set(first) != set(second):
        raise ArgumentError(f"`other` must have the names of `one`, {sorted(first)}; it has {sorted(second)}.")
    found = []
    for name, given in first.items():
        maps, others = as_maps(given), as_maps(second[name])
        if maps.shape != others.shape:
            raise ShapeError(f"Maps {name!r} have shape {maps.shape} for one target and {others.shape} for the other.")
        where = fitting(inside, maps.shape)
        found.append([mean_interval(mass_inside(maps, where) - mass_inside(others, where))])
    return table_of(
        found,
        ("map", list(first)),
        ("measure", ["specificity"]),
        title="Test-specificity",
        measure="mass on the half that the target shows, less mass there for the other target",
        interval="over pairs",
        references={"ideal": 1.0, "blind to the target": 0.0},
    )
