"""The kernels as this machine's own C compiler makes them, in a folder that is removed at once."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

SOURCE = Path(__file__).with_name("kernels.c")
COMPILERS = ("cc", "gcc", "clang")
VARIABLE = "WHENCE_CC"
REALS = {torch.float32: ("float", ctypes.c_float), torch.float64: ("double", ctypes.c_double)}
_FLAGS = ("-std=gnu11", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
_KERNELS = ("walk", "convolve", "panel", "tile")
_SECONDS = 120.0  # that a compiler may take; half to one are usual
_LOCK = threading.Lock()


def compilers() -> list[list[str]]:
    """Return the commands of the C compilers to try: the one in ``$WHENCE_CC``, if it is set, or those found."""
    if sys.platform != "linux":
        return []
    asked = os.environ.get(VARIABLE)
    if asked is None:
        return [[found] for name in COMPILERS if (found := shutil.which(name)) is not None]
    try:
        return [shlex.split(asked)] if asked.strip() else []
    except ValueError:  # a quotation without end: there is no such program
        return [[asked]]


def library(dtype: torch.dtype) -> ctypes.CDLL | None:
    """Return the kernels for a type of numbers, compiled when first asked for; None without compiler.

    Warns:
        RuntimeWarning: If there are compilers, but none makes them.
    """
    with _LOCK:
        return made(dtype)


@cache
def made(dtype: torch.dtype) -> ctypes.CDLL | None:
    """Do as `library`, by one thread at a time."""
    if dtype not in REALS:
        return None
    failed = []
    for command in compilers():
        try:
            return _compiled(command, REALS[dtype][0])
        except (OSError, subprocess.SubprocessError, AttributeError) as error:
            failed.append(f"{shlex.join(command)}: {_cause(error)}")
    if failed:
        warnings.warn(
            f"The kernels of Whence cannot be compiled ({'; '.join(failed)}). Everything goes on with torch's own "
            f"operations, more slowly. Set {VARIABLE} to a C compiler that can, or to nothing to do without.",
            RuntimeWarning,
            stacklevel=2,
        )
    return None


def _compiled(command: Sequence[str], real: str) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory(prefix="whence-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "kernels.so"
        subprocess.run(
            [*command, *_FLAGS, f"-DREAL={real}", "-o", str(path), str(SOURCE)],
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_SECONDS,
        )
        try:
            found = ctypes.CDLL(str(path))
        except OSError as error:
            raise OSError(
                f"what it made cannot be loaded from {folder} ({error}); TMPDIR may name a folder for programs"
            ) from error
    for name in _KERNELS:
        getattr(found, name)
    return found


def _cause(error: Exception) -> str:
    """Return the line of an error that says most."""
    lines = [line.strip() for line in str(getattr(error, "stderr", "") or error).splitlines() if line.strip()]
    telling = (line for line in lines if "error" in line.lower() or "cannot" in line.lower())
    return next(telling, lines[-1] if lines else str(error))


def has_kernels(like: torch.Tensor) -> bool:
    """Say whether there are kernels for numbers of a tensor's type, where it is."""
    return like.is_cpu and library(like.dtype) is not None


def loaded(like: torch.Tensor) -> ctypes.CDLL:
    """Return the kernels for numbers of a tensor's type.

    Raises:
        TypeError: If there are none; ask `has_kernels` first.
    """
    found = library(like.dtype) if like.is_cpu else None
    if found is None:
        raise TypeError(f"There are no compiled kernels for {like.dtype} on {like.device}.")
    return found


def plain(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor whose numbers lie one after the other in memory, as the kernels read them."""
    return tensor.to(dtype).resolve_neg().contiguous()


def run(kernel: Callable[[Any], int], job: ctypes.Structure) -> None:
    """Have a kernel do a job.

    Raises:
        MemoryError: If a thread found no memory.
    """
    if kernel(ctypes.byref(job)):
        raise MemoryError("No memory for a thread of the compiled kernels.")
