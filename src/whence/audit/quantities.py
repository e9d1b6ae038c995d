"""What is audited of each target: its loss, a logit, a margin, a probability, or any number the caller computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whence._errors import ArgumentError, ShapeError
from whence._numbers import is_whole
from whence.runs import TrainingLoss

Numbers = Callable[[Any, Any], Any]
"""(outputs, labels) -> one differentiable number per example."""
_Entry = Callable[[Tensor, Tensor], Tensor]  # (logits, class of each example) -> one number per example


@final
@dataclass(frozen=True)
class Quantity:
    """One number per target, and how to read it.

    Attributes:
        name: ``"loss"``, ``"logit"``, ``"margin"``, ``"probability"`` or the callable's name.
        unit: What a change of 1 means.
        helps: Sign of a change for the better: -1 for a loss, +1 otherwise.
        classes: The classes audited of each example, or None for one number (its own label's).
        numbers: One function per entry of ``classes`` (one function if it is None).
    """

    name: str
    unit: str
    helps: int
    classes: tuple[int, ...] | None
    numbers: tuple[Numbers, ...]


def as_quantity(
    quantity: str | Numbers, loss: TrainingLoss, classes: Sequence[int] | Literal["all"] | None, outputs: Any
) -> Quantity:
    """Read the ``quantity`` and ``classes`` that a caller gave.

    Args:
        quantity: ``"loss"``, ``"logit"``, ``"margin"`` (log p / (1 - p) of its probability p, which is the logit minus
            the log-sum-exp of the others; TRAK, section 3), ``"probability"``, or a callable (outputs, labels) -> one
            number per example.
        loss: The run's loss.
        classes: For a logit, margin or probability: the classes to audit of each target, ``"all"``, or None for its
            label's.
        outputs: Outputs of the model on a few targets, to count the classes.

    Raises:
        ArgumentError: If the quantity is unknown, or the classes do not fit it.
    """
    if callable(quantity):
        _no_classes(classes, "a callable")
        name = getattr(quantity, "__name__", type(quantity).__name__)
        return Quantity(name, f"units of {name}", 1, None, (quantity,))
    if quantity == "loss":
        _no_classes(classes, "the loss")
        return Quantity(
            "loss", "nats of target loss" if _in_nats(loss) else "units of target loss", -1, None, (loss.per_example,)
        )
    if quantity not in _OF_CLASSES:
        raise ArgumentError(
            f"No quantity {quantity!r}. Choose 'loss', 'logit', 'margin', 'probability', or give a callable."
        )
    logits = _logits(outputs)
    values, unit = _OF_CLASSES[quantity]
    if classes is None:
        return Quantity(quantity, unit, 1, None, (_of_label(values),))
    chosen = _chosen(classes, logits.shape[1])
    return Quantity(quantity, unit, 1, chosen, tuple(_of_class(values, one) for one in chosen))


def evaluate(numbers: Numbers, outputs: Any, labels: Any, examples: int) -> Float[Tensor, " examples"]:
    """Return one number per example, checked.

    Raises:
        ShapeError: If ``numbers`` does not give exactly one number per example.
        ArgumentError: If torch refuses to compute it.
    """
    try:
        values = numbers(outputs, labels)
    except (RuntimeError, IndexError, ValueError) as error:
        raise ArgumentError(
            f"The audited quantity cannot be computed: {str(error).rstrip('.')}. Labels of targets must be such as the "
            "training data has; a loss with weights of its own has their precision: audit in that one (leave "
            "`precision` out)."
        ) from error
    if not isinstance(values, Tensor) or values.shape != (examples,):
        given = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ShapeError(
            f"The audited quantity must be one number per example, shape ({examples},); got {given}. "
            "Return a tensor with one entry per row of the outputs, without reducing over the batch."
        )
    return values


def _in_nats(loss: TrainingLoss) -> bool:
    """Whether a loss is a negative natural logarithm of a probability, by its name."""
    return any(name in loss.name for name in ("cross_entropy", "CrossEntropy", "nll_loss", "NLLLoss"))


def _no_classes(classes: object, of: str) -> None:
    if classes is not None:
        raise ArgumentError(f"`classes` chooses logits or probabilities; {of} has none. Leave `classes` out.")


def _logits(outputs: Any) -> Float[Tensor, "examples classes"]:
    logits = getattr(outputs, "logits", outputs)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ArgumentError(
            f"Logits and probabilities need outputs of shape (examples, classes); this model gives {given}. "
            "Audit a callable (outputs, labels) -> one number per example instead."
        )
    return logits


def _of_label(values: _Entry) -> Numbers:
    """Read, of each example, the entry of its own label."""

    def read(outputs: Any, labels: Any) -> Tensor:
        logits = _logits(outputs)
        if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.numel() != len(logits):
            given = (
                f"{labels.dtype} of shape {tuple(labels.shape)}"
                if isinstance(labels, Tensor)
                else type(labels).__name__
            )
            raise ArgumentError(
                f"The logit or probability of a target's own label needs one class number each; labels are {given}. "
                "Name the outputs to audit in `classes`, or audit a callable."
            )
        outside = (labels < 0) | (labels >= logits.shape[1])
        if outside.any():
            raise ArgumentError(
                f"Label {int(labels[outside][0])} is none of the {logits.shape[1]} "
                f"outputs (0..{logits.shape[1] - 1}). Name some in `classes`, or leave such targets out (`ids`)."
            )
        return values(logits, labels.reshape(-1))

    return read


def _of_class(values: _Entry, index: int) -> Numbers:
    def read(outputs: Any, _labels: Any) -> Tensor:
        logits = _logits(outputs)
        return values(logits, torch.full((len(logits),), index, device=logits.device))

    return read


def _logit(logits: Float[Tensor, "examples classes"], index: Int[Tensor, " examples"]) -> Float[Tensor, " examples"]:
    return logits.gather(1, index.reshape(-1, 1)).squeeze(1)


def _margin(logits: Float[Tensor, "examples classes"], index: Int[Tensor, " examples"]) -> Float[Tensor, " examples"]:
    _several(logits, "margin")
    own = torch.nn.functional.one_hot(index, logits.shape[1]).bool()
    return _logit(logits, index) - torch.logsumexp(logits.masked_fill(own, -torch.inf), 1)


def _probability(
    logits: Float[Tensor, "examples classes"], index: Int[Tensor, " examples"]
) -> Float[Tensor, " examples"]:
    _several(logits, "probability")
    return _logit(torch.softmax(logits, 1), index)


def _several(logits: Tensor, name: str) -> None:
    if logits.shape[1] < 2:
        raise ArgumentError(
            f"The {name} of a model with one output is not that of its softmax, which is always 1. "
            f"Audit the logit, or a callable that computes the {name}."
        )


_OF_CLASSES: dict[str, tuple[_Entry, str]] = {
    "logit": (_logit, "units of target logit"),
    "margin": (_margin, "units of target margin"),
    "probability": (_probability, "target probability"),
}


def _chosen(classes: Sequence[int] | str, count: int) -> tuple[int, ...]:
    if isinstance(classes, str):
        if classes != "all":
            raise ArgumentError(f"`classes` must be 'all' or a list of class numbers, got {classes!r}.")
        return tuple(range(count))
    if not isinstance(classes, Iterable):
        raise ArgumentError(f"`classes` must be 'all' or a list of class numbers, got {classes!r}. For one give [one].")
    classes = list(classes)
    known = [one for one in classes if is_whole(one) and 0 <= int(one) < count]
    if not known or len(known) < len(classes) or len(set(known)) < len(known):
        raise ArgumentError(
            f"`classes` must name some of the model's {count} outputs (0..{count - 1}), each once; got {list(classes)}."
        )
    return tuple(int(one) for one in classes)
