"""Training images with the regions that mattered for a target, as the page shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class Mapped:
    """One training image for one target.

    Attributes:
        index: Id of the training example.
        label: What its label is called.
        helped: Whether it helped.
        picture: The image with its region map, as a data URI.
        control: The image with its own saliency, which never saw the target, as a data URI.
    """

    index: int
    label: str
    helped: bool
    picture: str
    control: str
