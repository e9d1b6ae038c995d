"""What is kept beside the path of a result that is not finished, whatever it is a result of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from whence._errors import AuditError
from whence._files import disk_errors, write_atomically
from whence.audit.storage import refuse_existing, with_plain_strings


def begin_or_go_on(path: Path, what: str, ours: Mapping[str, Any], *, file: str = "work.json") -> Path:
    """Return the folder in which an unfinished result is kept, made if it is not there.

    Args:
        path: Where the finished result is to be.
        what: What it is called, for the message.
        ours: What it is made of, in JSON's types: written when it is begun, compared when it goes on.
        file: Where that is written.

    Raises:
        AuditError: If it was begun with other arguments.
        DiskError: If the disk is full or refuses to write.
    """
    folder = path.with_name(f".{path.name}.partial")
    with disk_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        begun = folder / file
        if not begun.exists():
            write_atomically(begun, json.dumps(ours, indent=1).encode())
            return folder
        theirs = json.loads(begun.read_text())
    different = sorted(key for key in ours if ours[key] != theirs.get(key))
    if different:
        raise AuditError(
            f"An unfinished {what} for {path} was begun with other arguments ({', '.join(different)} differ). Call "
            f"with the same ones to go on, choose another path, or remove {folder} to begin anew."
        )
    return folder


def say_kept(error: BaseException | None, path: Path) -> None:
    """Note on an error that what was done before it is kept."""
    if error is not None:
        error.add_note(f"What was computed so far is kept: call again with path={str(path)!r} to go on.")


def give_place(group: Path, path: Path, rest: xr.Dataset) -> None:
    """Add the rest to a group of arrays on disk, give it its place, and remove the folder that it grew in.

    Raises:
        AuditError: If something appeared at the path meanwhile.
        DiskError: If the disk is full or refuses to write.
    """
    refuse_existing(path)
    with disk_errors(path):
        with_plain_strings(rest).to_zarr(group, mode="a", consolidated=False, zarr_format=3)
        group.rename(path)
    shutil.rmtree(group.parent, ignore_errors=True)
