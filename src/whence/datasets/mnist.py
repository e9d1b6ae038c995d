"""MNIST from its four files (LeCun, Cortes & Burges), compressed or not."""

import gzip
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from whence._errors import ArgumentError, DataError
from whence.datasets.images import Images

_PREFIX = {"train": "train", "test": "t10k"}
_KINDS = {1: "labels-idx1-ubyte", 3: "images-idx3-ubyte"}


def load_mnist(
    folder: str | os.PathLike[str] | None = None,
    split: Literal["train", "test"] = "train",
    *,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
) -> Images:
    """Read MNIST: 28 × 28 grey images of the digits 0 to 9.

    Each is a float32 tensor (1, 28, 28), ``(brightness - mean) / std`` with brightness from 0 to 1. Training often
    takes ``mean=(0.1307,), std=(0.3081,)``, those of the training images. Pictures stay as they are in the files.

    Args:
        folder: Where ``train-images-idx3-ubyte`` and the three other files are, each with or without ``.gz``; when
            left out, the folder ``mnist`` in the folder that the environment variable ``WHENCE_DATA`` names.
        split: ``"train"`` or ``"test"``.
        mean: Taken from the brightness.
        std: By which it is then divided.

    Raises:
        ArgumentError: If the split is another word.
        DataError: If a file is missing, truncated, or not what its name says.
    """
    if split not in _PREFIX:
        raise ArgumentError(f"The splits of MNIST are 'train' and 'test'; got {split!r}.")
    place = _folder(folder)
    images = _read_idx(_find(place, f"{_PREFIX[split]}-{_KINDS[3]}"), axes=3)
    labels = _read_idx(_find(place, f"{_PREFIX[split]}-{_KINDS[1]}"), axes=1)
    if len(images) != len(labels):
        raise DataError(
            f"The MNIST files in {place} do not belong together: {len(images)} images, {len(labels)} labels."
        )
    return Images(
        torch.from_numpy(images).unsqueeze(1),
        torch.from_numpy(labels.astype(np.int64)),
        mean=mean,
        std=std,
        class_names=[str(digit) for digit in range(10)],
    )


def _folder(folder: str | os.PathLike[str] | None) -> Path:
    if folder is not None:
        return Path(folder)
    root = os.environ.get("WHENCE_DATA")
    if not root:
        raise DataError(
            "No folder for MNIST: give folder= (on the command line mnist:FOLDER, or --data-dir of demo), or set "
            "WHENCE_DATA to the folder above mnist/."
        )
    return Path(root) / "mnist"


def _find(folder: Path, name: str) -> Path:
    """Return the file called ``name``, with a dash or a dot before ``idx``, compressed or not."""
    for spelled in (name, name.replace("-idx", ".idx")):
        for suffix in ("", ".gz"):
            path = folder / (spelled + suffix)
            if path.is_file():
                return path
    there = (
        "the folder does not exist" if not folder.is_dir() else f"it has {len(list(folder.iterdir()))} other entries"
    )
    raise DataError(
        f"No {name} or {name}.gz in {folder} ({there}). Put the four MNIST files there, or name their folder "
        "with folder= (on the command line mnist:FOLDER, or --data-dir of demo)."
    )


def _read_idx(path: Path, *, axes: int) -> np.ndarray:
    """Read a file of unsigned bytes in the IDX format: 0, 0, 8, number of axes, their lengths, the values."""
    content = _bytes(path)
    start = 4 + 4 * axes
    magic = 0x0800 + axes
    found = struct.unpack(">I", content[:4])[0] if len(content) >= 4 else None
    if found != magic or len(content) < start:
        shown = "nothing" if found is None else f"0x{found:08x}"
        raise DataError(
            f"{path} is not an IDX file of bytes with {axes} axes: it begins with {shown}, not 0x{magic:08x}. "
            "Fetch the file again."
        )
    shape = struct.unpack(f">{axes}I", content[4:start])
    expected = int(np.prod(shape, dtype=np.int64))
    if len(content) - start != expected:
        raise DataError(
            f"{path} is truncated or altered: its header promises {expected} bytes {shape}, it has "
            f"{len(content) - start}. Fetch the file again."
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape).copy()


def _bytes(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is truncated or altered: {error}. Fetch the file again.") from error
