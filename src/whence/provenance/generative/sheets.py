"""The picture of the figures 8 and 28 (Provenance Networks): samples beside their exemplars, and beside a control."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from PIL import Image, ImageDraw
from torch import Tensor

from whence._errors import ArgumentError, DataError
from whence.audit.chunks import labels_of
from whence.datasets import Examples, as_examples
from whence.provenance.generative.checks import whole
from whence.provenance.generative.pixels import nearest_in_pixels
from whence.provenance.indices import class_index
from whence.regions.pictures import enlarged

_GAP, _WIDE, _LINE = 6, 18, 14  # pixels between pictures, between groups, and of a line of text
_HEAD = 2 * _LINE + _GAP
_BOTH = "#c2410c"  # frame of an exemplar that is among the nearest in pixels, too
_TEXT, _QUIET = "#1f2933", "#52606d"


def exemplar_sheet(generated: xr.Dataset, data: Any, *, size: int = 64) -> Image.Image:
    """Draw each generated picture beside its exemplars, and beside as many nearest training pictures in pixels.

    Under a generated picture stand its predicted class and that class's probability, under an exemplar its id and
    probability, under a nearest picture its id and distance. An exemplar that is among the nearest has a frame in both
    groups.

    Args:
        generated: Of `generate`.
        data: The training data: anything `as_examples` takes.
        size: Length of the longer side of each picture, in pixels; at least 48, so that captions fit.

    Returns:
        A picture; its ``save("sheet.png")`` writes it.

    Raises:
        ArgumentError: If pictures have not one or three channels, the data has another number of examples or other
            labels than the network was made for, or the size is too small.
        DataError: If training pictures cannot be read, or are not from 0 to 1.
        ShapeError: If they are of another shape than the generated ones.
    """
    examples, side = as_examples(data), whole("size", size, 48)
    if len(examples) != generated.attrs.get("examples", len(examples)):
        raise ArgumentError(
            f"The exemplars are ids of {generated.attrs['examples']} training examples; this data has {len(examples)}. "
            "Give the data that the network was trained on."
        )
    if _have_other_labels(examples, generated.attrs.get("labels")):
        raise ArgumentError(
            "The exemplars are ids of training examples with other labels than this data has. Give the data that the "
            "network was trained on, in its order."
        )
    near = nearest_in_pixels(generated, examples, generated.sizes["rank"])
    named, near_ids = generated["exemplar"].values, near["train"].values
    groups = [
        _made(generated, examples, side),
        _found(examples, named, generated["score"].values, near_ids, side),
        _found(examples, near_ids, near["distance"].values, named, side),
    ]
    titles = (
        ("generated", "class, probability"),
        ("training pictures the network names", "id, probability; framed: also among the nearest"),
        ("nearest training pictures in pixels", "id, distance; framed: also named"),
    )
    return _laid_out(groups, titles)


def _have_other_labels(examples: Examples, known: str | None) -> bool:
    """Return whether examples have labels, and others than those whose checksum is known."""
    labels = labels_of(examples)
    if known is None or labels is None:
        return False
    try:
        return class_index(labels).checksum != known
    except (DataError, ArgumentError):  # they are no class numbers
        return True


class _Cell:
    """A picture with its caption, framed or not."""

    def __init__(self, image: Image.Image, caption: str, framed: bool = False) -> None:
        self.image, self.caption, self.framed = image, caption, framed


_Group = list[list[_Cell]]


def _made(generated: xr.Dataset, examples: Examples, side: int) -> _Group:
    names = examples.class_names
    rows = []
    for picture, label, sure in zip(
        *(generated[one].values for one in ("picture", "predicted", "confidence")), strict=True
    ):
        name = str(label) if names is None else names[int(label)]
        rows.append([_Cell(_drawn(torch.from_numpy(picture), side), f"{name}, {sure:.2f}")])
    return rows


def _found(examples: Examples, ids: np.ndarray, values: np.ndarray, others: np.ndarray, side: int) -> _Group:
    """Return the training pictures of a group; framed are those in the same row of the other group."""
    distinct, place = np.unique(ids, return_inverse=True)
    pictures = examples.batch(torch.from_numpy(distinct))[0]
    images = [_drawn(one, side) for one in pictures]
    where = place.reshape(ids.shape)
    return [
        [
            _Cell(
                images[where[row, rank]],
                f"{ids[row, rank]}, {_short(float(values[row, rank]))}",
                ids[row, rank] in others[row],
            )
            for rank in range(ids.shape[1])
        ]
        for row in range(len(ids))
    ]


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def _drawn(picture: Tensor, side: int) -> Image.Image:
    """Return a picture (channels, height, width) from 0 to 1 as an image.

    Raises:
        ArgumentError: If it has not one or three channels.
    """
    if picture.shape[0] not in (1, 3):
        raise ArgumentError(f"A sheet shows pictures with 1 or 3 channels; these have {picture.shape[0]}.")
    values = (picture.detach().cpu().to(torch.float64).clamp(0, 1) * 255).round().to(torch.uint8)
    return enlarged(Image.fromarray(values.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()), side)


def _laid_out(groups: list[_Group], titles: tuple[tuple[str, str], ...]) -> Image.Image:
    """Put groups of columns side by side, their titles above."""
    wide, high = groups[0][0][0].image.size
    step, row_step = wide + _GAP, high + _LINE + _GAP
    probe = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    widths = [
        max(len(group[0]) * step, *(int(probe.textlength(line)) + _GAP for line in lines))
        for group, lines in zip(groups, titles, strict=True)
    ]
    lefts = [_WIDE + sum(widths[:at]) + at * _WIDE for at in range(len(widths))]
    sheet = Image.new("RGB", (lefts[-1] + widths[-1] + _WIDE, _HEAD + _GAP + len(groups[0]) * row_step + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for group, lines, left in zip(groups, titles, lefts, strict=True):
        draw.text((left, _GAP // 2), lines[0], fill=_TEXT)
        draw.text((left, _GAP // 2 + _LINE), lines[1], fill=_QUIET)
        for row, cells in enumerate(group):
            for column, cell in enumerate(cells):
                x, y = left + column * step, _HEAD + _GAP + row * row_step
                sheet.paste(cell.image, (x, y))
                if cell.framed:
                    draw.rectangle((x - 3, y - 3, x + wide + 2, y + high + 2), outline=_BOTH, width=3)
                draw.text((x, y + high + 2), cell.caption, fill=_TEXT)
    return sheet
