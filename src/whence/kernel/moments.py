"""The states of a training at which gradients are compared, and how much each counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from whence._errors import ArgumentError
from whence._numbers import is_whole
from whence.kernel.products import Scales
from whence.kernel.trained import Trained
from whence.optimizers import linear_step
from whence.runs import ReplayedStep, Run


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

    def rates(made: ReplayedStep) -> Scales:
        return {name: float(group.options["lr"]) for group in made.record.settings for name in group.names}

    return _moments(run, checkpoints, rates)


def with_preconditioners(run: Run, checkpoints: int | Sequence[int]) -> list[Moment]:
    """Return states of a run, products weighed entry by entry with what the optimizer's step makes of a gradient.

    That is the learning rate and, for optimizers that divide, one over the divisor (PLGK, section 3.2).

    Args:
        run: The run.
        checkpoints: How many, evenly spaced and the end among them; or after which steps.

    Raises:
        ArgumentError: If the run has no such states.
    """

    def response(made: ReplayedStep) -> Scales:
        live = dict(run.model.named_parameters())
        found: dict[str, Tensor] = {}
        for name in made.updated:
            step = linear_step(made.optimizer, live[name], first=name in made.unbuffered)
            ones = torch.ones_like(live[name])
            found[name] = step.transpose(ones, torch.zeros_like(ones))[2].detach().abs()
        return found

    return _moments(run, checkpoints, response)


def _moments(run: Run, checkpoints: int | Sequence[int], weigh: Callable[[ReplayedStep], Scales]) -> list[Moment]:
    steps = steps_of(run, checkpoints)
    found: list[Moment] = []
    for made in run.replay(min(steps) - 1, max(steps)):
        if made.index + 1 in steps:
            parameters = {name: one.detach().clone() for name, one in run.model.named_parameters()}
            buffers = {name: one.detach().clone() for name, one in run.model.named_buffers()}
            found.append(Moment(parameters, buffers, weigh(made)))
    return found


def steps_of(run: Run, checkpoints: int | Sequence[int]) -> tuple[int, ...]:
    """Return after which steps the states stand.

    Raises:
        ArgumentError: If there are not so many, or no such steps.
    """
    if not isinstance(checkpoints, Sequence) and is_whole(checkpoints):
        count = int(checkpoints)
        if not 1 <= count <= run.steps:
            raise ArgumentError(
                f"`checkpoints` asks for {count} states of the run, which has {run.steps} steps: give 1 to {run.steps}."
            )
        return tuple(int(one) for one in np.linspace(0, run.steps, count + 1)[1:].round())
    given = list(checkpoints) if isinstance(checkpoints, Sequence) and not isinstance(checkpoints, str) else []
    if not given or not all(is_whole(one) and 1 <= one <= run.steps for one in given) or len(set(given)) < len(given):
        raise ArgumentError(
            f"`checkpoints` is a number of states, or a list of steps after which they stand, each once: 1 to "
            f"{run.steps}, the steps of this run; got {checkpoints!r}."
        )
    return tuple(sorted(int(one) for one in given))
