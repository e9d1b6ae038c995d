"""Adding up influences by training example or label, by layer, and by step or epoch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from whence._errors import ArgumentError

By = Literal["layer", "step", "epoch", "label"]
_KNOWN = ("layer", "step", "epoch", "label")


@final
@dataclass(frozen=True)
class Grouping:
    """The axes of the influences.

    Attributes:
        by: What the caller asked for, in order.
        train: Training examples.
        labels: Number of the label of each training example, if grouped by label.
        label_count: How many labels there are.
        layers, epochs, steps: Sizes of the axes that may be asked for.
    """

    by: tuple[str, ...]
    train: int
    labels: Int64[Tensor, " train"] | None
    label_count: int
    layers: int
    epochs: int
    steps: int

    @property
    def rows(self) -> int:
        """Length of the second axis: training examples, or labels."""
        return self.label_count if self.labels is not None else self.train

    @property
    def time(self) -> str | None:
        """The axis of time, if there is one."""
        return next((one for one in self.by if one in {"step", "epoch"}), None)

    @property
    def dims(self) -> tuple[str, ...]:
        """Names of the axes of the influences."""
        return ("target", "label" if self.labels is not None else "train", *(one for one in self.by if one != "label"))

    def shape(self, targets: int) -> tuple[int, ...]:
        """Lengths of the axes of the influences."""
        sizes = {"target": targets, "train": self.train, "label": self.label_count, "layer": self.layers}
        sizes |= {"epoch": self.epochs, "step": self.steps}
        return tuple(sizes[dim] for dim in self.dims)

    def moment(self, step: int, epoch: int) -> int:
        """Return the position along the axis of time (0 if there is none)."""
        return {"step": step, "epoch": epoch, None: 0}[self.time]

    @property
    def slab_entries(self) -> int:
        """Entries a target of the influences at one position along time."""
        return self.rows * (self.layers if "layer" in self.by else 1)


def as_by(by: str | Sequence[str]) -> tuple[str, ...]:
    """Read and check the ``by`` that a caller gave.

    Raises:
        ArgumentError: If a name is unknown or given twice, or both axes of time are asked for.
    """
    if not isinstance(by, Iterable):
        raise ArgumentError(
            f"`by` is a name or a list of {', '.join(map(repr, _KNOWN))}; got {by!r}. () sums over all."
        )
    names = (by,) if isinstance(by, str) else tuple(by)
    unknown = [one for one in names if one not in _KNOWN]
    if unknown or len(set(names)) != len(names):
        raise ArgumentError(f"`by` takes each of {', '.join(map(repr, _KNOWN))} at most once, got {names}.")
    if {"step", "epoch"} <= set(names):
        raise ArgumentError("`by` takes 'step' or 'epoch', not both: every step lies in one epoch. Ask for 'step'.")
    return names


@final
class Slab:
    """The influences on some targets at one position along time, one row a training example (or label).

    Rows are examples, so that a batch's examples are added to whole rows of memory at once.
    """

    def __init__(self, grouping: Grouping, targets: int, dtype: torch.dtype, device: torch.device) -> None:
        depth = grouping.layers if "layer" in grouping.by else 1
        self._grouping = grouping
        self.values = torch.zeros(depth, grouping.rows, targets, dtype=dtype, device=device)

    def add(self, ids: Int64[Tensor, " examples"], found: Float[Tensor, "layers targets examples"]) -> None:
        """Add what the examples of one step did."""
        if "layer" not in self._grouping.by:
            found = found.sum(0, keepdim=True)
        rows = ids if self._grouping.labels is None else self._grouping.labels[ids]
        self.values.index_add_(1, rows.to(self.values.device), found.transpose(1, 2).to(self.values.dtype))

    def by_target(self) -> Float[Tensor, "targets rows ..."]:
        """Return a view of the influences with the target first (and the layer last, if asked for)."""
        values = self.values.permute(2, 1, 0)
        return values if "layer" in self._grouping.by else values.squeeze(-1)

    def clear(self) -> None:
        """Start again from 0."""
        self.values.zero_()
