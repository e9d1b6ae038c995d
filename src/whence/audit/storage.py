"""Audits on disk: a Zarr group, written whole or not at all, read row by row."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast, final

import numpy as np
import xarray as xr
import zarr
from jaxtyping import Float
from torch import Tensor

from whence._errors import ArgumentError, AuditError
from whence._files import disk_errors, make_folder
from whence.audit.groups import Grouping
from whence.audit.result import Audit

FORMAT = 2
VARIABLES = frozenset({"influence", "profile", "true_change", "residual", "course", "explained", "step_error"})
_CHUNK_BYTES = 4 * 2**20


def save_dataset(data: xr.Dataset, path: Path) -> None:
    """Write a dataset as a Zarr group under a temporary name and rename it to ``path``.

    Raises:
        AuditError: If something stands at ``path`` already.
        ArgumentError: If a file stands where its folder would be.
        DiskError: If the disk is full or refuses to write.
    """
    refuse_existing(path)
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with disk_errors(path):
            with_plain_strings(data).to_zarr(temporary, mode="w-", consolidated=False, zarr_format=3)
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def refuse_existing(path: Path) -> None:
    """Refuse to write over anything.

    Raises:
        AuditError: If something stands at ``path`` already.
    """
    if path.exists():
        raise AuditError(f"Something stands at {path} already. Choose another path, or remove it first.")


def load_audit(path: str | Path) -> Audit:
    """Open a saved audit; influences stay on disk and are read row by row.

    Raises:
        AuditError: If there is no audit at ``path``, or one of another format.
    """
    path = Path(path)
    data = open_group(path, "audit", "Give the path that an audit was saved to.")
    missing = sorted(VARIABLES - set(data.variables))
    if "influence" in data and data.attrs.get("format") == FORMAT and missing:
        raise AuditError(f"The audit at {path} lacks {', '.join(missing)}. Restore its folder, or audit again.")
    if "influence" not in data or data.attrs.get("format") != FORMAT:
        raise AuditError(
            f"{path} holds no audit of format {FORMAT} (its format: {data.attrs.get('format')}). "
            "Give the path that an audit was saved to, audit again, or use the version of Whence that wrote it."
        )
    return Audit(with_plain_strings(data))


def open_group(path: Path, what: str, advice: str) -> xr.Dataset:
    """Open a Zarr group; what is in it stays on disk until it is read.

    Args:
        path: Its folder.
        what: What it should hold, for the message.
        advice: What to do when it does not.

    Raises:
        AuditError: If there is no such folder, or no group in it.
    """
    if not path.is_dir():
        raise AuditError(f"No {what} at {path}: there is no such folder. {advice}")
    try:
        found: xr.Dataset = xr.open_zarr(path, chunks=None, consolidated=False)
    except (OSError, ValueError, KeyError, zarr.errors.BaseZarrError) as error:
        raise AuditError(f"{path} holds no {what}: {error}. {advice}") from error
    return found


def save_array(array: xr.DataArray, name: str, path: Path, *, format: int) -> None:  # noqa: A002 - its name on disk
    """Write a labelled array as a Zarr group of one variable, whole or not at all.

    Args:
        array: What to keep.
        name: Of the variable.
        path: Where.
        format: Number of the format.

    Raises:
        ArgumentError: If it is no labelled array, or a file stands where the folder of ``path`` would be.
        AuditError: If something stands at ``path`` already.
        DiskError: If the disk is full or refuses to write.
    """
    check_array(array)
    save_dataset(array.rename(name).to_dataset().assign_attrs(format=format), path)


def check_array(given: object) -> None:
    """Refuse what is no labelled array.

    Raises:
        ArgumentError: If it is none.
    """
    if not isinstance(given, xr.DataArray):
        raise ArgumentError(f"A labelled array (xarray.DataArray) can be kept; got {type(given).__name__}.")


def load_array(path: Path, name: str, *, format: int, what: str, writer: str) -> xr.DataArray:  # noqa: A002
    """Open what `save_array` wrote; it stays on disk until it is read.

    Args:
        path: Where it is.
        name: Of the variable.
        format: Number of the format.
        what: What it should be, for the message.
        writer: The function that writes such things, for the message.

    Raises:
        AuditError: If there is nothing of the kind at ``path``, or something of another format.
    """
    data = open_group(path, what, "Give the path that they were saved to.")
    if name not in data.data_vars or data.attrs.get("format") != format:
        raise AuditError(f"{path} holds no {what} of format {format}. Give the path that {writer} wrote.")
    return with_plain_strings(data)[name]


@final
class MemorySink:
    """Influences of all targets in one array in memory."""

    def __init__(self, grouping: Grouping, targets: int, dtype: str) -> None:
        self.array = np.zeros(grouping.shape(targets), dtype=dtype)
        self._grouping = grouping
        self.rows = slice(0, targets)

    def write(self, moment: int, values: Float[Tensor, "targets rows ..."]) -> None:
        """Keep the influences on the targets ``rows`` at one position along time."""
        _put(self.array, self._grouping, self.rows, moment, values)


@final
class DiskSink:
    """Influences of all targets in one Zarr array of an unfinished group."""

    def __init__(self, group: zarr.Group, grouping: Grouping, targets: int, dtype: str, unit: str) -> None:
        self._grouping = grouping
        self.rows = slice(0, targets)
        shape = grouping.shape(targets)
        if "influence" in group:
            self.array = cast("zarr.Array[Any]", group["influence"])
        else:
            self.array = group.create_array(
                "influence",
                shape=shape,
                chunks=_chunks(grouping, shape, np.dtype(dtype).itemsize),
                dtype=dtype,
                dimension_names=grouping.dims,
                attributes={"unit": unit},
            )

    def write(self, moment: int, values: Float[Tensor, "targets rows ..."]) -> None:
        """Keep the influences on the targets ``rows`` at one position along time."""
        _put(self.array, self._grouping, self.rows, moment, values)


def _put(array: np.ndarray | zarr.Array[Any], grouping: Grouping, rows: slice, moment: int, values: Tensor) -> None:
    index: list[slice | int] = [rows, *(slice(None) for _ in grouping.dims[1:])]
    if grouping.time is not None:
        index[grouping.dims.index(grouping.time)] = moment
    array[tuple(index)] = values.cpu().numpy()


def _chunks(grouping: Grouping, shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """One moment, one layer, all examples of a few targets: what a top list reads is then a few files."""
    rows = max(1, min(shape[0], _CHUNK_BYTES // max(1, shape[1] * itemsize)))
    return (rows, max(1, shape[1]), *(1 for _ in grouping.dims[2:]))


def with_plain_strings(data: xr.Dataset) -> xr.Dataset:
    """Hold text as Python strings: the one form of text that Zarr's format 3 specifies."""
    text = {
        name: coordinate.astype(object)
        for name, coordinate in data.variables.items()
        if coordinate.dtype.kind in {"U", "T", "O"}
    }
    return data.assign_coords({name: variable for name, variable in text.items() if name in data.coords})
