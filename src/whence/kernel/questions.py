"""Whose loss gradients are asked about, and with which labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from whence.audit.chunks import chosen_ids
from whence.datasets import Examples
from whence.kernel.answers import Answered, answered, read_examples
from whence.kernel.trained import Trained

Labels = Literal["given", "predicted"]
"""The labels that come with the examples, or the model's own answers."""


def asked(
    examples: Any, ids: Sequence[int] | None, labels: Labels, trained: Trained
) -> tuple[Examples | Answered, list[int]]:
    """Return where the examples come from, and which of them are asked about.

    Args:
        examples: Anything `as_examples` takes; with ``labels="predicted"``, inputs alone will do.
        ids: Which of them; all when left out.
        labels: With which labels.
        trained: The model.

    Raises:
        ArgumentError: If labels are missing, ids or labels are none of those there are, or the model predicts no class.
        DataError: If the data is of a kind that cannot be read.
    """
    pair = isinstance(examples, tuple | list) and len(examples) == 2 and isinstance(examples[0], Tensor)
    found = read_examples(examples[0] if pair and examples[1] is None else examples, labels)
    chosen = chosen_ids(ids, len(found), "example").tolist()
    return (found if labels == "given" else answered(trained, found, chosen)), chosen
