"""The states of a training at which gradients are compared, and how much each counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer

from whence._errors import ArgumentError
from whence._numbers import is_whole
from whence.kernel.products import Scales
from whence.kernel.trained import Trained, with_state
from whence.optimizers import linear_step
from whence.runs import Run, StepRecord, model_copy
from whence.runs.settings import new_optimizer, optimizer_class
from whence.runs.snapshots import apply_state


@final
@dataclass(frozen=True)
class Moment:
    """A state of the model.

    Attributes:
        parameters, buffers: By name.
        scales: What the products of each parameter's gradients are weighed with; 1 where a name is missing.
    """

    parameters: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    scales: Scales


@final
@dataclass(frozen=True)
class Stepped:
    """A step just made, of which a state's weights are read.

    Attributes:
        model: As after the step.
        optimizer: As after the step.
        record: What was recorded of it.
        unbuffered: Names of the parameters that had no momentum buffer before it.
    """

    model: nn.Module
    optimizer: Optimizer
    record: StepRecord
    unbuffered: frozenset[str]


Weigh = Callable[[Stepped], Scales]
"""Given the step that led to a state, the weights there."""


def learning_rates(made: Stepped) -> Scales:
    """Weigh each parameter with its learning rate."""
    return {name: float(group.options["lr"]) for group in made.record.settings for name in group.names}


def responses(made: Stepped) -> Scales:
    """Weigh every entry with what the step made of the gradient's: the change at once, its sign left out.

    That is the learning rate and, for optimizers that divide, one over the divisor (PLGK, section A.2.3, whose
    preconditioner leaves the rate out; where the rate is constant, that is one factor for the whole kernel). Of
    momentum it is the part that enters at once: Adam's is lr (1 - β₁) / ((1 - β₁ⁿ) (√v̂ + ε)) after n steps.
    """
    live = dict(made.model.named_parameters())
    found: dict[str, float | Tensor] = {}
    for name in made.record.updated:
        step = linear_step(made.optimizer, live[name], first=name in made.unbuffered)
        found[name] = _size_of(step.kappa * step.sigma + step.gamma)
    return found


def nothing(_made: Stepped) -> Scales:
    """Weigh all alike: products of gradients as they are."""
    return {}


def end_of(trained: Trained) -> Moment:
    """Return the trained model as it is."""
    return Moment(
        {name: one.detach() for name, one in trained.model.named_parameters()},
        {name: one.detach() for name, one in trained.model.named_buffers()},
        {},
    )


def with_learning_rates(run: Run, checkpoints: int | Sequence[int]) -> list[Moment]:
    """Return states of a run, the products of each weighed with the learning rate of the step that led there.

    Args:
        run: The run.
        checkpoints: How many, evenly spaced and the end among them; or after which steps.

    Raises:
        ArgumentError: If the run has no such states.
    """
    return list(states(run, steps_of(run, checkpoints), learning_rates))


def with_preconditioners(run: Run, checkpoints: int | Sequence[int]) -> list[Moment]:
    """Return states of a run, products weighed entry by entry with what the optimizer's step makes of a gradient.

    Args:
        run: The run.
        checkpoints: How many, evenly spaced and the end among them; or after which steps.

    Raises:
        ArgumentError: If the run has no such states.
    """
    return list(states(run, steps_of(run, checkpoints), responses))


def states(run: Run, steps: Sequence[int], weigh: Weigh) -> Iterator[Moment]:
    """Yield the states after so many steps, in order, one held at a time; see `Moment`.

    Each is weighed by the step that led there; the state before the first step, by that first step. A trained
    parameter of which ``weigh`` says nothing counts 0: the step did nothing with its gradient. Only the steps since the
    last snapshot are made again.

    Args:
        run: The run; another walk over it must not begin meanwhile.
        steps: After how many steps, in order, between 0 and ``run.steps``.
        weigh: How.

    Raises:
        ReplayError: If the run does not replay.
        SnapshotError: If a snapshot needed is truncated, altered or missing.
    """
    for first, wanted in _by_snapshot(run, steps):
        if first in wanted:
            yield _at_snapshot(run, first, weigh)
        for made in run.replay(first, max(wanted)):
            if made.index + 1 in wanted:
                yield _moment(run, Stepped(run.model, made.optimizer, made.record, made.unbuffered), weigh)


def steps_of(
    run: Run, checkpoints: int | Sequence[int], *, name: str = "checkpoints", least: int = 1
) -> tuple[int, ...]:
    """Return after which steps the states stand.

    Args:
        run: The run.
        checkpoints: How many, evenly spaced and the end among them; or after which steps.
        name: What the argument is called, for the message.
        least: The first step after which a listed state may stand; 0 is the start of the training.

    Raises:
        ArgumentError: If there are not so many, or no such steps.
    """
    if not isinstance(checkpoints, Sequence) and is_whole(checkpoints):
        count = int(checkpoints)
        if not 1 <= count <= run.steps:
            raise ArgumentError(
                f"`{name}` asks for {count} states of the run, which has {run.steps} steps: give 1 to {run.steps}."
            )
        return tuple(int(one) for one in np.linspace(0, run.steps, count + 1)[1:].round())
    given = list(checkpoints) if isinstance(checkpoints, Sequence) and not isinstance(checkpoints, str) else []
    inside = all(is_whole(one) and least <= one <= run.steps for one in given)
    if not given or not inside or len(set(given)) < len(given):
        raise ArgumentError(
            f"`{name}` is a number of states, or a list of steps after which they stand, each once: {least} to "
            f"{run.steps}, the steps of this run; got {checkpoints!r}."
        )
    return tuple(sorted(int(one) for one in given))


def ends_of_epochs(run: Run) -> tuple[int, ...]:
    """Return after which steps the epochs of a run end."""
    epochs = run.epoch_of_steps()
    return tuple(int(one) + 1 for one in np.flatnonzero(np.append(epochs[1:] != epochs[:-1], True)))


def trained_at(run: Run, steps: Sequence[int]) -> Iterator[Trained]:
    """Yield the model after so many steps, in order, in evaluation mode: one walk over the run for all of them.

    Args:
        run: The run; another walk over it must not begin meanwhile.
        steps: After how many steps, in order, between 0 and ``run.steps``.

    Raises:
        ReplayError: If the run does not replay.
        SnapshotError: If a snapshot needed is truncated, altered or missing.
    """
    for moment in states(run, steps, nothing):
        yield with_state(run, moment.parameters, moment.buffers)


def _by_snapshot(run: Run, steps: Sequence[int]) -> list[tuple[int, set[int]]]:
    """Part the steps by the snapshot that each is reached from; the state before the first step is one by itself."""
    kept = sorted({0, *run.snapshots.steps()})
    parts: dict[int, set[int]] = {}
    for step in steps:
        parts.setdefault(max(one for one in kept if one <= step), set()).add(step)
    return sorted(parts.items())


def _at_snapshot(run: Run, step: int, weigh: Weigh) -> Moment:
    """Return the state at a snapshot, where no step need be made again; before the first step, that step is made."""
    record = run.record_of(max(step - 1, 0))
    model = model_copy(run.model)
    live = dict(model.named_parameters())
    optimizer = new_optimizer(optimizer_class(run.manifest.optimizer), record.settings, live)
    apply_state(run.training_state_at(max(step, 1)), model, optimizer)
    weights = _complete(run, weigh(Stepped(model, optimizer, record, _unbuffered(run, record))))
    state = run.state_at(step)
    return Moment(state.parameters, state.buffers, weights)


def _unbuffered(run: Run, record: StepRecord) -> frozenset[str]:
    """Return which parameters had no momentum buffer before a step; none of them where it makes no difference."""
    if not any(group.options.get("dampening") for group in record.settings):
        return frozenset()
    before = run.training_state_at(record.step).optimizer
    return frozenset(name for name in run.parameter_names if "momentum_buffer" not in before.get(name, {}))


def _moment(run: Run, made: Stepped, weigh: Weigh) -> Moment:
    parameters = {name: one.detach().clone() for name, one in made.model.named_parameters()}
    buffers = {name: one.detach().clone() for name, one in made.model.named_buffers()}
    return Moment(parameters, buffers, _complete(run, weigh(made)))


def _size_of(weight: float | Tensor) -> float | Tensor:
    return weight.abs() if isinstance(weight, Tensor) else abs(weight)


def _complete(run: Run, weights: Scales) -> Scales:
    """Give the trained parameters that are not named the weight 0; where none is named, all keep 1."""
    return {**dict.fromkeys(run.parameter_names, 0.0), **weights} if weights else weights
