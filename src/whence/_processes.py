"""Several trainings at once, each in a process of its own on one thread; what each gives is kept as it is found."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from whence._errors import ArgumentError, DataError
from whence._files import disk_errors, write_atomically
from whence._numbers import is_whole
from whence._progress import progress

Found = TypeVar("Found")
_TASKS: dict[int, tuple[Callable[[], object], Callable[[int], Any]]] = {}  # what forked processes inherit


def _nothing() -> None:
    """Do nothing: nothing has to be opened or prepared."""


def in_processes(
    make: Callable[[int], Found],
    count: int,
    processes: int,
    *,
    begin: Callable[[], object] = _nothing,
    ready: Callable[[], object] = _nothing,
) -> Iterator[tuple[int, Found]]:
    """Call ``make`` with 0 to ``count - 1``, and yield what it gives, as it is found.

    Args:
        make: Works on the CPU; with several processes, it gives what can be sent between them.
        count: How many calls.
        processes: How many to run at once, each on one thread.
        begin: Called before each call in a process of its own, to open anew what processes cannot share.
        ready: Called once before several processes part, to refuse or prepare.

    Yields:
        Which call, and what it gave.

    Raises:
        ArgumentError: If ``processes`` is no such number, or processes cannot be forked here.
    """
    if not is_whole(processes) or processes < 1:
        raise ArgumentError(f"`processes` is a number of trainings at once, at least 1; got {processes!r}.")
    if processes == 1 or count <= 1:
        yield from ((place, make(place)) for place in range(count))
        return
    if "fork" not in multiprocessing.get_all_start_methods():
        raise ArgumentError("Several trainings at once need a system that forks. Leave `processes` at 1.")
    ready()
    context = multiprocessing.get_context("fork")
    task = (begin, make)
    _TASKS[id(task)] = task
    try:
        with context.Pool(min(processes, count), _begin_process) as pool:
            yield from pool.imap_unordered(_make_one, [(id(task), place) for place in range(count)])
    finally:
        del _TASKS[id(task)]


def kept_arrays(
    make: Callable[[int], NDArray[np.float64]],
    keys: Sequence[str],
    *,
    folder: Path | None,
    processes: int,
    description: str,
    begin: Callable[[], object] = _nothing,
    ready: Callable[[], object] = _nothing,
) -> list[NDArray[np.float64]]:
    """Return one array for each key: from the folder where it is there, else made, and kept there as it is found.

    Args:
        make: Given the place of a key, makes its array.
        keys: What each array is called: checksums of all that decides it, so that another question finds none.
        folder: Where arrays are kept, one file each; None to keep none.
        processes: How many to make at once.
        description: What is being done, for the progress bar.
        begin, ready: As `in_processes` takes them.

    Raises:
        DataError: If a file of the folder cannot be read.
        DiskError: If the disk is full or refuses to write.
    """
    if folder is not None:
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
    files = [None if folder is None else folder / f"{key.rpartition(':')[2]}.npy" for key in keys]
    found = {place: _read(file) for place, file in enumerate(files) if file is not None and file.exists()}
    missing = [place for place in range(len(keys)) if place not in found]
    with progress(description, len(keys)) as advance:
        advance(len(found))
        again = in_processes(lambda one: make(missing[one]), len(missing), processes, begin=begin, ready=ready)
        for number, made in again:
            place, file = missing[number], files[missing[number]]
            found[place] = made
            if file is not None:
                write_atomically(file, lambda path, made=made: _write(path, made))  # type: ignore[misc]
            advance(1)
    return [found[place] for place in range(len(keys))]


def _write(path: Path, values: NDArray[np.float64]) -> None:
    with path.open("wb") as file:
        np.save(file, values)


def _read(file: Path) -> NDArray[np.float64]:
    try:
        values: NDArray[np.float64] = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{file} holds no result of a training: {error}. Remove it, and it is made again.") from error
    return values


def _begin_process() -> None:
    torch.set_num_threads(1)  # torch's pool of threads does not survive a fork


def _make_one(which: tuple[int, int]) -> tuple[int, Any]:
    begin, make = _TASKS[which[0]]
    begin()
    return which[1], make(which[1])
