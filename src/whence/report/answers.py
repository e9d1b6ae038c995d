"""What a model answers: outputs, predicted classes and probabilities at any state of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from whence.datasets import Examples, call_model
from whence.invariants.autoencoders.layout import device_of
from whence.runs import Run, model_copy, to_device

_BATCH = 256


@final
@dataclass(frozen=True)
class Answers:
    """What the model answers on some examples.

    Attributes:
        losses: The run's loss of each example.
        labels: True class of each example, or None when the task is not classification.
        predicted: Class with the largest probability, or None likewise.
        probabilities: Of each class, or None likewise.
    """

    losses: Float[Tensor, " examples"]
    labels: Int[Tensor, " examples"] | None
    predicted: Int[Tensor, " examples"] | None
    probabilities: Float[Tensor, "examples classes"] | None

    @property
    def accuracy(self) -> float | None:
        """Share of right answers, or None when the task is not classification."""
        if self.labels is None or self.predicted is None:
            return None
        return float((self.labels == self.predicted).double().mean())


@final
class Answerer:
    """A private copy of a run's model, in evaluation mode, to be asked at any state of the run.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._model: nn.Module = model_copy(run.model).eval()
        self._places: Mapping[str, Tensor] = {
            **dict(self._model.named_parameters(remove_duplicate=False)),
            **dict(self._model.named_buffers(remove_duplicate=False)),
        }

    def at(self, step: int, examples: Examples, ids: Sequence[int]) -> Answers:
        """Return the answers after ``step`` steps of training on the examples with these ids."""
        state = self._run.state_at(step)
        with torch.no_grad():
            for name, value in (*state.parameters.items(), *state.buffers.items()):
                self._places[name].copy_(value)
            parts = [self._batch(examples, ids[start : start + _BATCH]) for start in range(0, len(ids), _BATCH)]
        losses = torch.cat([part.losses for part in parts])
        if any(part.labels is None or part.predicted is None for part in parts):
            return Answers(losses, None, None, None)
        return Answers(losses, *(torch.cat(group) for group in zip(*map(_classes, parts), strict=True)))

    def _batch(self, examples: Examples, ids: Sequence[int]) -> Answers:
        inputs, labels = to_device(examples.batch(ids), device_of(self._model))
        outputs = call_model(self._model, inputs)
        losses = self._run.loss.per_example(outputs, labels).double().cpu()
        logits = getattr(outputs, "logits", outputs)
        if not isinstance(labels, Tensor) or not _classification(logits, labels):
            return Answers(losses, None, None, None)
        probabilities = torch.softmax(logits.double(), 1)
        return Answers(losses, labels.long().cpu(), probabilities.argmax(1).cpu(), probabilities.cpu())


def _classes(answers: Answers) -> tuple[Any, Any, Any]:
    return answers.labels, answers.predicted, answers.probabilities


def _classification(logits: Any, labels: Tensor) -> bool:
    """Say whether outputs are (examples, classes) and labels are class numbers."""
    return (
        isinstance(logits, Tensor)
        and logits.ndim == 2
        and logits.shape[1] > 1
        and labels.ndim == 1
        and not labels.is_floating_point()
    )
