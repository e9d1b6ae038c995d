"""Make recorded steps again, one by one, on a private model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from whence._errors import ReplayError
from whence.datasets import Examples, call_model
from whence.runs.causes import mismatch
from whence.runs.loss import TrainingLoss
from whence.runs.randomness import RandomState, kept_randomness, same_convolutions
from whence.runs.reconcile import Scale, divisor, exact, reconcile
from whence.runs.settings import GroupSettings, apply_settings, new_optimizer
from whence.runs.snapshots import TrainingState, apply_state, read_state
from whence.runs.statistics import GradientStatistics, gradient_table
from whence.runs.step_record import StepRecord
from whence.runs.trees import to_device

Around = Callable[[nn.Module], AbstractContextManager[Any]]
"""Given the model, a block to enter around forward and backward of each microbatch."""

Reduction = Callable[[Any, Any], Tensor]


@final
@dataclass(frozen=True)
class ReplayedStep:
    """A step made again, just after ``optimizer.step()``.

    Attributes:
        index: Number of the step.
        record: What was recorded of it.
        parameters: The trained parameters before the step, by name: copies.
        buffers: The buffers before the step, by name: copies.
        optimizer: The optimizer, its state as after the step.
        updated: Names of the parameters that had a gradient.
        unbuffered: Names of the parameters that had no momentum buffer before the step.
        scale: The factor from the gradient of the loss (as seen by ``around``) to the one the optimizer used: clipping,
            accumulation, loss scaling. One number for all, or by parameter name a number or tensor of its shape.
        seen: What ``around`` gave, for each microbatch.
        loss: The loss of a microbatch, (outputs, labels) → 0-dim tensor, from whose gradient ``scale`` leads.
    """

    index: int
    record: StepRecord
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    optimizer: Optimizer
    updated: frozenset[str]
    unbuffered: frozenset[str]
    scale: Scale
    seen: tuple[Any, ...]
    loss: Reduction


@dataclass(frozen=True)
class _Step:
    """What forming a step's gradient starts from."""

    record: StepRecord
    trained: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    random: RandomState
    around: Around | None


@dataclass(frozen=True)
class _Formed:
    """A gradient that is the recorded one, and how it was formed."""

    scale: Scale
    seen: tuple[Any, ...]
    loss: Reduction


