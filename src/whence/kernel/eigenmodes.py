"""A kernel's own modes: its eigenvalues and eigenvectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from whence._errors import ArgumentError, ShapeError
from whence._numbers import is_whole
from whence.kernel.spectrum import participation_ratio

_SYMMETRY = 1e-6  # of the largest entry: difference from the transpose that counts as none


def eigenmodes(kernel: xr.DataArray, k: int | None = None) -> xr.Dataset:
    """Part a kernel of examples among themselves into its eigenmodes, P = Q Λ Qᵀ (PLGK, section A.13).

    What all examples together did to the loss of n is -η/M Σ_m P_mn. By modes it is -η/M Σ_k λ_k s_k Q_nk, with s_k the
    sum of an eigenvector: `mode_sums` gives the sum over m, and of any other point from its column of the kernel.

    Args:
        kernel: ``kernel`` of `path_kernel` without ``others``, dims ("target", "other").
        k: How many modes to keep, those with the largest eigenvalues; all by default.

    Returns:
        ``value`` ("mode"), the eigenvalues, largest first, none below 0; ``vector`` ("example", "mode");
        ``vector_sum`` ("mode"), the s_k. ``attrs``: ``kept``, the share of the trace that the kept modes hold;
        ``error``, the root mean square that the kept modes miss of the sums Σ_m P_mn, relative to that of the sums;
        ``participation_ratio``, of all eigenvalues.

    Raises:
        ShapeError: If the kernel is not square.
        ArgumentError: If it is no array, not symmetric or not finite, or ``k`` is not between 1 and the number of
            examples.
    """
    if not isinstance(kernel, xr.DataArray):
        raise ArgumentError(
            f"Eigenmodes are of an array of products; got {type(kernel).__name__}. Give path_kernel(...)['kernel']."
        )
    if kernel.dims != ("target", "other") or kernel.sizes["target"] != kernel.sizes["other"]:
        raise ShapeError(
            "Eigenmodes are of a kernel of examples among themselves, dims ('target', 'other') of one length; got "
            f"{dict(kernel.sizes)}. Leave `others` out of path_kernel, and sum over time and layers."
        )
    square = kernel.values.astype(np.float64)
    if not np.isfinite(square).all():
        raise ArgumentError(
            f"{int((~np.isfinite(square)).sum())} entries of this kernel are no finite numbers, so it has no modes. "
            "Leave the examples out whose gradients are not finite."
        )
    if np.abs(square - square.T).max() > _SYMMETRY * np.abs(square).max():
        raise ArgumentError("This kernel is not symmetric: its targets and others differ. Leave `others` out.")
    most = len(square)
    if k is not None and (not is_whole(k) or not 1 <= k <= most):
        raise ArgumentError(f"`k` is how many modes to keep, 1 to {most}; got {k!r}.")
    values, vectors = np.linalg.eigh((square + square.T) / 2)
    values, vectors = values[::-1].clip(0), vectors[:, ::-1]
    kept = slice(0, most if k is None else k)
    trace, sums = values.sum(), square.sum(0)
    found = xr.Dataset(
        {
            "value": ("mode", values[kept]),
            "vector": (("example", "mode"), vectors[:, kept]),
            "vector_sum": ("mode", vectors[:, kept].sum(0)),
        },
        {"example": kernel["target"].values, "mode": np.arange(most)[kept]},
    )
    missed, scale = float(np.linalg.norm(mode_sums(found).values - sums)), float(np.linalg.norm(sums))
    found.attrs = {
        "unit": kernel.attrs.get("unit", ""),
        "kept": float(values[kept].sum() / trace) if trace > 0 else 1.0,
        "error": missed / scale if scale > 0 else missed,
        "participation_ratio": participation_ratio(values) if trace > 0 else 0.0,
    }
    return found


def mode_sums(modes: Any, columns: xr.DataArray | None = None) -> xr.DataArray:
    """Return Σ_m P_mn over the examples of some modes, for these examples or any others (PLGK, section A.13).

    For an example of the modes it is Σ_k λ_k s_k Q_nk. For another point n*, with p its column of the kernel, it is
    Σ_k s_k (Q_{:,k} · p): exact with all modes, and with fewer, the part that they hold. In features, with
    Φ = U S Vᵀ of the examples, Q is U and Q_{:,k} · p = √λ_k (v_k · φ(n*)): v_k is the *right* singular vector, which
    lives in the space of features. The last line of the paper's section has u_k in that place; as the decomposition
    there is of Φ_train, a row an example, u_k would be a vector over examples, which has no product with φ(n*).

    Args:
        modes: Of `eigenmodes`.
        columns: Kernel of the examples (dim "other") with other points (dim "target"), as
            ``path_kernel(run, points, examples)``; None takes the examples themselves.

    Returns:
        One sum an example, dim ("example",), or a point, ("target",).

    Raises:
        ArgumentError: If the modes are not those of `eigenmodes`.
        ShapeError: If the columns are not of these examples, in their order.
    """
    if not isinstance(modes, xr.Dataset) or not {"value", "vector", "vector_sum"} <= set(modes):
        raise ArgumentError(f"Sums by modes take the dataset of eigenmodes(); got another {type(modes).__name__}.")
    if columns is None:
        sums: xr.DataArray = (modes["vector"] * modes["value"] * modes["vector_sum"]).sum("mode")
        return sums.rename("sum")
    known = modes["example"].values.tolist()
    if columns.dims != ("target", "other") or columns["other"].values.tolist() != known:
        raise ShapeError(
            f"Columns need dims ('target', 'other') with the {len(known)} examples of the modes as others, in their "
            f"order; got {dict(columns.sizes)}. Compare the points with them: path_kernel(run, points, examples)."
        )
    along: Float[np.ndarray, "points modes"] = columns.values.astype(np.float64) @ modes["vector"].values
    return xr.DataArray(
        along @ modes["vector_sum"].values, {"target": columns["target"].values}, ("target",), "sum", columns.attrs
    )
