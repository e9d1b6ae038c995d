"""A picture of what a network retrieves: each input beside its exemplars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from PIL import Image, ImageDraw

from whence._errors import ArgumentError, ChangedDataError
from whence.datasets import Examples, as_examples
from whence.regions.pictures import as_image, enlarged

_GAP, _WIDE, _LINE = 8, 24, 14  # pixels between pictures, behind the inputs, and of a line of text
_TEXT, _QUIET = "#1f2933", "#52606d"


def retrieval_sheet(
    found: xr.Dataset, data: Any, ids: Sequence[int], train_data: Any, *, size: int = 96
) -> Image.Image:
    """Draw each input beside its exemplars, most probable first: a row an input.

    Under an input stand its id and the predicted class, under an exemplar its id, its class and its probability. An
    exemplar is what the network names, not what caused its answer.

    Args:
        found: Of `retrieve`, for ``data``'s examples ``ids`` in this order.
        data: Where the inputs are from: anything `as_examples` takes.
        ids: Which of them.
        train_data: The training data of the network that was asked.
        size: Length of the longer side of each picture, in pixels; at least 72, so that captions fit.

    Returns:
        A picture; its ``save("sheet.png")`` writes it.

    Raises:
        ChangedDataError: If the training data is other data than the network's.
        ArgumentError: If examples are no images, there is not one id an input, or the size is too small.
    """
    inputs, known = as_examples(data), as_examples(train_data)
    if found.attrs.get("fingerprint", known.fingerprint) != known.fingerprint:
        raise ChangedDataError(
            f"The exemplars are ids of {found.attrs['fingerprint']}; this is {known.fingerprint}. Give the training "
            "data that the network was made with."
        )
    if size < 72 or len(ids) != found.sizes["query"]:
        raise ArgumentError(
            f"`size` is at least 72, and `ids` has one id for each of {found.sizes['query']} inputs; got {size} and "
            f"{len(ids)} ids."
        )
    names = known.class_names
    cell = (size + _GAP, size + 2 * _LINE + _GAP)
    width = _GAP + cell[0] * (1 + found.sizes["rank"]) + _WIDE
    sheet = Image.new("RGB", (width, _LINE + 2 * _GAP + cell[1] * len(ids)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, _GAP // 2), "input", fill=_TEXT)
    draw.text((cell[0] + _GAP + _WIDE, _GAP // 2), "training images the network names", fill=_TEXT)
    for row, one in enumerate(ids):
        top = _LINE + _GAP + row * cell[1]
        told = (f"#{one}", f"answer {class_called(int(found['predicted'][row]), names)}")
        _drawn(sheet, (_GAP, top), _picture(inputs, int(one)), told, size)
        entries = (found[name].values[row].tolist() for name in ("exemplar", "exemplar_class", "score"))
        for rank, (exemplar, label, score) in enumerate(zip(*entries, strict=True)):
            if exemplar < 0:
                continue
            left = _GAP + _WIDE + (rank + 1) * cell[0]
            told = (f"#{exemplar}, {class_called(label, names)}", f"p {math.exp(score):.3f}")
            _drawn(sheet, (left, top), _picture(known, exemplar), told, size)
    return sheet


def class_called(label: int, names: Sequence[str] | None) -> str:
    """Return what a class is called."""
    return str(names[label]) if names is not None and label < len(names) else str(label)


def _picture(examples: Examples, index: int) -> np.ndarray:
    found = examples.picture(index)
    if found is None:
        raise ArgumentError(f"Example {index} is no image, so there is nothing to draw. Ask for no picture.")
    return found


def _drawn(sheet: Image.Image, place: tuple[int, int], picture: np.ndarray, told: tuple[str, str], size: int) -> None:
    image, draw = enlarged(as_image(picture), size), ImageDraw.Draw(sheet)
    sheet.paste(image, place)
    for line, (text, colour) in enumerate(zip(told, (_TEXT, _QUIET), strict=True)):
        draw.text((place[0], place[1] + size + line * _LINE), text, fill=colour)