@final
class Walker:
    """Stand at a moment of the recorded training and make its next step.

    Args:
        model: The model to walk with; its parameters, buffers and modes change.
        optimizer: Class of the optimizer.
        examples: The training data.
        loss: The loss.
    """

    def __init__(self, model: nn.Module, optimizer: type[Optimizer], examples: Examples, loss: TrainingLoss) -> None:
        self._model = model
        self._kind = optimizer
        self._examples = examples
        self._loss = loss
        self._parameters: dict[str, Tensor] = dict(model.named_parameters())
        self._modules, self._all = list(model.modules()), list(model.parameters())
        self._buffered = [(prefix, module) for prefix, module in model.named_modules() if module._buffers]
        self._device = next(iter(self._parameters.values())).device
        self._optimizer: Optimizer | None = None
        self._random: RandomState | None = None
        self._reductions: list[Reduction] = [loss, self._summed]
        self._divisor = 1
        self._may_divide = True

    def stand(self, state: TrainingState, settings: tuple[GroupSettings, ...]) -> None:
        """Go to a state, with the parameter groups of the step that follows it."""
        self._optimizer = new_optimizer(self._kind, settings, self._parameters)
        apply_state(state, self._model, self._optimizer)
        self._random = state.random

    def state(self) -> TrainingState:
        """Return the state, referring to its live tensors.

        Raises:
            ReplayError: If the walker stands nowhere yet.
        """
        return read_state(self._model, *self._standing())

    def _standing(self) -> tuple[Optimizer, RandomState]:
        if self._optimizer is None or self._random is None:
            raise ReplayError("The walker stands nowhere; call stand() first.")
        return self._optimizer, self._random

    def step(self, record: StepRecord, around: Around | None = None) -> ReplayedStep:
        """Make a recorded step.

        Args:
            record: The step; the walker must stand just before it.
            around: Entered around forward and backward of each microbatch.

        Raises:
            ReplayError: If the gradient is not the recorded one.
        """
        optimizer, random = self._standing()
        apply_settings(optimizer, record.settings, self._parameters)
        trained = {name: self._parameters[name] for group in record.settings for name in group.names}
        before = {name: parameter.detach().clone() for name, parameter in trained.items()}
        self._set_buffers(record.buffers.get(0, {}))
        buffers = {name: buffer.detach().clone() for name, buffer in self._named_buffers()}
        unbuffered = frozenset(
            name for name, parameter in trained.items() if "momentum_buffer" not in optimizer.state.get(parameter, {})
        )
        with kept_randomness(self._device):
            formed = self._gradients(_Step(record, trained, buffers, random, around))
            self._random = RandomState.read(self._device)
        self._set_buffers(record.buffers.get(len(record.batches), {}))
        optimizer.step()
        return ReplayedStep(
            index=record.step,
            record=record,
            parameters=before,
            buffers=buffers,
            optimizer=optimizer,
            updated=record.updated,
            unbuffered=unbuffered,
            scale=formed.scale,
            seen=formed.seen,
            loss=formed.loss,
        )

    def depart(
        self,
        record: StepRecord,
        losses: Sequence[Reduction],
        change: Callable[[Mapping[str, Tensor], int], None],
    ) -> None:
        """Make a step as recorded but for its losses: a step of another training, which is not compared.

        Args:
            record: The step; the walker must stand just before it.
            losses: What each microbatch's gradient is taken of.
            change: Does to the gradients, in place, what the loop does before the optimizer sees them.
        """
        optimizer, random = self._standing()
        apply_settings(optimizer, record.settings, self._parameters)
        trained = {name: self._parameters[name] for group in record.settings for name in group.names}
        self._set_buffers(record.buffers.get(0, {}))
        with kept_randomness(self._device):
            random.restore(self._device)
            self._backward(record, losses, None)
            self._mask(record, trained)
            change(_gradients_of(trained), len(record.batches))
            self._random = RandomState.read(self._device)
        self._set_buffers(record.buffers.get(len(record.batches), {}))
        optimizer.step()

    def _gradients(self, step: _Step) -> _Formed:
        """Leave the gradients that the optimizer saw in the parameters; return what was done to them, and seen."""
        wanted = step.record.statistics
        reductions = self._reductions if len(step.record.batches) > 1 else self._reductions[:1]
        for reduction in list(reductions):
            found = self._attempt(step, reduction, self._divisor)
            if found is None:
                continue
            self._reductions.sort(key=lambda known: known is not reduction)
            whole = divisor(found.scale) if self._may_divide else 1
            if whole == 1 or exact(_gradients_of(step.trained), wanted):
                return found
            divided = self._attempt(step, reduction, whole)
            if divided is not None and exact(_gradients_of(step.trained), wanted):
                self._divisor = whole  # the loop divides the loss itself, which rounds otherwise
                return divided
            self._may_divide = False
            return self._attempt(step, reduction, 1) or found
        raise ReplayError(mismatch(step.record, self._unscaled(step), self._loss.name))

    def _attempt(self, step: _Step, reduction: Reduction, divisor: int) -> _Formed | None:
        """Form the gradient in one way; None if it is not the recorded one."""
        step.random.restore(self._device)
        self._set_buffers(step.buffers)
        loss = reduction if divisor == 1 else partial(_divided, reduction, divisor)
        seen = self._backward(step.record, [loss] * len(step.record.batches), step.around)
        self._mask(step.record, step.trained)
        scale = reconcile(_gradients_of(step.trained), step.record.statistics, len(step.record.batches))
        return None if scale is None else _Formed(scale, seen, loss)

    def _unscaled(self, step: _Step) -> GradientStatistics:
        self._attempt(step, self._reductions[0], 1)
        return gradient_table(_gradients_of(step.trained)).whole

    def _backward(self, record: StepRecord, losses: Sequence[Reduction], around: Around | None) -> tuple[Any, ...]:
        for parameter in self._parameters.values():
            parameter.grad = None
        seen = []
        for number, ids in enumerate(record.batches):
            batch = self._examples.batch(ids, epoch=record.epochs[number])
            inputs, labels = to_device(batch, self._device)
            record.modes[number].apply(self._modules, self._all)
            self._set_buffers(record.buffers.get(number, {}) if number else {})
            state = record.random[number]
            if state is not None:
                state.restore(self._device)
            with (
                torch.enable_grad(),
                same_convolutions(self._device),
                around(self._model) if around else nullcontext() as value,
            ):
                with record.modes[number].precision(self._device):
                    found = losses[number](call_model(self._model, inputs), labels)
                found.backward()
            seen.append(value)
        return tuple(seen)

    def _mask(self, record: StepRecord, trained: Mapping[str, Tensor]) -> None:
        """Give exactly the recorded parameters a gradient: zero where the loop had kept a zero one."""
        for name, parameter in trained.items():
            if name not in record.updated:
                parameter.grad = None
            elif parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def _set_buffers(self, values: Mapping[str, Tensor]) -> None:
        if not values:
            return
        with torch.no_grad():
            for name, buffer in self._named_buffers():
                if name in values:
                    buffer.copy_(values[name])

    def _named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Yield what the model's ``named_buffers`` does, going only through the modules that hold any."""
        for prefix, module in self._buffered:
            yield from module.named_buffers(prefix, recurse=False)

    def _summed(self, outputs: Any, labels: Any) -> Tensor:
        """Return the sum of the losses, for loops that divide by the number of examples of all microbatches."""
        return self._loss.per_example(outputs, labels).sum()


def divided_by(loss: Reduction) -> int:
    """Return what the loss of a replayed step is divided by before its gradient is taken, 1 for nothing."""
    return int(loss.args[1]) if isinstance(loss, partial) and loss.func is _divided else 1


def _divided(reduction: Reduction, divisor: int, outputs: Any, labels: Any) -> Tensor:
    return reduction(outputs, labels) / divisor


def _gradients_of(trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in trained.items() if parameter.grad is not None}
