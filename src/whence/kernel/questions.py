"""Whose loss gradients are asked about, and with which labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from whence._errors import ArgumentError, DataError
from whence.audit.chunks import chosen_ids, outputs_on_one
from whence.audit.quantities import Numbers
from whence.datasets import Examples, as_examples
from whence.kernel.trained import Trained

Labels = Literal["given", "predicted"]
"""The labels that come with the examples, or the model's own answers."""


def asked(
    examples: Any, ids: Sequence[int] | None, labels: Labels, trained: Trained
) -> tuple[Examples, list[int], Numbers]:
    """Return where the examples come from, which of them are asked about, and their loss.

    Args:
        examples: Anything `as_examples` takes; with ``labels="predicted"``, inputs alone will do.
        ids: Which of them; all when left out.
        labels: With which labels.
        trained: The model.

    Raises:
        ArgumentError: If labels are missing, ids or labels are none of those there are, or the model predicts no class.
        DataError: If the data is of a kind that cannot be read.
    """
    if labels not in get_args(Labels):
        raise ArgumentError(f"`labels` is 'given' or 'predicted'; got {labels!r}.")
    found = _read(examples, labels)
    chosen = chosen_ids(ids, len(found), "example")
    if labels == "given":
        return found, chosen.tolist(), trained.loss.per_example
    logits = _logits(outputs_on_one(trained.model, found, chosen))
    if logits is None or logits.shape[1] < 2:
        raise ArgumentError(
            "Predicted labels need outputs of shape (examples, classes), at least two of them; this model gives "
            "others. Give the examples' labels, labels='given'."
        )

    def of_prediction(outputs: Any, _labels: Any) -> Tensor:
        scores = _logits(outputs)
        return trained.loss.per_example(outputs, None if scores is None else scores.detach().argmax(1))

    return found, chosen.tolist(), of_prediction


def _read(examples: Any, labels: Labels) -> Examples:
    pair = isinstance(examples, tuple | list) and len(examples) == 2 and isinstance(examples[0], Tensor)
    alone = examples[0] if pair and examples[1] is None else examples
    if not isinstance(alone, Tensor):
        try:
            return as_examples(examples)
        except DataError as error:
            raise DataError(f"{error} Of inputs without labels, give one tensor and labels='predicted'.") from error
    if labels == "given":
        raise ArgumentError(
            "Inputs were given without labels, and a coefficient is a part of the gradient of a loss, which needs one "
            "for each example. Give (inputs, labels), or labels='predicted' for the loss of the model's own answers."
        )
    return as_examples((alone, torch.zeros(len(alone), dtype=torch.int64)))


def _logits(outputs: Any) -> Tensor | None:
    """Return outputs that are scores of classes, or None."""
    logits = getattr(outputs, "logits", outputs)
    return logits if isinstance(logits, Tensor) and logits.ndim == 2 else None
