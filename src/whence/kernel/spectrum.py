"""How many components a distribution of weights is spread over."""

from __future__ import annotations

from typing import Any, overload

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from torch import Tensor

from whence._errors import ArgumentError


@overload
def participation_ratio(weights: xr.DataArray, dim: str | None = None) -> xr.DataArray: ...
@overload
def participation_ratio(weights: Tensor | ArrayLike, dim: None = None) -> float: ...
def participation_ratio(weights: Any, dim: str | None = None) -> xr.DataArray | float:
    """Return the effective number of components of weights, (Σ w)² / Σ w².

    It is 1 if a single weight is not zero, and n if n weights are equal and the others zero (PLGK, section 6.3).

    Args:
        weights: Not negative: a tensor, an array or a list, of which one number is returned; or a ``DataArray``.
        dim: Of a ``DataArray``: the dimension to sum over, all of them when left out.

    Returns:
        A number; of a ``DataArray``, one without ``dim``.

    Raises:
        ArgumentError: If a weight is no number, negative or not finite, all along ``dim`` are zero, there are none, or
            there is no such dimension.

    Examples:
        >>> participation_ratio([1.0, 1.0, 1.0, 0.0])
        3.0
    """
    if not isinstance(weights, xr.DataArray):
        if dim is not None:
            raise ArgumentError(
                f"`dim` names a dimension of an xarray.DataArray; got {type(weights).__name__} and {dim!r}."
            )
        plain = weights.detach().cpu().numpy() if isinstance(weights, Tensor) else weights
        try:
            numbers = np.asarray(plain, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"Weights of a participation ratio are numbers; got {plain!r}.") from error
        return float(participation_ratio(xr.DataArray(numbers)))
    if dim is not None and dim not in weights.dims:
        raise ArgumentError(
            f"There is no dimension {dim!r} to sum over; the weights have {', '.join(map(str, weights.dims))}."
        )
    values = weights.astype(np.float64)
    if values.size == 0:
        raise ArgumentError("A participation ratio of no weights was asked for. Give at least one.")
    if not bool(np.isfinite(values).all()) or bool((values < 0).any()):
        raise ArgumentError(
            "Weights of a participation ratio are finite and not negative; the smallest given is "
            f"{float(values.min(skipna=False))}. Give absolute values, squares or energies."
        )
    largest = values.max(dim)
    if not bool((largest > 0).all()):
        raise ArgumentError(
            "All weights of a participation ratio are zero, so there is nothing to count. Leave such rows out."
        )
    shares = values / largest  # of at most 1, so that squares neither overflow nor vanish
    found = shares.sum(dim) ** 2 / (shares**2).sum(dim)
    return found.assign_attrs(unit="components")
