"""Only one recorder at a time writes to a run."""

import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import final

from whence._errors import DiskError, RunExistsError
from whence._files import disk_errors

LOCK = "lock.sqlite"
"""An empty file in the run's folder, of no use but to be locked. It stays there: a file that is deleted while another
process waits for it would be two."""


@final
class RunLock:
    """A run's folder, held by one recorder; made by `take`.

    The lock is SQLite's, thus the operating system's: it vanishes with the process, however that ends, and the worker
    processes of a loader do not inherit it.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection

    @classmethod
    def take(cls, folder: Path) -> "RunLock":
        """Hold a folder, which is made if there is none.

        Raises:
            RunExistsError: If a recorder of this process or another holds it.
            DiskError: If the folder cannot be written to, or its disk knows no locks.
        """
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        path = folder / LOCK
        connection = None
        try:
            connection = sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False)
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            if connection is not None:
                connection.close()
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
                raise RunExistsError(
                    f"The run at {folder} is being recorded already, by another process or another recorder of this "
                    "one. Nothing of it was touched. Wait until that recording ends, end it (close its recorder, or "
                    "its process), or record to another path."
                ) from error
            raise DiskError(
                f"Cannot lock {path}: {error}. Check that the folder is writable, or choose a path on another disk."
            ) from error
        return cls(path, connection)

    def release(self) -> None:
        """Let the folder go."""
        self._connection.close()

    def discard(self) -> None:
        """Let the folder go, and delete it if it holds nothing else."""
        with suppress(OSError):
            self._path.unlink()
        self._connection.close()
        with suppress(OSError):
            self._path.parent.rmdir()
