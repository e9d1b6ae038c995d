"""Maps as labelled arrays: one plane a pair for images, with unit, sign and recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from whence._errors import ShapeError

_IMAGE = 4  # (pairs, channels, height, width)
_DIMS = {2: ("feature",), 3: ("height", "width")}


def label_maps(
    values: Float[Tensor, "rows *input"], coords: Mapping[str, Any], attrs: Mapping[str, Any], *, row: str = "pair"
) -> xr.DataArray:
    """Label maps; the channels of images are summed.

    Args:
        values: One map a row: (channels, height, width), (height, width), (features,) or another shape.
        coords: Along the rows: one number each, by name.
        attrs: What the result says of itself.
        row: What a row is.

    Returns:
        Dims ``(row, "height", "width")`` for images, ``(row, "feature")`` for vectors, else one dim an axis.

    Raises:
        ShapeError: If a coordinate has not one entry a row.
    """
    planes = values.sum(1) if values.dim() == _IMAGE else values
    dims = _DIMS.get(planes.dim()) or tuple(f"axis_{axis}" for axis in range(1, planes.dim()))
    for name, one in coords.items():
        if len(one) != len(planes):
            raise ShapeError(f"{name} needs one entry a map, {len(planes)}; got {len(one)}.")
    found = {name: (row, np.asarray(one)) for name, one in coords.items()}
    return xr.DataArray(planes.detach().cpu().numpy(), found, (row, *dims), "region", dict(attrs))
