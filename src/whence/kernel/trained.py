"""A trained model and the data it was trained on: what attributors look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from whence._errors import ArgumentError
from whence._numbers import is_whole
from whence.datasets import Examples, as_examples
from whence.runs import Run, TrainingLoss, check_run, model_copy, training_loss


@final
@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model and its data; made by `as_trained`.

    Attributes:
        model: The model at the end of its training: a private copy, in evaluation mode.
        examples: The training data.
        loss: The loss of the training.
        run: The recorded run, or None if there is none.
    """

    model: nn.Module
    examples: Examples
    loss: TrainingLoss
    run: Run | None = None

    def recorded(self, method: str) -> Run:
        """Return the run, for a method that needs one.

        Args:
            method: What the method is called, for the message.

        Raises:
            ArgumentError: If there is no run, or one without a step.
        """
        if self.run is None:
            raise ArgumentError(
                f"{method} needs a recorded run; a trained model was given. Record the training (whence.record), open "
                "the run (whence.open_run) and give that."
            )
        if self.run.steps == 0:
            raise ArgumentError(f"{method} needs a run with steps; the one at {self.run.path} has none.")
        return self.run

    @property
    def device(self) -> torch.device:
        """Where the model is; the CPU, if it has no parameters."""
        first = next(self.model.parameters(), None)
        return torch.device("cpu") if first is None else first.device


def as_trained(source: Run | Trained | nn.Module, train_data: Any = None, *, loss: Any = None) -> Trained:
    """Read what a caller gives as the trained model.

    Args:
        source: A recorded run, taken at its end; or a trained model, with its data and loss.
        train_data: With a model: its training data, anything `as_examples` takes.
        loss: With a model: its loss, as `whence.record` takes it.

    Raises:
        ArgumentError: If data or loss is missing beside a model, or given beside a run.
        DataError: If the data is of a kind that cannot be read.
        RecordingError: If the model cannot be called with it.
        UnsupportedLossError: If the loss is not a mean or sum of one loss per example.

    Examples:
        >>> trained = as_trained(nn.Linear(2, 1), (torch.eye(2), torch.ones(2, 1)), loss=nn.MSELoss())
        >>> len(trained.examples)
        2
    """
    if isinstance(source, Run | Trained):
        if train_data is not None or loss is not None:
            raise ArgumentError("A run knows its data and its loss. Leave `train_data` and `loss` out.")
        return source if isinstance(source, Trained) else at_step(source, source.steps)
    if not isinstance(source, nn.Module):
        raise ArgumentError(f"Give a recorded run or a trained model (nn.Module); got {type(source).__name__}.")
    if train_data is None or loss is None:
        raise ArgumentError("A trained model needs its data and its loss: as_trained(model, train_data, loss=...).")
    model = model_copy(source).eval()
    examples = as_examples(train_data)
    return Trained(model, examples, training_loss(loss, model, examples))


def on_same_data(trained: Trained, others: Sequence[Run | Trained]) -> list[Trained]:
    """Return a trained model and others like it, for a mean over them.

    Raises:
        ArgumentError: If one was trained on other data, or the others are no list.
    """
    if not isinstance(others, Sequence):
        raise ArgumentError(f"The ensemble's others are a list of runs or trained models; got {type(others).__name__}.")
    models = [trained, *(as_trained(one) for one in others)]
    for number, one in enumerate(models[1:]):
        if one.examples.fingerprint != trained.examples.fingerprint:
            raise ArgumentError(
                f"Model {number} of the ensemble's others was trained on other data "
                f"({one.examples.fingerprint}, not {trained.examples.fingerprint}): scores of different examples "
                "have no mean. Give models trained on the same data."
            )
    return models


def at_step(run: Run, step: int) -> Trained:
    """Return the model as it stood before a step of its run, in evaluation mode.

    Args:
        run: The recorded run.
        step: Number of the step; ``run.steps`` is the end.

    Raises:
        ArgumentError: If it is no run, or has no such step.
    """
    check_run(run, "The state before a step")
    if not is_whole(step):
        raise ArgumentError(f"`step` is one of the run's, 0 to {run.steps} ({run.steps} is its end); got {step!r}.")
    state = run.state_at(int(step))
    return with_state(run, state.parameters, state.buffers)


def with_state(run: Run, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> Trained:
    """Return the model of a run with other parameters and buffers, in evaluation mode."""
    model = model_copy(run.model).eval()
    live = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        for name, value in (*parameters.items(), *buffers.items()):
            live[name].copy_(value)
    return Trained(model, run.examples, run.loss, run)
