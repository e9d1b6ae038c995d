"""Maps of examples in two dimensions, from the angles between their path features."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray

from whence._errors import ArgumentError, ShapeError
from whence._extras import require
from whence._numbers import check_seed, is_whole
from whence.kernel.similarity import angle_distance, check_cosines, similarity

Distances = Float[np.ndarray, "examples examples"]
_ROUNDING = 1e-2  # by which a cosine of 1 may be off
_PERPLEXITY, _NEIGHBOURS = 30.0, 15  # the libraries' own


def layout(kernel: xr.Dataset | xr.DataArray, *, method: str = "tsne", seed: int = 0) -> xr.DataArray:
    """Lay examples out in the plane, those of a small angle between their path features close to each other.

    The paper shows UMAP of the similarities (PLGK, section 6.2, figures 5 to 7). Distances between groups, and the
    sizes of these, mean little in such maps: they show who is beside whom.

    Args:
        kernel: Of `path_kernel` without ``others``, or `similarity` of it; without time and layers.
        method: ``"tsne"`` (van der Maaten and Hinton, 2008; scikit-learn's) or ``"umap"`` (McInnes et al., 2018; the
            extra ``umap``).
        seed: Of the start.

    Returns:
        Dims ("example", "axis"), axes "x" and "y".

    Raises:
        ShapeError: If it is not of examples among themselves, at least 4.
        ArgumentError: If there is no such method, the seed is none, or these are no cosines, such as a kernel itself.
        MissingExtraError: If UMAP is asked for and not installed.
    """
    if method not in _METHODS:
        raise ArgumentError(f"`method` is {' or '.join(map(repr, _METHODS))}; got {method!r}.")
    check_seed(seed)
    cosines = similarity(kernel) if isinstance(kernel, xr.Dataset) else check_cosines(kernel)
    count = cosines.sizes.get("target", 0)
    if cosines.dims != ("target", "other") or cosines.sizes["other"] != count or count < 4:
        raise ShapeError(
            "A map is of at least 4 examples among themselves, dims ('target', 'other') of one length; got "
            f"{dict(cosines.sizes)}. Leave `others` out of path_kernel, and sum over time and layers."
        )
    own = np.diagonal(cosines.values)
    if not np.isfinite(cosines.values).all() or np.abs(own - 1).max() > _ROUNDING:
        raise ArgumentError(
            "A map is of cosines, 1 on the diagonal, none of them nan; these have a diagonal from "
            f"{own.min():g} to {own.max():g}. Give the dataset of path_kernel, or its similarity, of examples whose "
            "gradients are finite."
        )
    angles = angle_distance(cosines).values.astype(np.float64)
    np.fill_diagonal(angles, 0.0)
    places = np.asarray(_METHODS[method]((angles + angles.T) / 2, seed), dtype=np.float64)
    attrs = {"unit": "none", "method": method, "seed": seed}
    return xr.DataArray(
        places, {"example": cosines["target"].values, "axis": ["x", "y"]}, ("example", "axis"), "layout", attrs
    )


def extremes(places: Any, labels: Any, of: Any, count: int = 5) -> xr.DataArray:
    """Return the examples of a class that stand lowest and highest along each axis of a map (PLGK, figure 7).

    Args:
        places: Of `layout`.
        labels: The class of each example.
        of: The class.
        count: How many at each end; all where the class has fewer.

    Returns:
        Their ids, dims ("axis", "end", "rank"), the outermost first.

    Raises:
        ShapeError: If there is not one label an example, or the places are not of a map.
        ArgumentError: If no example is of the class, or ``count`` is not a whole number, at least 1.
    """
    if not isinstance(places, xr.DataArray) or places.dims != ("example", "axis"):
        given = places.dims if isinstance(places, xr.DataArray) else type(places).__name__
        raise ShapeError(f"`places` are those of layout(), dims ('example', 'axis'); got {given}.")
    known = np.asarray(labels)
    if known.shape != (places.sizes["example"],):
        raise ShapeError(f"`labels` needs one class for each of {places.sizes['example']}; got shape {known.shape}.")
    own = places.isel(example=np.flatnonzero(known == of))
    if own.sizes["example"] == 0:
        classes = ", ".join(map(str, np.unique(known).tolist()))
        raise ArgumentError(f"No example of this map is of class {of!r}: its classes are {classes}.")
    if not is_whole(count) or count < 1:
        raise ArgumentError(f"`count` is how many examples to show at each end, at least 1; got {count!r}.")
    order = np.argsort(own.values, axis=0, kind="stable").T[:, None]
    ids = own["example"].values[np.concatenate([order, order[:, :, ::-1]], 1)[:, :, :count]]
    return xr.DataArray(
        ids,
        {"axis": places["axis"].values, "end": ["low", "high"], "rank": np.arange(1, ids.shape[2] + 1)},
        ("axis", "end", "rank"),
        "extremes",
        {"unit": "ids"},
    )


def _tsne(angles: Distances, seed: int) -> NDArray[np.floating]:
    from sklearn.manifold import TSNE  # here, as it takes long to import

    perplexity = min(_PERPLEXITY, (len(angles) - 1) / 3)
    fitted = TSNE(2, perplexity=perplexity, metric="precomputed", init="random", random_state=seed)
    found: NDArray[np.floating] = fitted.fit_transform(angles)
    return found


def _umap(angles: Distances, seed: int) -> NDArray[np.floating]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it cannot map new points, takes one thread, and has no Tensorflow
        library = require("umap", "umap")
        fitted = library.UMAP(
            n_neighbors=min(_NEIGHBOURS, len(angles) - 1), metric="precomputed", init="random", random_state=seed
        )
        found: NDArray[np.floating] = fitted.fit_transform(angles)
    return found


_METHODS: dict[str, Callable[[Distances, int], NDArray[np.floating]]] = {"tsne": _tsne, "umap": _umap}
