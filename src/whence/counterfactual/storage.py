"""Effects on disk."""

from __future__ import annotations

from pathlib import Path

import xarray as xr
import zarr

from whence._errors import AuditError

FORMAT = 1


def load_effects(path: str | Path) -> xr.DataArray:
    """Open what `whence.counterfactual` kept at ``path``.

    Raises:
        AuditError: If there is nothing of the kind.
    """
    place = Path(path)
    if not place.is_dir():
        raise AuditError(f"No effects at {place}: there is no such folder. Give the path that they were kept at.")
    try:
        found = xr.open_zarr(place, chunks=None, consolidated=False)
    except (OSError, ValueError, KeyError, zarr.errors.BaseZarrError) as error:
        raise AuditError(f"{place} holds no effects: {error}. Give the path that they were kept at.") from error
    if "counterfactual" not in found or found["counterfactual"].attrs.get("format") != FORMAT:
        raise AuditError(
            f"{place} holds no effects of format {FORMAT}. Give the path that whence.counterfactual kept them at."
        )
    effects: xr.DataArray = found["counterfactual"]
    return effects
