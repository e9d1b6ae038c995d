"""Writing files so that a reader finds the old one or the new one, never half of one."""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from whence._errors import ArgumentError, DiskError

_REMEDIES = {
    errno.ENOSPC: "free some space, or choose a path on another disk",
    errno.EDQUOT: "the quota is used up: free some space, or choose a path on another disk",
    errno.EROFS: "the file system is read-only: choose another path",
    errno.EACCES: "permission is denied: choose a path that you may write to",
    errno.EPERM: "permission is denied: choose a path that you may write to",
    errno.ENOTDIR: "a file stands where a folder is needed: choose another path",
}
_CHUNK = 1 << 20


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write ``path`` into an error that says what to do.

    Raises:
        DiskError: If the disk is full, over quota, read-only or not writable for this user, or nothing can be made
            at the path, such as in ``/proc`` or below a file.
        OSError: As it came, if it is of another kind.
    """
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0) or _refusing_folder(error)
        if remedy is None:
            raise
        raise DiskError(f"Cannot write {path}: {error.strerror}. What was there is unchanged; {remedy}.") from error


def _refusing_folder(error: OSError) -> str | None:
    """Return what to do if a folder that is there takes no new name, as ``/proc``; None if it is another error."""
    if error.errno != errno.ENOENT or not isinstance(error.filename, str):
        return None
    folder = Path(error.filename).parent
    return f"nothing can be made in {folder}: choose another path" if folder.is_dir() else None


def make_folder(path: Path) -> None:
    """Make a folder and those above it, if they are not there.

    Raises:
        ArgumentError: If something else stands there.
        DiskError: If the disk is full or refuses to write.
    """
    try:
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise ArgumentError(f"{path} cannot be a folder: a file stands there. Choose another path.") from error


def file_place(path: str | Path, example: str) -> Path:
    """Return where a file is to be written; missing folders are made.

    Args:
        path: Where.
        example: What to call a file in there, if the path is a folder.

    Raises:
        ArgumentError: If ``path`` is a folder, or a file stands where its folder would be.
        DiskError: If its folder cannot be made.
    """
    place = Path(path)
    make_folder(place.parent)
    if place.is_dir():
        raise ArgumentError(f"{place} is a folder; give the path of a file, such as {place / example}.")
    return place


def write_atomically(path: Path, content: bytes | Callable[[Path], object]) -> None:
    """Write a file under a temporary name in its folder, sync it, and rename it over ``path``.

    Args:
        path: Where the file is to be.
        content: The bytes, or a function that writes the file at the path it is given.

    Raises:
        DiskError: If the disk is full or refuses to write; ``path`` is then as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with disk_errors(path):
            if callable(content):
                content(temporary)
            else:
                temporary.write_bytes(content)
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def checksum(content: bytes | bytearray | memoryview) -> str:
    """Return the checksum of some bytes, as ``"blake2b:..."``."""
    return f"blake2b:{hashlib.blake2b(content, digest_size=16).hexdigest()}"


def file_checksum(path: Path) -> str:
    """Return the checksum of a file's bytes, as ``"blake2b:..."``, without reading it whole into memory."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return f"blake2b:{digest.hexdigest()}"


def _sync(path: Path) -> None:
    """Make the operating system put a file, or a folder's list of names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
