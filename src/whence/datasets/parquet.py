"""Images in Parquet files, as the Hugging Face hub keeps them."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whence._errors import DataError
from whence._extras import require
from whence._progress import progress
from whence.datasets._pixels import Mode, Size, check_sizes, read_pixels
from whence.datasets.images import Images


def load_parquet(
    path: str | os.PathLike[str],
    *,
    image: str = "image",
    label: str = "label",
    mode: Mode = "RGB",
    size: Size | None = None,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    class_names: Sequence[str] | None = None,
) -> Images:
    """Read images and classes from a Parquet file into memory.

    Each example is a float32 tensor (channels, height, width), ``(brightness - mean) / std`` with brightness from 0 to
    1. Needs the extra ``parquet``.

    Args:
        path: The file, or a folder of such files.
        image: The column of images: a struct with the encoded ``bytes``, or the encoded bytes themselves.
        label: The column of classes, whole numbers.
        mode: ``"RGB"`` for three channels, ``"L"`` for grey.
        size: (height, width) to resize to; needed when the images differ in size.
        mean: Taken from the brightness, one number or one a channel.
        std: By which it is then divided.
        class_names: What each class is called; when left out, what the file's own description says.

    Raises:
        DataError: If the file is missing or not Parquet, lacks a column, or an image or label cannot be read.
    """
    table = _table(Path(path), [image, label])
    column = table.column(label)
    if not require("pyarrow.types", "parquet").is_integer(column.type) or column.null_count:
        raise DataError(f"Column {label!r} of {path} must hold a whole number in every row; it is {column.type}.")
    named = class_names or _described_names(table.schema.metadata, label)
    labels = torch.tensor(column.to_pylist(), dtype=torch.int64)
    pixels = _pixels(table.column(image), mode=mode, size=size, name=f"{path}, column {image!r}")
    return Images(pixels, labels, mean=mean, std=std, class_names=named)


def _table(path: Path, columns: list[str]) -> Any:
    """Read the columns, checked, from the file; the result is a ``pyarrow.Table``."""
    pyarrow, reader = require("pyarrow", "parquet"), require("pyarrow.parquet", "parquet")
    if not path.exists():
        raise DataError(f"There is no {path}. Name a Parquet file, or a folder of them.")
    try:
        known = reader.ParquetDataset(path).schema.names
        missing = [column for column in columns if column not in known]
        if missing:
            raise DataError(f"{path} has no column {missing[0]!r}; it has {', '.join(known)}. Give image= and label=.")
        table = reader.read_table(path, columns=columns)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is not a Parquet file that can be read: {error}") from error
    if table.num_rows == 0:
        raise DataError(f"{path} has no rows.")
    return table


def _pixels(column: Any, *, mode: Mode, size: Size | None, name: str) -> Tensor:
    """Decode a column of images into one tensor (examples, channels, height, width)."""
    images: list[Tensor] = []
    with progress("reading images", len(column)) as advance:
        for row, value in enumerate(column):
            found = value.as_py()
            content = found.get("bytes") if isinstance(found, dict) else found
            if not isinstance(content, bytes):
                raise DataError(
                    f"Row {row} of {name} holds no encoded image: a struct with bytes, or bytes, is needed."
                )
            images.append(read_pixels(content, mode=mode, size=size, name=f"Row {row} of {name}"))
            advance(1)
    check_sizes([(one.shape[1], one.shape[2]) for one in images], [f"row {row}" for row in range(len(images))])
    return torch.stack(images)


def _described_names(metadata: dict[bytes, bytes] | None, label: str) -> list[str] | None:
    """Return the class names that the hub's description in the file gives, if it does."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[label]["names"]]
    except (KeyError, TypeError, ValueError):
        return None
