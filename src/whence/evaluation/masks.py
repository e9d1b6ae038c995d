"""Which pixels of an image a map keeps, and how much of a map lies where."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from whence._errors import ArgumentError, ShapeError

_BLOB = 8  # parts of the image's shorter side that a smoothed blob measures

Maps = Float[np.ndarray, "pairs height width"]
Pixels = Bool[np.ndarray, "pairs height width"]


def top_pixels(maps: Maps, percent: float) -> Pixels:
    """Return which pixels of each map are its highest.

    Args:
        maps: The maps.
        percent: How many percent of the pixels: ``round(percent / 100 * pixels)``. Of equal ones the first in reading
            order.

    Raises:
        ArgumentError: If it is none of 0 to 100.

    Examples:
        >>> top_pixels(np.array([[[1.0, 4.0], [3.0, 2.0]]]), 50).tolist()
        [[[False, True], [True, False]]]
    """
    if not 0 <= percent <= 100:
        raise ArgumentError(f"A share of pixels must be 0 to 100 percent; got {percent}.")
    flat = maps.reshape(len(maps), -1)
    count = round(percent / 100 * flat.shape[1])
    found = np.zeros(flat.shape, dtype=bool)
    np.put_along_axis(found, np.argsort(-flat, axis=1, kind="stable")[:, :count], True, axis=1)
    return found.reshape(maps.shape)


def random_maps(shape: tuple[int, int, int], seed: int) -> Maps:
    """Return maps of independent random pixels, the control of the insertion test.

    Args:
        shape: Pairs, height, width.
        seed: Of the draws.
    """
    return np.random.default_rng([seed, 0]).random(shape)


def blob_maps(shape: tuple[int, int, int], seed: int) -> Maps:
    """Return maps of smoothed noise: random pixels that hang together, as those of a real map do.

    Args:
        shape: Pairs, height, width.
        seed: Of the draws.
    """
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng([seed, 1]).normal(size=shape)
    width = min(shape[1:]) / _BLOB
    return np.stack([gaussian_filter(one, width) for one in noise])


def masked(images: Tensor, kept: Pixels, fill: Tensor) -> Float[Tensor, "pairs channels height width"]:
    """Return images with all pixels but the kept ones filled.

    Args:
        images: (pairs, channels, height, width).
        kept: Which pixels stay.
        fill: What the others become, (channels, height, width) or broadcast to it.
    """
    where = torch.from_numpy(kept).to(images.device).unsqueeze(1)
    return torch.where(where, images, fill.to(images).expand(images.shape[1:]))


def mass_inside(maps: Maps, inside: NDArray[np.bool_]) -> Float[np.ndarray, " pairs"]:
    """Return the share of each map's absolute values that lies inside.

    Args:
        maps: The maps.
        inside: Which pixels count, (height, width) or (pairs, height, width).

    Raises:
        ShapeError: If the shapes do not fit.
        ArgumentError: If a map is zero everywhere.
    """
    where = fitting(inside, maps.shape)
    sizes = np.abs(maps)
    whole = sizes.sum((1, 2))
    if not whole.all():
        raise ArgumentError(
            f"Map {int(np.flatnonzero(whole == 0)[0])} is zero everywhere, so no share of it lies anywhere. A map that "
            "vanishes says that its score does not depend on the image: choose another score or layer."
        )
    found: NDArray[np.float64] = (sizes * where).sum((1, 2)) / whole
    return found


def top_inside(maps: Maps, inside: NDArray[np.bool_], percent: float) -> Float[np.ndarray, " pairs"]:
    """Return the share of each map's highest pixels that lies inside.

    Args:
        maps: The maps.
        inside: Which pixels count, (height, width) or (pairs, height, width).
        percent: How many percent of the pixels are the highest.

    Raises:
        ShapeError: If the shapes do not fit.
        ArgumentError: If no pixel is left.
    """
    where, top = fitting(inside, maps.shape), top_pixels(maps, percent)
    if not top.any():
        raise ArgumentError(f"{percent} percent of {maps[0].size} pixels are none. Give a larger share.")
    found: NDArray[np.float64] = (top & where).sum((1, 2)) / top.sum((1, 2))
    return found


def fitting(inside: NDArray[np.bool_], shape: Sequence[int]) -> NDArray[np.bool_]:
    """Return which pixels count, one row a pair or one for all.

    Args:
        inside: What was given.
        shape: Of the maps.

    Raises:
        ShapeError: If it fits none of them.
    """
    where = np.asarray(inside, dtype=bool)
    if where.shape not in {tuple(shape), tuple(shape[1:])}:
        raise ShapeError(
            f"Pixels to count need the maps' shape, {tuple(shape[1:])} or {tuple(shape)}; got {where.shape}."
        )
    return where
