"""What a provenance network says of one target, as the page shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class Exemplar:
    """One training image beside a target.

    Attributes:
        index: Id of the training example.
        label: What its class is called.
        said: Its probability, or its distance.
    """

    index: int
    label: str
    said: str


@final
@dataclass(frozen=True)
class Traced:
    """What the network says of one target.

    Attributes:
        answer: What it answers, and how surely.
        exemplars: What it takes the target for, most probable first.
        nearest: The nearest training images in pixels.
        shared: How many are in both, in words.
    """

    answer: str
    exemplars: tuple[Exemplar, ...]
    nearest: tuple[Exemplar, ...]
    shared: str
