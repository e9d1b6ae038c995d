"""Files are whole or untouched, whatever interrupts; progress shows on terminals only; extras are named."""

import errno
import io
import math
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whence import _progress
from whence._errors import DiskError, LabelError, MissingExtraError
from whence._extras import require
from whence._files import checksum, disk_errors, file_checksum, write_atomically
from whence._numbers import even_parts


def test_a_file_is_written_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_atomically(path, b"one")
    write_atomically(path, lambda temporary: temporary.write_bytes(b"two"))
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def interrupted(temporary: Path) -> None:
        temporary.write_bytes(b"ha")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupted)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (
            errno.ENOSPC,
            r"Cannot write .*a\.bin: No space left on device\. What was there is unchanged; free some space",
        ),
        (errno.EDQUOT, r"the quota is used up"),
        (errno.EROFS, r"the file system is read-only: choose another path"),
        (errno.EACCES, r"permission is denied"),
    ],
)
def test_a_disk_that_refuses_is_named_with_what_to_do(tmp_path: Path, code: int, words: str) -> None:
    def full(_temporary: Path) -> None:
        raise OSError(code, os.strerror(code))

    with pytest.raises(DiskError, match=words):
        write_atomically(tmp_path / "a.bin", full)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_really_full_disk_is_named() -> None:
    with (
        pytest.raises(DiskError, match="No space left"),
        disk_errors(Path("/dev/full")),
        open("/dev/full", "wb", buffering=0) as file,  # noqa: PTH123
    ):
        file.write(b"x")


def test_other_refusals_come_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "nowhere" / "a.bin", b"x")


def test_checksums_of_bytes_and_files_agree(tmp_path: Path) -> None:
    content = bytes(range(256)) * 9000
    (tmp_path / "a.bin").write_bytes(content)
    assert checksum(content) == file_checksum(tmp_path / "a.bin")
    assert checksum(content) != checksum(content[:-1])
    assert checksum(b"").startswith("blake2b:")


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def nested_work() -> None:
    with _progress.progress("replaying", 2) as outer:
        for _ in range(2):
            with _progress.progress("targets", 3) as inner:
                inner(3)
            outer(1)


def test_progress_is_silent_off_a_terminal_and_when_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WHENCE_PROGRESS", raising=False)
    nested_work()
    assert capsys.readouterr() == ("", "")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("WHENCE_PROGRESS", "0")
    nested_work()
    assert terminal.getvalue() == ""


def test_progress_on_a_terminal_shows_each_work_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHENCE_PROGRESS", "1")
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    nested_work()
    with pytest.raises(KeyboardInterrupt), _progress.progress("auditing"):
        raise KeyboardInterrupt
    nested_work()
    assert "replaying" in terminal.getvalue()
    assert "2/2" in terminal.getvalue()
    assert _progress._shown == []


def test_an_extra_that_is_missing_is_named() -> None:
    assert require("json", "dev") is sys.modules["json"]
    with pytest.raises(MissingExtraError, match=r'needs no_such_package.*pip install "whence\[lightning\]"'):
        require("no_such_package.inner", "lightning")


def test_an_extra_that_is_there_but_broken_says_so_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_extra.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency") as caught:
        require("broken_extra", "lightning")
    assert not isinstance(caught.value, MissingExtraError)


def test_a_label_error_reads_as_its_message() -> None:
    assert str(LabelError("No example id 7.")) == "No example id 7."


@given(st.integers(-5, 5), st.integers(0, 60), st.integers(-2, 70))
def test_even_parts_are_the_fewest_that_fit_and_as_equal_as_can_be(start: int, length: int, most: int) -> None:
    whole = range(start, start + length)
    parts = even_parts(whole, most)
    assert [one for part in parts for one in part] == list(whole)
    fitting = max(1, most)
    assert all(1 <= len(part) <= fitting for part in parts)
    assert len(parts) <= math.ceil(length / fitting)
    assert len({len(part) for part in parts[:-1]}) <= 1
    if parts:
        assert len(parts[0]) == math.ceil(length / math.ceil(length / fitting))  # not one full part and a small rest
