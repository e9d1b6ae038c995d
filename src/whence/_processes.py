"""Several trainings at once, each in a process of its own on one thread; what each gives is kept as it is found."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from whence._errors import ArgumentError, DataError
from whence._files import make_folder, write_atomically
from whence._numbers import is_whole
from whence._progress import progress

Found = TypeVar("Found")
_within: list[bool] = []  # not empty in a process that `in_processes` forked


def _nothing() -> None:
    """Do nothing: nothing has to be opened or prepared."""


def as_processes(processes: int | None, count: int) -> int:
    """Return in how many processes to make ``count`` things.

    Args:
        processes: How many at most, each on one thread. None takes all cores that this process may use, where trainings
            can be told apart from it safely: on Linux, without a GPU (a process that was forked cannot use it, nor
            differentiate once its parent has), and not in a process of such work already. Elsewhere it is one.
        count: How many things; there are never more processes.

    Raises:
        ArgumentError: If ``processes`` is no such number.
    """
    if processes is None:
        processes = _usable_cores() if _forks_safely() else 1
    if not is_whole(processes) or processes < 1:
        raise ArgumentError(
            f"`processes` is a number of trainings at once, at least 1; got {processes!r}. Leave it out for all cores."
        )
    return max(1, min(int(processes), count))


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _forks_safely() -> bool:
    inside = bool(_within) or multiprocessing.current_process().daemon
    return sys.platform == "linux" and not inside and not _beside_gpu()


def _beside_gpu() -> bool:
    return torch.cuda.is_available() or torch.xpu.is_available()


def in_processes(
    make: Callable[[int], Found],
    count: int,
    processes: int | None,
    *,
    begin: Callable[[], object] = _nothing,
    ready: Callable[[], object] = _nothing,
) -> Iterator[tuple[int, Found]]:
    """Call ``make`` with 0 to ``count - 1``, and yield what it gives, as it is found.

    Processes are forked: they inherit ``make`` and all that it uses, so that it may be any function, and share the
    data with this process for as long as nobody changes it. Each holds what it makes itself: a network, its gradients.

    Args:
        make: Works on the CPU; with several processes, it gives what can be sent between them.
        count: How many calls.
        processes: How many to run at once, each on one thread; None as `as_processes` says.
        begin: Called before each call in a process of its own, to open anew what processes cannot share.
        ready: Called once before several processes part, to refuse or prepare.

    Yields:
        Which call, and what it gave.

    Raises:
        ArgumentError: If ``processes`` is no such number, processes cannot be forked here, the machine has a GPU, or
            one of them ended.
    """
    many = as_processes(processes, count)
    if many == 1:
        yield from ((place, make(place)) for place in range(count))
        return
    if "fork" not in multiprocessing.get_all_start_methods():
        raise ArgumentError("Several trainings at once need a system that forks. Give `processes=1`.")
    if _beside_gpu():
        raise ArgumentError(
            "Several trainings at once are forked processes, and torch does not let these differentiate on a machine "
            'with a GPU. Give `processes=1`, or hide the GPU (CUDA_VISIBLE_DEVICES="") to train on the CPU.'
        )
    ready()
    places = iter(range(count))
    with _workers(many, begin, make) as workers:
        for connection in workers:
            connection.send(next(places))
        for _ in range(count):
            ready_now = wait(list(workers))
            connection = next(one for one in workers if one in ready_now)
            place, found, error = _answer(connection, workers[connection])
            if error is not None:
                raise error
            following = next(places, None)
            if following is not None:
                connection.send(following)
            yield place, found


def kept_arrays(
    make: Callable[[int], NDArray[np.float64]],
    keys: Sequence[str],
    *,
    folder: Path | None,
    processes: int | None,
    description: str,
    begin: Callable[[], object] = _nothing,
    ready: Callable[[], object] = _nothing,
) -> list[NDArray[np.float64]]:
    """Return one array for each key: from the folder where it is there, else made, and kept there as it is found.

    Args:
        make: Given the place of a key, makes its array.
        keys: What each array is called: checksums of all that decides it, so that another question finds none.
        folder: Where arrays are kept, one file each; None to keep none.
        processes: How many to make at once; None as `as_processes` says.
        description: What is being done, for the progress bar.
        begin, ready: As `in_processes` takes them.

    Raises:
        ArgumentError: If a file stands where the folder would be.
        DataError: If a file of the folder cannot be read.
        DiskError: If the disk is full or refuses to write.
    """
    if folder is not None:
        make_folder(folder)
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


@contextmanager
def _workers(
    many: int, begin: Callable[[], object], make: Callable[[int], object]
) -> Iterator[dict[Connection, ForkProcess]]:
    """Fork processes that answer what they are sent, and end them, also amid their work."""
    context = multiprocessing.get_context("fork")
    workers: dict[Connection, ForkProcess] = {}
    try:
        for _ in range(many):
            ours, theirs = context.Pipe()
            workers[ours] = context.Process(target=_work, args=(theirs, begin, make, torch.initial_seed()))
            workers[ours].start()
            theirs.close()
        yield workers
    finally:
        for connection, process in workers.items():
            process.terminate()
            process.join()
            connection.close()


def _work(connection: Connection, begin: Callable[[], object], make: Callable[[int], object], seed: int) -> None:
    """Answer, in a forked process, each place with what was made there, or with the error."""
    _within.append(True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it ends this process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["WHENCE_PROGRESS"] = "0"  # the display belongs to the parent
    torch.set_num_threads(1)  # torch's pool of threads does not survive a fork
    while True:
        place = connection.recv()
        _reseed(seed + 1 + place)  # or what follows no seed of its own would be equal in every process
        try:
            begin()
            answer = pickle.dumps((place, make(place), None))
        except Exception as error:  # the parent raises it
            answer = pickle.dumps((place, None, _sendable(error)))
        connection.send_bytes(answer)


def _reseed(seed: int) -> None:
    torch.manual_seed(seed % 2**63)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def _sendable(error: Exception) -> Exception:
    """Return an error with where it arose; one that cannot be sent to the parent, as a `RuntimeError` of its words."""
    error.add_note("".join(traceback.format_tb(error.__traceback__)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its class does when pickled
        return RuntimeError("".join(traceback.format_exception(error)))
    return error


def _answer(connection: Connection, process: ForkProcess) -> tuple[int, Any, Exception | None]:
    """Return what a process answered.

    Raises:
        ArgumentError: If it ended instead.
    """
    try:
        answer: tuple[int, Any, Exception | None] = pickle.loads(connection.recv_bytes())
    except (EOFError, OSError) as error:
        process.join()
        raise ArgumentError(
            f"A process that made one of several trainings at once ended (exit code {process.exitcode}): killed, "
            "perhaps as memory ran out. Each holds a network and what its training needs. Give fewer `processes`."
        ) from error
    return answer
