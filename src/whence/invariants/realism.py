"""Realism of images: do they lie among real ones, and do they reach all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from whence._errors import ArgumentError, ShapeError
from whence._numbers import is_whole

COMPONENTS = 64  # of pixels, at most
_AT_ONCE = 1024  # rows of distances computed together

Features = Callable[[Tensor], Tensor]
"""From images to one row of numbers each: a space whose distances mean something."""


@final
class Realism(NamedTuple):
    """Precision and recall of made images, and what real images of the same number get.

    Attributes:
        precision: Share of made images that lie among the held-out real ones.
        recall: Share of held-out real images that lie among the made ones.
        real_precision: The same share for other real images in place of the made ones: what could be hoped for.
        real_recall: As well.
    """

    precision: float
    recall: float
    real_precision: float
    real_recall: float


def precision(
    points: Float[Tensor, "some numbers"], reference: Float[Tensor, "known features"], k: int = 3
) -> Float[Tensor, ""]:
    """Return the share of points in the reference's manifold (Kynkäänniemi et al. 2019, section 2, equation 1).

    The manifold is the union of balls around the reference's points, each reaching to the k-th nearest of the others.

    Args:
        points: Features of the images to judge.
        reference: Features of real images that had no part in making them.
        k: Which nearest neighbour; the paper's k.

    Raises:
        ArgumentError: If k is not a whole number above 0 and below the number of the reference's points, or either is
            no tensor.
        ShapeError: If points and reference have not the same number of features.

    Examples:
        >>> line = torch.arange(4.0)[:, None]
        >>> float(precision(torch.tensor([[0.5], [3.5], [9.0], [-2.0]]), line, k=1))
        0.5
    """
    return within(points, reference, k).double().mean()


def recall(
    points: Float[Tensor, "some numbers"], reference: Float[Tensor, "known features"], k: int = 3
) -> Float[Tensor, ""]:
    """Return the share of the reference in the points' manifold: precision with the roles changed (equation 2).

    Raises:
        ArgumentError: If k is not a whole number above 0 and below the number of points, or either is no tensor.
        ShapeError: If points and reference have not the same number of features.
    """
    return precision(reference, points, k)


def within(
    points: Float[Tensor, "some numbers"], reference: Float[Tensor, "known features"], k: int = 3
) -> Bool[Tensor, " some"]:
    """Return which points lie in the reference's manifold, as `precision` counts them.

    Raises:
        ArgumentError: If k is not a whole number above 0 and below the number of the reference's points, or either is
            no tensor.
        ShapeError: If points and reference have not the same number of features.
    """
    for name, one in (("points", points), ("reference", reference)):
        if not isinstance(one, Tensor):
            raise ArgumentError(f"`{name}` is a tensor, a row of features for each image; got a {type(one).__name__}.")
    if points.ndim != 2 or reference.ndim != 2 or points.shape[1] != reference.shape[1]:
        raise ShapeError(
            f"Points and reference are rows of as many features; got {tuple(points.shape)} and "
            f"{tuple(reference.shape)}."
        )
    if not is_whole(k) or not 1 <= k < len(reference):
        raise ArgumentError(f"k is 1 to {len(reference) - 1}, one less than the reference has points; got {k!r}.")
    # The k + 1 nearest of the reference's own points: each is its own nearest. Direct differences, as those by
    # products of float32 lose the small distances.
    radii = torch.cat([_distances(part, reference).kthvalue(k + 1, 1).values for part in reference.split(_AT_ONCE)])
    return torch.cat([(_distances(part, reference) <= radii).any(1) for part in points.split(_AT_ONCE)])


def realism(
    made: Float[Tensor, "some *input"],
    real: Float[Tensor, "others *input"],
    held_out: Float[Tensor, "known *input"],
    features: Features | None = None,
    *,
    k: int = 3,
) -> Realism:
    """Return precision and recall of made images against held-out real ones, beside those of real images.

    The Fréchet distance to all data is not among these figures: right invariants of a query are of few classes, so
    that they are far from the distribution of all data however real each of them is, and the distance punishes them
    for what they should be. Precision asks of each image alone whether it lies among real ones.

    The space should be independent of what made the images. Shares depend on how many images there are: compare only
    figures of the same numbers.

    Args:
        made: Images to judge, such as draws of a prior.
        real: Real images, as many as made ones for a fair comparison, none of them held out.
        held_out: Real images that had no part in making the others.
        features: From images to rows of numbers, such as the penultimate layer of a network trained apart; the
            principal components of the held-out pixels (64 at most) if left out.
        k: Which nearest neighbour.

    Raises:
        ArgumentError: If k does not go with the number of images.
        ShapeError: If features give no rows, or without any the images are of several shapes.
    """
    for name, images in (("made", made), ("real", real)):
        if features is None and images.shape[1:] != held_out.shape[1:]:
            raise ShapeError(
                f"Images of one shape are compared; {name} are of {tuple(images.shape[1:])} and those held out of "
                f"{tuple(held_out.shape[1:])}. Give `features` that know both, or resize them."
            )
    space = features or PixelComponents(held_out)
    with torch.no_grad():
        one, two, three = (space(images) for images in (made, real, held_out))
    found = [measure(a, three, k) for a in (one, two) for measure in (precision, recall)]
    return Realism(*(float(figure) for figure in found))


@final
class PixelComponents:
    """Principal components of pixels: a space of features that no network had a hand in.

    Args:
        images: Whose components, at most 64 of them and fewer than images.
    """

    def __init__(self, images: Float[Tensor, "some *input"]) -> None:
        from sklearn.decomposition import PCA  # here, as it takes long to import

        flat = images.detach().flatten(1).double().cpu().numpy()
        many = min(COMPONENTS, *flat.shape)
        found = PCA(many, svd_solver="randomized", random_state=0).fit(flat)
        self._mean = torch.from_numpy(np.asarray(found.mean_))
        self._components = torch.from_numpy(np.asarray(found.components_).T.copy())

    def __call__(self, images: Float[Tensor, "some *input"]) -> Float[Tensor, "some components"]:
        """Return the images' components."""
        flat = images.detach().flatten(1).double()
        found: Tensor = (flat - self._mean.to(flat)) @ self._components.to(flat)
        return found


def _distances(points: Tensor, reference: Tensor) -> Float[Tensor, "some known"]:
    return torch.cdist(points.double(), reference.double(), compute_mode="donot_use_mm_for_euclid_dist")
