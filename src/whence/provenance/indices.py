"""Training examples numbered twice: over all the data, and within their class (Provenance Networks, 7.2.3)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from whence._errors import ArgumentError, DataError, LabelError, ShapeError
from whence._numbers import is_whole


@final
@dataclass(frozen=True, eq=False)
class ClassIndex:
    """The map between an example's id and its number within its class, both ways; made by `class_index`.

    Attributes:
        labels: The class of each example, (examples,).
        local: The number of each example within its class, 0 to the size of the class less 1, (examples,).
        sizes: How many examples each class has, (classes,).
    """

    labels: Int[Tensor, " examples"]
    local: Int[Tensor, " examples"]
    sizes: Int[Tensor, " classes"]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.sizes)

    @property
    def largest(self) -> int:
        """The size M of the largest class."""
        return int(self.sizes.max())

    @cached_property
    def checksum(self) -> str:
        """Of the labels, to tell whether data is another."""
        return f"{zlib.crc32(self.labels.cpu().to(torch.int64).numpy().tobytes()):08x}"

    @cached_property
    def table(self) -> Int[Tensor, "classes largest"]:
        """The id of each (class, number within the class); -1 beyond the end of a class."""
        found = torch.full((self.classes, self.largest), -1, dtype=torch.int64)
        found[self.labels, self.local] = torch.arange(len(self))
        return found

    @cached_property
    def order(self) -> Int[Tensor, " examples"]:
        """The ids, class by class."""
        return torch.argsort(self.labels, stable=True)

    @cached_property
    def valid(self) -> Bool[Tensor, "classes largest"]:
        """Which numbers within a class are some example's: the mask of the paper's equation 17."""
        return self.table >= 0

    def members(self, label: int) -> Int[Tensor, " members"]:
        """Return the ids of a class, ascending.

        Raises:
            LabelError: If there is no such class.
        """
        if not is_whole(label) or not 0 <= label < self.classes:
            raise LabelError(f"No class {label!r}: the classes are 0 to {self.classes - 1}.")
        return self.table[label, : int(self.sizes[label])]

    def check(self, labels: Int[Tensor, " some"]) -> None:
        """Refuse labels that are none of the classes.

        Raises:
            LabelError: If there is one.
        """
        wrong = labels[(labels < 0) | (labels >= self.classes)]
        if len(wrong):
            raise LabelError(f"No class {wrong[0].item()}: the classes are 0 to {self.classes - 1}.")

    def ids(self, labels: Int[Tensor, " some"], local: Int[Tensor, " some"]) -> Int[Tensor, " some"]:
        """Return the ids of examples by class and number within it (the paper's ``local_to_global``).

        Raises:
            LabelError: If there is no such class, or it has no such number.
        """
        self.check(labels)
        found = self.table[labels, local.clamp(0, self.largest - 1)]
        if bool(((found < 0) | (local < 0) | (local >= self.largest)).any()):
            raise LabelError("A number within a class is beyond its end; see ClassIndex.sizes.")
        return found


def class_index(labels: Any, *, classes: int | None = None) -> ClassIndex:
    """Number training examples within their classes, in the order of their ids.

    Args:
        labels: The class of each example, whole numbers from 0, (examples,).
        classes: How many classes there are; without, as many as the largest label says.

    Raises:
        DataError: If labels are not whole numbers along one axis, or there is none.
        ArgumentError: If a label is none of the classes.

    Examples:
        >>> index = class_index([1, 0, 1])
        >>> index.local.tolist(), index.members(1).tolist()
        ([0, 0, 1], [0, 2])
    """
    given = _as_tensor(labels).cpu()
    if (
        given.dim() != 1
        or len(given) == 0
        or given.is_complex()
        or given.is_floating_point()
        or given.dtype == torch.bool
    ):
        raise DataError(
            f"Labels must be class numbers, one an example along one axis; got {given.dtype} of shape "
            f"{tuple(given.shape)}. For other tasks give `groups`, a whole number per example."
        )
    known = given.to(torch.int64)
    many = int(known.max()) + 1 if classes is None else classes
    if not is_whole(many) or many < 1:
        raise ArgumentError(f"`classes` is a whole number, at least 1; got {classes!r}.")
    wrong = known[(known < 0) | (known >= many)]
    if len(wrong):
        raise ArgumentError(
            f"Labels must be 0 to {many - 1}, as there are {many} classes; {len(wrong)} are not, such as "
            f"{int(wrong[0])}."
        )
    order = torch.argsort(known, stable=True)
    sizes = torch.bincount(known, minlength=many)
    starts = torch.cumsum(sizes, 0) - sizes
    local = torch.empty_like(known)
    local[order] = torch.arange(len(known)) - starts[known[order]]
    return ClassIndex(known, local, sizes)


def as_classes(index: ClassIndex, given: Any, count: int) -> Int[Tensor, " inputs"]:
    """Return the classes of some inputs.

    Args:
        index: What classes there are.
        given: A class an input.
        count: How many inputs there are.

    Raises:
        DataError: If they are no numbers.
        ShapeError: If there is not one an input.
        LabelError: If one is no class.
    """
    labels = _as_tensor(given)
    if labels.shape != (count,):
        raise ShapeError(f"`labels` needs a class for each of {count} inputs; got shape {tuple(labels.shape)}.")
    index.check(labels)
    return labels.to(torch.int64)


def _as_tensor(labels: Any) -> Tensor:
    """Return labels as a tensor.

    Raises:
        DataError: If they are no numbers.
    """
    try:
        return torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:  # the last of None, or of a dict
        raise DataError(
            f"Labels must be class numbers, one an example along one axis; torch makes no tensor of them: {error}. "
            "Number the classes from 0, such as with names.index(label)."
        ) from error
