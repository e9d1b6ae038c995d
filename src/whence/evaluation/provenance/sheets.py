"""Sheets of training pictures in rows and groups, as the paper's figures 3, 6, 13 and 24 have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from PIL import Image, ImageDraw

from whence._errors import ArgumentError
from whence._numbers import is_whole
from whence.datasets import Examples
from whence.regions.pictures import as_image, enlarged

_GAP, _WIDE, _LINE = 6, 18, 14  # pixels between pictures, between groups, and of a line of text
_TEXT, _QUIET = "#1f2933", "#52606d"
_LETTERS = str.maketrans({"σ": "sigma", "α": "alpha", "×": "x"})  # that Pillow's own font lacks
LEAST = 40  # side of a picture under which a caption fits


@final
@dataclass(frozen=True, eq=False)
class Cell:
    """A picture with its caption; without one, an empty place."""

    image: Image.Image | None = None
    caption: str = ""


@final
@dataclass(frozen=True, eq=False)
class Row:
    """A row's name and its cells by group."""

    name: str
    groups: Sequence[Sequence[Cell]]


def picture(examples: Examples, index: int, size: int) -> Image.Image:
    """Return an example as a picture with its longer side of a length.

    Raises:
        ArgumentError: If it is no image, or the size is too small for a caption.
    """
    side = check_size(size)
    found = examples.picture(index)
    if found is None:
        raise ArgumentError(f"A sheet shows images, and example {index} is none. Look at the numbers instead.")
    return enlarged(as_image(found), side)


def check_size(size: Any) -> int:
    """Return the length of a picture's longer side.

    Raises:
        ArgumentError: If it is no whole number, or too small for a caption.
    """
    if not is_whole(size) or size < LEAST:
        raise ArgumentError(f"`size` is a number of pixels, at least {LEAST}, so that captions fit; got {size!r}.")
    return int(size)


def sheet_of(rows: Sequence[Row], titles: Sequence[str]) -> Image.Image:
    """Draw rows of groups of pictures, the groups' titles above, each row's name at its left.

    Args:
        rows: At least one, all with as many groups as there are titles.
        titles: Of the groups.
    """
    images = [cell.image for row in rows for group in row.groups for cell in group if cell.image is not None]
    wide, high = max(one.width for one in images), max(one.height for one in images)
    captions = [cell.caption for row in rows for group in row.groups for cell in group]
    step, row_step = max([wide + _GAP, *map(_length, captions)]), high + _LINE * any(captions) + _GAP
    widths = [max([_length(title), *(len(row.groups[at]) * step for row in rows)]) for at, title in enumerate(titles)]
    first = _GAP + max(_length(row.name) for row in rows)
    lefts = [first + sum(widths[:place]) + place * _WIDE for place in range(len(widths))]
    head = _LINE + 2 * _GAP
    sheet = Image.new("RGB", (lefts[-1] + widths[-1] + _GAP, head + len(rows) * row_step + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for title, left in zip(titles, lefts, strict=True):
        draw.text((left, _GAP), title.translate(_LETTERS), fill=_TEXT)
    for place, row in enumerate(rows):
        top = head + place * row_step
        draw.text((_GAP, top + high // 2 - _LINE // 2), row.name.translate(_LETTERS), fill=_TEXT)
        for group, left in zip(row.groups, lefts, strict=True):
            for column, cell in enumerate(group):
                if cell.image is not None:
                    sheet.paste(cell.image, (left + column * step, top))
                    draw.text((left + column * step, top + high + 1), cell.caption, fill=_QUIET)
    return sheet


def class_name(examples: Examples, label: int) -> str:
    """Return what a class is called, its number where the data does not say."""
    names = examples.class_names
    return names[label] if names is not None and label < len(names) else str(label)


def _length(text: str) -> int:
    """Return how wide a line of text is, in pixels, with a gap."""
    return int(ImageDraw.Draw(Image.new("RGB", (1, 1))).textlength(text.translate(_LETTERS))) + _GAP
