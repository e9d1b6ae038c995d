"""Training examples in a list on the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import xarray as xr

from whence.report.words import label_name, signed


@final
@dataclass(frozen=True)
class Listed:
    """One training example in a list.

    Attributes:
        index: Its id in the training data.
        label: What its label is called.
        influence: With its sign.
        brief: The same with two digits, for under a small picture.
        size: Its share of the largest influence in the panel, in percent: the length of its bar.
        helped: Whether it helped.
    """

    index: int
    label: str
    influence: str
    brief: str
    size: int
    helped: bool


@final
@dataclass(frozen=True)
class Ranking:
    """A list of training examples, strongest first."""

    key: str
    title: str
    note: str
    listed: tuple[Listed, ...]


def entries(
    row: xr.DataArray, helps: int, largest: float, labels: Any, names: Sequence[str] | None
) -> tuple[Listed, ...]:
    """Return training examples as a list shows them.

    Args:
        row: Their influences or scores, dims ``("train",)``, in the order of the list.
        helps: Sign of one that helped.
        largest: The absolute value whose bar has full length.
        labels: Label of each, or None.
        names: What classes are called, if that is known.
    """
    shown = []
    for at, value in enumerate(row.values.tolist()):
        name = label_name(labels[at], names) if labels is not None else ""
        size = max(2, round(100 * abs(value) / (largest or 1.0)))
        index = int(row.coords["train"].values[at])
        shown.append(Listed(index, name, signed(value), signed(value, 2), size, value * helps > 0))
    return tuple(shown)
