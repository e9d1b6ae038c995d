"""What the generative network's functions ask of numbers, pictures and labels, with the words when it is not so."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from whence._errors import ArgumentError, ChangedDataError, DataError, ShapeError
from whence._numbers import is_number, is_whole
from whence.datasets import Examples
from whence.provenance.indices import ClassIndex, class_index

Shape = tuple[int, int, int]
"""Of a picture: channels, height, width."""


def whole(name: str, given: Any, least: int) -> int:
    """Return a whole number that a caller gave.

    Raises:
        ArgumentError: If it is none, or below the least.
    """
    if not is_whole(given) or given < least:
        raise ArgumentError(f"`{name}` is a whole number, at least {least}; got {given!r}.")
    return int(given)


def positive(name: str, given: Any) -> float:
    """Return a positive number that a caller gave.

    Raises:
        ArgumentError: If it is none.
    """
    if not is_number(given) or given <= 0:
        raise ArgumentError(f"`{name}` is a number above 0; got {given!r}.")
    return float(given)


def as_weights(given: Any) -> tuple[float, float]:
    """Return the two weights of the loss.

    Raises:
        ArgumentError: If they are not two numbers, none of them negative.
    """
    if not hasattr(given, "__len__") or len(given) != 2 or not all(is_number(one) and one >= 0 for one in given):
        raise ArgumentError(
            f"`weights` are two numbers from 0, (lambda_gen, lambda_cls), such as (0.6, 0.4); got {given!r}."
        )
    return float(given[0]), float(given[1])


def as_shape(given: Any) -> Shape:
    """Return the shape of a picture.

    Raises:
        ArgumentError: If it is not three whole numbers, at least 1.
    """
    if not hasattr(given, "__len__") or len(given) != 3 or not all(is_whole(one) and one >= 1 for one in given):
        raise ArgumentError(f"`shape` is (channels, height, width) of a picture, such as (1, 28, 28); got {given!r}.")
    channels, height, width = (int(one) for one in given)
    return channels, height, width


def check_kind(given: object, kind: type, what: str) -> None:
    """Refuse what is of another kind.

    Raises:
        ArgumentError: If it is.
    """
    if not isinstance(given, kind):
        raise ArgumentError(f"{what} takes a {kind.__name__}; got {type(given).__name__}.")


def check_full(index: ClassIndex) -> None:
    """Check that each class has an example.

    Raises:
        ArgumentError: If one has none: there is nothing that its head could name; or this is no index.
    """
    if not isinstance(index, ClassIndex):
        raise ArgumentError(f"`index` is a ClassIndex, such as class_index(labels); got {type(index).__name__}.")
    if empty := (index.sizes == 0).nonzero().flatten().tolist():
        raise ArgumentError(
            f"Each class needs an example that its head can name; {len(empty)} of {index.classes} have none, such as "
            f"class {empty[0]}. Number the classes without gaps."
        )


def check_labels(examples: Examples, index: ClassIndex) -> None:
    """Check that data has the labels that a network's heads were made for.

    Raises:
        ArgumentError: If a label is none of the classes, or the data has other examples.
        DataError: If labels are not one whole number an example.
    """
    found = class_index(examples.labels, classes=index.classes)
    if not torch.equal(found.labels, index.labels):
        differ = len(found) if len(found) != len(index) else int((found.labels != index.labels).sum())
        said = f"{len(found)} examples" if len(found) != len(index) else f"{differ} labels that differ"
        raise ArgumentError(
            f"The network names the {len(index)} examples of its ClassIndex; this data has {said}. Make the network "
            "of this data: class_index(as_examples(data).labels)."
        )


def check_pictures(inputs: Any, shape: Shape, ids: Tensor) -> Tensor:
    """Return a batch of pictures, after a look at it.

    Args:
        inputs: The batch.
        shape: What one is to be like.
        ids: Which examples they are, for the message.

    Raises:
        DataError: If they are no tensor, or a value is outside 0 to 1.
        ShapeError: If a picture is of another shape.
    """
    if not isinstance(inputs, Tensor):
        raise DataError(f"An input must be one tensor (channels, height, width); it is a {type(inputs).__name__}.")
    if tuple(inputs.shape[1:]) != shape:
        raise ShapeError(
            f"Pictures of shape {tuple(inputs.shape[1:])} do not fit the network, which was made for {shape} "
            "(channels, height, width). Resize them, or make the network with their shape."
        )
    each = inputs.flatten(1)
    wrong = ~((each >= 0) & (each <= 1)).all(1).cpu()  # also of what is no number
    if bool(wrong.any()):
        first = int(wrong.nonzero()[0])
        low, high = (float(one) for one in each[first].aminmax())
        raise DataError(
            f"Pixels must be from 0 to 1, as the loss takes them for probabilities; example {int(ids[first])} has "
            f"{low:g} to {high:g}. Divide bytes by 255, and leave normalisation by mean and deviation out."
        )
    return inputs


def check_fingerprint(kept: str, given: str, where: Any) -> None:
    """Check that data is what a training was begun with.

    Raises:
        ChangedDataError: If it is other data.
    """
    if kept != given:
        raise ChangedDataError(
            f"The training at {where} was begun with other data ({kept}) than this ({given}). Give the same data, or "
            "another path."
        )
