"""What a kernel says of likeness: a cosine, and the two distances that it gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from whence._errors import ArgumentError


def similarity(kernel: xr.Dataset) -> xr.DataArray:
    """Return the intrinsic perceptual similarity, K_mn / √(K_mm K_nn) (PLGK, definition 8), in [-1, 1].

    A gradient that is 0 all along has no direction: such an example is unlike every other, 0, and where targets were
    compared among themselves it is still 1 to itself, so that every example is at distance 0 from itself. Rounding is
    cut off at -1 and 1. A number that is none (nan) stays none.

    Args:
        kernel: Of `path_kernel`. Where it has ``"time"`` or ``"layer"``, the result is a cosine for each; sum the
            dataset over that dim first (``kernel.sum("layer")``) for one of the whole.

    Raises:
        ArgumentError: If it has not the three variables of a kernel, or targets and others for dims.

    Examples:
        >>> one = xr.Dataset({"kernel": (("target", "other"), [[3.0]]), "target_norm": ("target", [9.0]),
        ...                   "other_norm": ("other", [4.0])})
        >>> float(similarity(one).item())
        0.5
    """
    if not isinstance(kernel, xr.Dataset):
        raise ArgumentError(f"A similarity is made of the dataset of path_kernel; got {type(kernel).__name__}.")
    missing = [name for name in ("kernel", "target_norm", "other_norm") if name not in kernel]
    if missing:
        raise ArgumentError(f"A path kernel has kernel, target_norm and other_norm; {', '.join(missing)} is missing.")
    if not {"target", "other"} <= set(kernel["kernel"].dims):
        raise ArgumentError(
            f"A path kernel has the dims 'target' and 'other'; this one has {tuple(kernel['kernel'].dims)}. To choose "
            "one target, give a list of one: kernel.sel(target=[3])."
        )
    products, own, other = (kernel[name] for name in ("kernel", "target_norm", "other_norm"))
    scale = own**0.5 * other**0.5
    cosine = (products / scale.where(scale != 0)).clip(-1, 1)
    found: xr.DataArray = cosine.where(scale != 0, 0.0).transpose(*products.dims).astype(products.dtype)
    if _among_themselves(kernel):
        found = found.where(_off_diagonal(found), 1.0)
    return found.rename("similarity").assign_attrs({**kernel.attrs, "unit": "cosine"})


def chord_distance(similarity: xr.DataArray) -> xr.DataArray:
    """Return √(2 - 2 s) (PLGK, corollary 4.1.1): the distance of the two directions along a straight line, 0 to 2.

    Args:
        similarity: Of `similarity`.

    Raises:
        ArgumentError: If it is not an array of them, such as the dataset of `path_kernel`.
    """
    found: xr.DataArray = (2 - 2 * check_cosines(similarity)).clip(0) ** 0.5
    return found.rename("chord distance").assign_attrs({**similarity.attrs, "unit": "chord of the unit sphere"})


def angle_distance(similarity: xr.DataArray) -> xr.DataArray:
    """Return arccos s (PLGK, corollary 4.1.1): the angle between the two directions, 0 to π.

    Args:
        similarity: Of `similarity`.

    Raises:
        ArgumentError: If it is not an array of them, such as the dataset of `path_kernel`.
    """
    found = check_cosines(similarity).copy(data=np.arccos(similarity.clip(-1, 1).values))
    return found.rename("angle").assign_attrs({**similarity.attrs, "unit": "radians"})


def check_cosines(values: Any) -> xr.DataArray:
    """Return similarities, refusing what is no array of them.

    Raises:
        ArgumentError: If it is none.
    """
    if not isinstance(values, xr.DataArray):
        raise ArgumentError(
            f"Similarities are an xarray.DataArray; got {type(values).__name__}. Give whence.similarity(kernel), with "
            "the dataset of path_kernel."
        )
    return values


def _among_themselves(kernel: xr.Dataset) -> bool:
    """Say whether a kernel is one of examples among themselves: the same ids with the same norms on both sides."""
    ids = [kernel.get_index(dim) for dim in ("target", "other")]
    return ids[0].equals(ids[1]) and np.array_equal(kernel["target_norm"].values, kernel["other_norm"].values)


def _off_diagonal(values: xr.DataArray) -> Any:
    """Return where a square array is not on its diagonal."""
    off = ~np.eye(values.sizes["target"], values.sizes["other"], dtype=bool)
    return xr.DataArray(off, dims=("target", "other"))
