"""Whether there are kernels: which compiler is asked, and what is said if it fails."""

from __future__ import annotations

import ctypes
import importlib
import shutil
import stat
import sys
import threading
from pathlib import Path

import pytest
import torch

from tests.compiled.test_walking import needs_compiler
from whence.compiled import loading
from whence.compiled.loading import VARIABLE, compilers, library, loaded, made, run

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="kernels are compiled on Linux only")


class Job(ctypes.Structure):
    """A job without anything to do."""

    _fields_ = ()


def anew(dtype: torch.dtype = torch.float32) -> object:
    """Compile anew, not as remembered."""
    return made.__wrapped__(dtype)


def program(folder: Path, name: str, lines: str) -> str:
    """Write a program of the shell and return its path."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_the_compilers_found_are_tried_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(shutil, "which", {"gcc": "/bin/gcc", "clang": "/bin/clang"}.get)
    assert compilers() == [["/bin/gcc"], ["/bin/clang"]]


@pytest.mark.parametrize(
    ("asked", "commands"),
    [("ccache 'my cc'", [["ccache", "my cc"]]), ("gcc 'x", [["gcc 'x"]]), ("", []), ("  ", [])],
)
def test_a_compiler_that_is_named_is_the_only_one_tried(
    asked: str, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv(VARIABLE, asked)
    assert compilers() == commands


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_elsewhere_than_on_linux_there_are_no_kernels(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv(VARIABLE, "cc")
    assert compilers() == []


def test_without_a_compiler_there_are_no_kernels_and_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")
    assert anew() is None
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    assert anew(torch.float64) is None


FAILURES = {
    "is not there": ("", r"No such file or directory"),
    "fails in silence": ("exit 1", r"returned non-zero exit status 1"),
    "prints blank lines": ("echo >&2; exit 1", r"returned non-zero exit status 1"),
    "says why, and more": ("echo 'cannot find -lfoo' >&2; echo ld returned 1 >&2; exit 1", r"cannot find -lfoo"),
    "speaks another encoding": (r"printf 'err\350ur: no\n' >&2; exit 1", r"err.ur: no"),
    "makes nothing": ("exit 0", r"what it made cannot be loaded from .*TMPDIR may name a folder for programs"),
    "does not end": ("sleep 60", r"timed out after"),
}


@on_linux
@pytest.mark.parametrize("name", FAILURES)
def test_a_compiler_that_fails_is_a_warning_that_says_why(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines, why = FAILURES[name]
    command = program(tmp_path, "my-cc", lines) if lines else str(tmp_path / "no-cc")
    monkeypatch.setenv(VARIABLE, command)
    monkeypatch.setattr(loading, "_SECONDS", 0.5)
    with pytest.warns(RuntimeWarning, match=rf"(?s)^The kernels of Whence .*{command}: .*{why}.*Set WHENCE_CC to"):
        assert anew() is None


@on_linux
def test_a_folder_that_cannot_be_written_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "cc")
    monkeypatch.setattr("tempfile.tempdir", "/nonexistent")
    with pytest.warns(RuntimeWarning, match=r"cc: .*No such file or directory: '/nonexistent/whence-"):
        assert anew() is None


@needs_compiler
def test_a_library_that_is_another_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (command, *_), *_ = compilers()
    (tmp_path / "other.c").write_text("int other(void) { return 0; }\n")
    lines = f'while [ "$1" != -o ]; do shift; done; exec {command} -shared -fPIC -o "$2" {tmp_path / "other.c"}'
    monkeypatch.setenv(VARIABLE, program(tmp_path, "my-cc", lines))
    with pytest.warns(RuntimeWarning, match=r"undefined symbol: walk"):
        assert anew() is None


@needs_compiler
def test_the_next_compiler_is_tried_if_one_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = compilers()
    monkeypatch.setattr(loading, "compilers", lambda: [[program(tmp_path, "my-cc", "exit 1")], *good])
    assert anew() is not None


@needs_compiler
def test_threads_that_ask_at_once_get_the_same_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, found = [], []
    compile_ = vars(loading)["_compiled"]

    def counted(*arguments: object) -> object:
        calls.append(arguments)
        return compile_(*arguments)

    monkeypatch.setattr(loading, "_compiled", counted)
    made.cache_clear()
    threads = [threading.Thread(target=lambda: found.append(library(torch.float32))) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(calls) == 1
    assert found == [found[0]] * 4


def test_what_there_are_no_kernels_for_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"There are no compiled kernels for torch.float16 on cpu\."):
        loaded(torch.zeros(1, dtype=torch.float16))


@needs_compiler
def test_a_thread_without_memory_is_an_error() -> None:
    walking = importlib.import_module("whence.compiled.walking")
    kernels = loaded(torch.zeros(1))
    job = walking._kinds(torch.float32)[0](targets=1, part=1, columns=2**61)
    with pytest.raises(MemoryError, match="No memory for a thread"):
        run(kernels.walk, job)


def test_a_job_that_is_done_is_no_error() -> None:
    run(lambda _job: 0, Job())
