"""The labels of examples whose loss is compared: given, or the model's own answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from whence._errors import ArgumentError
from whence._numbers import even_parts
from whence.datasets import Examples, as_examples, call_model
from whence.kernel.trained import Trained
from whence.runs import to_device

_ROWS = 512  # examples that go through the model at once
_CHOICE = (
    "Give (inputs, labels), or labels='predicted' to take the class that the model itself ranks first at the end of "
    "the run."
)
_NO_CHOICE = "Give (inputs, labels): `labels` is of the targets only, the `others` bring theirs."


@final
class Answered:
    """Examples with the model's own answers in place of labels.

    Args:
        examples: Where the inputs come from.
        answers: One a whole dataset's example; those that were not asked for are -1.
    """

    def __init__(self, examples: Examples, answers: Int64[Tensor, " examples"]) -> None:
        self._examples, self.labels = examples, answers
        self.fingerprint = examples.fingerprint

    def __len__(self) -> int:
        return len(self._examples)

    def batch(self, ids: Sequence[int] | Tensor) -> tuple[Any, Tensor]:
        """Return inputs and answers of some examples; see `Examples.batch`."""
        rows = torch.as_tensor(ids if isinstance(ids, Tensor) else list(ids))
        return self._examples.batch(rows)[0], self.labels[rows]


def read_examples(data: Any, labels: str, *, of_targets: bool = True) -> Examples:
    """Read data whose labels may be missing.

    Args:
        data: The data.
        labels: Which labels are to be taken.
        of_targets: Whether the caller may choose these labels; the others of a comparison bring theirs.

    Raises:
        ArgumentError: If labels are to be the given ones and there are none, or ``labels`` is no such choice.
        DataError: If the data is of a kind that cannot be read.
    """
    if labels not in {"given", "predicted"}:
        raise ArgumentError(f"`labels` is 'given' or 'predicted'; got {labels!r}.")
    if not only_inputs(data):
        return as_examples(data)
    if labels == "given":
        raise ArgumentError(
            f"These examples ({type(data).__name__}) have inputs and no labels. What is asked for are gradients "
            "of the loss, and a loss needs a label for each example: without one there is no gradient to compare. "
            f"{_CHOICE if of_targets else _NO_CHOICE}"
        )
    if isinstance(data, Tensor | np.ndarray):
        return as_examples((data, np.zeros(len(data), dtype=np.int64)))
    return as_examples([(data[index], 0) for index in range(len(data))])


def answered(trained: Trained, examples: Examples, ids: Sequence[int]) -> Answered:
    """Return examples with the class that the model ranks first as their labels.

    Args:
        trained: The model.
        examples: Where the inputs come from.
        ids: Of which examples an answer is needed.

    Raises:
        ArgumentError: If the model's outputs are not one row of at least two classes an example.
    """
    found = torch.full((len(examples),), -1)
    for part in even_parts(range(len(ids)), _ROWS):
        rows = torch.tensor(ids[part.start : part.stop])
        outputs = outputs_of(trained, examples.batch(rows)[0])
        found[rows] = outputs.argmax(1).cpu()
    return Answered(examples, found)


def outputs_of(trained: Trained, inputs: Any) -> Tensor:
    """Return the model's logits.

    Raises:
        ArgumentError: If they are not one row of at least two classes an example.
    """
    with torch.no_grad():
        outputs = call_model(trained.model, to_device(inputs, trained.device))
    logits = getattr(outputs, "logits", outputs)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
        given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ArgumentError(
            f"The class that a model ranks first needs outputs of shape (examples, classes); this one gives {given}. "
            "Give labels that fit its loss, as labels='given'."
        )
    return logits


def only_inputs(data: Any) -> bool:
    """Whether data are inputs without labels: a tensor or array, or a dataset whose items are such."""
    if isinstance(data, Tensor | np.ndarray):
        return True
    if isinstance(data, Examples | tuple) or not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
        return False
    if isinstance(data, list) and len(data) == 2 and all(isinstance(part, Tensor | np.ndarray) for part in data):
        return False
    return len(data) > 0 and isinstance(data[0], Tensor | np.ndarray)
