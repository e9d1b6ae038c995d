"""The files of a run, how they come to be, and what a killed process leaves behind."""

import shutil
from contextlib import suppress
from pathlib import Path

from whence._errors import RunExistsError
from whence._files import disk_errors
from whence.runs.lock import LOCK
from whence.runs.manifest import Manifest
from whence.runs.snapshots import Snapshots, TrainingState
from whence.runs.steps import StepTable

_TABLE = "steps.sqlite"
_SNAPSHOTS = "snapshots"


def table_path(folder: Path) -> Path:
    """Return where the table of steps is."""
    return folder / _TABLE


def snapshots_of(folder: Path) -> Snapshots:
    """Return the snapshots of a run."""
    return Snapshots(folder / _SNAPSHOTS)


def make_run(folder: Path, manifest: Manifest, state: TrainingState) -> None:
    """Make a run of no steps; ``run.json`` comes last, so that a folder with it is whole.

    The folder is there, locked, and holds at most the beginning of a run.

    Raises:
        DiskError: If it cannot be written; what was made is taken away.
    """
    try:
        _clear(folder)
        with disk_errors(folder):
            (folder / _SNAPSHOTS).mkdir()
        StepTable.create(table_path(folder)).close()
        snapshots_of(folder).save(0, state)
        manifest.save(folder)
    except BaseException:
        _clear(folder)
        raise


def clean(folder: Path, steps: int) -> None:
    """Delete what a killed process left: temporary files, and snapshots after the last whole step."""
    snapshots = snapshots_of(folder)
    snapshots.clean()
    for leftover in folder.glob(".run.json.*.tmp"):
        with suppress(OSError):
            leftover.unlink()
    for step in snapshots.steps():
        if step > steps:
            snapshots.delete(step)


def check_beginning(folder: Path) -> None:
    """Check that a folder without ``run.json``, if there is one, is what a kill at the very beginning left.

    Raises:
        RunExistsError: If there is something else in it.
    """
    names = [entry.name for entry in folder.iterdir()] if folder.exists() else []
    others = [n for n in names if not n.startswith((_TABLE, ".run.json.", LOCK)) and n != _SNAPSHOTS]
    if others:
        raise RunExistsError(
            f"{folder} is no run, but holds {', '.join(sorted(others)[:4])}. Nothing was touched; choose another path."
        )


def _clear(folder: Path) -> None:
    """Delete the files of a run that has not begun, but the lock."""
    shutil.rmtree(folder / _SNAPSHOTS, ignore_errors=True)
    for file in [*folder.glob(f"{_TABLE}*"), *folder.glob(".run.json.*.tmp")]:
        with suppress(OSError):
            file.unlink()
