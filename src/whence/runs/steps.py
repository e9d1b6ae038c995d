"""The table of steps of a run: ``steps.sqlite``, one committed row a step."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from whence._errors import ArgumentError, DiskError, RunFormatError, RunNotFoundError
from whence.runs.blobs import batches_of, decode_buffers, encode_buffers, encode_ids
from whence.runs.modes import Modes
from whence.runs.randomness import RandomState
from whence.runs.settings import decode_settings, encode_settings
from whence.runs.statistics import GradientTable
from whence.runs.step_record import Place, StepRecord, comes_after

_SCHEMA = """
CREATE TABLE texts (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE TABLE states (id INTEGER PRIMARY KEY, state BLOB NOT NULL);
CREATE TABLE steps (
    step INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, position INTEGER NOT NULL,
    ids BLOB NOT NULL, sizes BLOB NOT NULL, epochs TEXT, settings INTEGER NOT NULL, modes TEXT NOT NULL,
    updated INTEGER NOT NULL, statistics BLOB NOT NULL, random TEXT, after INTEGER, buffers BLOB, touched TEXT
);
CREATE TABLE epochs (epoch INTEGER PRIMARY KEY, start BLOB, stop BLOB);
"""


@final
class StepTable:
    """The rows of ``steps.sqlite``. After a kill at any moment, every row in it is a whole step.

    Args:
        path: The file.
        connection: An open connection to it; see `create`, `append_to` and `read_from`.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        self._texts: dict[int, Any] = {}
        self._known: dict[str, tuple[object, int]] = {}
        self._last_state: tuple[RandomState, int] | None = None

    @classmethod
    def create(cls, path: Path) -> "StepTable":
        """Make a new, empty table."""
        with _disk(path):
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.executescript(_SCHEMA)
        return cls(path, connection)

    @classmethod
    def append_to(cls, path: Path) -> "StepTable":
        """Open a table to add rows."""
        with _disk(path):
            connection = sqlite3.connect(_uri(path, "rw"), uri=True, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA synchronous=NORMAL")
        return cls(path, connection)

    @classmethod
    def read_from(cls, path: Path) -> "StepTable":
        """Open a table to read it; the folder may be read-only.

        Raises:
            RunNotFoundError: If there is no such file.
            RunFormatError: If it is not a table of steps.
        """
        if not path.is_file():
            raise RunNotFoundError(f"The run has no {path.name} at {path}. Copy the whole folder of the run.")
        reason = ""
        for mode in ("ro", "ro&immutable=1"):
            try:
                connection = sqlite3.connect(_uri(path, mode), uri=True, check_same_thread=False)
                connection.execute("SELECT COUNT(*) FROM steps").fetchone()
            except sqlite3.Error as error:
                reason = str(error)
            else:
                return cls(path, connection)
        raise RunFormatError(f"{path} is not a readable table of steps: {reason}. Restore the file from a copy.")

    @classmethod
    @contextmanager
    def closing(cls, path: Path) -> Iterator["StepTable"]:
        """Open a table to read it, for the length of a block."""
        table = cls.read_from(path)
        try:
            yield table
        finally:
            table.close()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __len__(self) -> int:
        """Return the number of whole steps."""
        return int(self._connection.execute("SELECT COALESCE(MAX(step) + 1, 0) FROM steps").fetchone()[0])

    def last_place(self) -> Place:
        """Return the place of the last step, one before all others if there is none."""
        found = self._connection.execute("SELECT epoch, position FROM steps ORDER BY step DESC LIMIT 1").fetchone()
        return found or (-1, -1)

    def last_epoch(self) -> int:
        """Return the number of the last epoch begun, -1 if none was."""
        return int(self._connection.execute("SELECT COALESCE(MAX(epoch), -1) FROM epochs").fetchone()[0])

    def append(self, record: StepRecord) -> None:
        """Add a step and commit it.

        Raises:
            DiskError: If it cannot be written; then it is not there.
        """
        with self._writing():
            self._connection.execute(
                "INSERT INTO steps VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", self._row(record)
            )

    def sync(self) -> None:
        """Put every committed row on the disk itself (a commit alone survives a kill, not a power cut)."""
        with _disk(self._path):
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def begin_epoch(self, epoch: int, state: bytes | None) -> None:
        """Note that an epoch begins, with the random states from which a loader draws its order."""
        with self._writing():
            self._connection.execute("INSERT OR REPLACE INTO epochs VALUES (?, ?, NULL)", (epoch, state))

    def end_epoch(self, epoch: int, state: bytes) -> None:
        """Note that the batches of an epoch are used up."""
        with self._writing():
            self._connection.execute("UPDATE epochs SET stop = ? WHERE epoch = ?", (state, epoch))

    def epoch_states(self, epoch: int) -> tuple[bytes | None, bytes | None]:
        """Return the states at the beginning and at the end of an epoch; None where not known."""
        found = self._connection.execute("SELECT start, stop FROM epochs WHERE epoch = ?", (epoch,)).fetchone()
        return (None, None) if found is None else (found[0], found[1])

    def ids_of_epoch(self, epoch: int) -> list[tuple[int, tuple[Tensor, ...]]]:
        """Return position and batches of each step of an epoch."""
        rows = self._connection.execute(
            "SELECT position, ids, sizes FROM steps WHERE epoch = ? ORDER BY step", (epoch,)
        )
        return [(position, batches_of(ids, sizes)) for position, ids, sizes in rows.fetchall()]

    def read(self, step: int) -> StepRecord:
        """Return a step.

        Raises:
            ArgumentError: If there is no such step.
            RunFormatError: If its row cannot be read.
        """
        with self._reading(f"Step {step}"):
            row = self._connection.execute("SELECT * FROM steps WHERE step = ?", (step,)).fetchone()
            if row is not None:
                return self._record(row)
        raise ArgumentError(f"No step {step}: the run's steps are 0 to {len(self) - 1}.")

    def touched(self, start: int, stop: int) -> dict[int, tuple[str, ...]]:
        """Return what something other than the optimizer changed before each of some steps, where it did."""
        with self._reading(f"Steps {start} to {stop - 1}"):
            rows = self._connection.execute(
                "SELECT step, touched FROM steps WHERE step >= ? AND step < ? AND touched IS NOT NULL ORDER BY step",
                (start, stop),
            )
            return {step: tuple(json.loads(names)) for step, names in rows.fetchall()}

    def epochs_of_steps(self) -> np.ndarray:
        """Return the epoch of each step, int64 (steps,); refuse a table from which steps were deleted."""
        with self._reading("The table"):
            rows = self._connection.execute("SELECT step, epoch, position FROM steps ORDER BY step").fetchall()
            missing = next((step for step, row in enumerate(rows) if row[0] != step), None)
            if missing is not None:
                raise ValueError(f"step {missing} is missing")
            back = next((after[0] for before, after in pairwise(rows) if not comes_after(after[1:], before[1:])), None)
            if back is not None:
                raise ValueError(f"epoch and position of step {back} do not come after those of the step before")
        return np.array([row[1] for row in rows], dtype=np.int64)

    def updated_names(self) -> frozenset[str]:
        """Return the parameters that some step updated."""
        with self._reading("The table"):
            rows = self._connection.execute("SELECT DISTINCT updated FROM steps").fetchall()
            return frozenset(name for (number,) in rows for name in self._decoded(number, tuple))

    @contextmanager
    def _reading(self, what: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise RunFormatError(
                f"{what} in {self._path} cannot be read: {error}. Restore the file from a copy."
            ) from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Forget, after an error, what may not have been written. Each statement is a transaction of its own."""
        try:
            with _disk(self._path):
                yield
        except BaseException:
            self._known.clear()
            self._last_state = None
            raise

    def _row(self, record: StepRecord) -> tuple[Any, ...]:
        sizes = np.array([len(ids) for ids in record.batches], dtype="<i8")
        states = [self._state(state) for state in record.random]
        return (
            record.step,
            record.epoch,
            record.position,
            encode_ids(torch.cat(record.batches).numpy()),
            sizes.tobytes(),
            json.dumps(record.epochs) if record.epochs[0] != record.epoch else None,
            self._text("settings", record.settings, encode_settings),
            json.dumps([self._text("modes", modes, Modes.encode) for modes in record.modes]),
            self._text("updated", record.statistics.names, list),
            record.statistics.encode(),
            json.dumps(states) if any(state is not None for state in states) else None,
            self._state(record.after),
            encode_buffers(record.buffers),
            json.dumps(record.touched) if record.touched else None,
        )

    def _record(self, row: tuple[Any, ...]) -> StepRecord:
        step, epoch, position, ids, sizes, epochs, settings, modes, updated, statistics, *rest = row
        random, after, buffers, touched = rest
        batches = batches_of(ids, sizes)
        states = json.loads(random) if random else [None] * len(batches)
        return StepRecord(
            step=step,
            epoch=epoch,
            position=position,
            batches=batches,
            epochs=tuple(json.loads(epochs)) if epochs else (epoch,) * len(batches),
            settings=self._decoded(settings, decode_settings),
            modes=tuple(self._decoded(number, Modes.decode) for number in json.loads(modes)),
            statistics=GradientTable.decode(self._decoded(updated, tuple), statistics),
            random=tuple(self._read_state(number) for number in states),
            after=self._read_state(after),
            buffers=decode_buffers(buffers),
            touched=tuple(json.loads(touched)) if touched else (),
        )

    def _text(self, kind: str, value: Any, encode: Any) -> int:
        """Return the row of ``texts`` that holds ``value``; the same object is looked up once."""
        known = self._known.get(kind)
        if known is not None and known[0] is value:
            return known[1]
        text = json.dumps(encode(value))
        self._connection.execute("INSERT OR IGNORE INTO texts (text) VALUES (?)", (text,))
        number = int(self._connection.execute("SELECT id FROM texts WHERE text = ?", (text,)).fetchone()[0])
        self._known[kind] = (value, number)
        return number

    def _decoded(self, number: int, decode: Any) -> Any:
        if number not in self._texts:
            found = self._connection.execute("SELECT text FROM texts WHERE id = ?", (number,)).fetchone()
            self._texts[number] = decode(json.loads(found[0]))
        return self._texts[number]

    def _state(self, state: RandomState | None) -> int | None:
        if state is None:
            return None
        if self._last_state is None or not self._last_state[0].same(state):
            cursor = self._connection.execute("INSERT INTO states (state) VALUES (?)", (state.encode(),))
            self._last_state = (state, int(cursor.lastrowid or 0))
        return self._last_state[1]

    def _read_state(self, number: int | None) -> RandomState | None:
        if number is None:
            return None
        found = self._connection.execute("SELECT state FROM states WHERE id = ?", (number,)).fetchone()
        return RandomState.decode(found[0])


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise DiskError(
            f"Cannot write {path}: {error}. The steps recorded before are safe; free some space, check that the "
            "folder is writable, then go on with record(..., resume=True)."
        ) from error


def _uri(path: Path, mode: str) -> str:
    return f"{path.absolute().as_uri()}?mode={mode}"
