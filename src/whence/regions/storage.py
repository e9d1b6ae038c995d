"""Region maps on disk."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from whence.audit.storage import load_array, save_array

FORMAT = 1
_VARIABLE = "region"


def save_maps(maps: xr.DataArray, path: str | Path) -> None:
    """Write region maps as a Zarr group at ``path``, whole or not at all.

    Args:
        maps: As `region_map` gives them.
        path: Where.

    Raises:
        AuditError: If something stands at ``path`` already.
        DiskError: If the disk is full or refuses to write.
    """
    save_array(maps, _VARIABLE, Path(path), format=FORMAT)


def load_maps(path: str | Path) -> xr.DataArray:
    """Open saved region maps; they stay on disk until they are read.

    Raises:
        AuditError: If there are no maps at ``path``, or some of another format.
    """
    return load_array(Path(path), _VARIABLE, format=FORMAT, what="region maps", writer="save_maps")
