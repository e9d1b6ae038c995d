"""Training examples in a list on the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final


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
