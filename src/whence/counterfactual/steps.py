"""What is kept of a step for the walk back with second derivatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from whence._errors import ArgumentError
from whence.optimizers import CurvedStep, curved_step
from whence.runs import (
    Around,
    RandomState,
    ReplayedStep,
    Run,
    Segment,
    StepRecord,
    by_parameter,
    cast_floating,
    is_plain,
    pieces_of,
)

State = dict[str, Tensor]


@final
@dataclass(frozen=True)
class Pass:
    """Where the model stood just before the forward pass of a microbatch, besides its parameters."""

    buffers: State
    random: RandomState


@final
@dataclass(frozen=True)
class Frozen:
    """One step of the run, ready to be walked back: nothing in it is live any more.

    Attributes:
        index: Of the step.
        record: What was recorded of it.
        parameters: Every parameter that the run trains at some time, before the step.
        steps: The optimizer's step of each parameter that it updated.
        scale: Factor from the gradient of ``loss`` to the one used, by parameter.
        raw: The gradient of ``loss``, by parameter, where it was clipped or is to be compared with.
        loss: The loss of a microbatch.
        passes: One a microbatch.
    """

    index: int
    record: StepRecord
    parameters: State
    steps: dict[str, CurvedStep]
    scale: dict[str, float | Tensor]
    raw: State
    loss: Callable[[Any, Any], Tensor]
    passes: tuple[Pass, ...]


@final
@dataclass(frozen=True)
class Form:
    """How to hold steps.

    Attributes:
        dtype: In which type.
        smoothing: Of the division by second moments; see `whence.optimizers.curved_step`.
        budget: Bytes.
    """

    dtype: torch.dtype
    smoothing: float
    budget: int


def frozen_steps(run: Run, segment: Segment, form: Form) -> Iterator[list[Frozen]]:
    """Yield the steps of a segment in pieces, the last first; see `whence.runs.pieces_of`."""
    first = False

    def begin() -> Around:
        nonlocal first
        first = True
        return looking_on

    def keep(made: ReplayedStep) -> Frozen:
        nonlocal first
        begins, first = first, False
        return freeze(run, made, form, raw=begins)

    yield from pieces_of(run, segment, keep, form.budget, begin)


@contextmanager
def looking_on(model: nn.Module) -> Iterator[Pass]:
    """Note where a model stands before a forward pass."""
    buffers = {name: one.detach().clone() for name, one in model.named_buffers()}
    yield Pass(buffers, RandomState.read(next(model.parameters()).device))


def freeze(run: Run, step: ReplayedStep, form: Form, *, raw: bool) -> Frozen:
    """Copy what the walk back needs of a step that has just been made again.

    Args:
        run: The run.
        step: The step.
        form: How to hold it.
        raw: Whether to keep every gradient, to compare with; those that were clipped are always kept.

    Raises:
        ArgumentError: If the step was computed below float32, or the loop changed buffers around it.
    """
    lower = next((modes.autocast for modes in step.record.modes if modes.autocast is not None), None)
    if lower is not None:
        raise ArgumentError(
            f"Step {step.index} was computed in {lower} by torch.autocast. Second derivatives of it would be noise: "
            "counterfactuals need a training in float32 or float64."
        )
    moved = sorted({name for one in step.record.buffers.values() for name, b in one.items() if b.is_floating_point()})
    if moved:
        raise ArgumentError(
            f"Around step {step.index} the loop changed the buffers {', '.join(moved[:4])} outside of the "
            "forward pass. Whether that depended on the parameters cannot be told, so no derivative is walked back."
        )
    live = dict(run.model.named_parameters())
    scale = by_parameter(step.scale, step.updated)
    steps, kept = {}, {}
    for name, factor in scale.items():
        parameter = live[name]
        first = name in step.unbuffered
        read = curved_step(step.optimizer, parameter, step.parameters[name], first=first, smoothing=form.smoothing)
        steps[name] = read.to(form.dtype)
        zeroed = isinstance(factor, float) and factor == 0.0
        if not zeroed and (raw or not is_plain(factor, len(step.record.batches))):
            used = parameter.grad
            assert used is not None  # of a parameter that was updated
            kept[name] = used / factor
    parameters = {
        name: step.parameters[name] if name in step.parameters else live[name].detach().clone()
        for name in run.parameter_names
    }
    return Frozen(
        index=step.index,
        record=step.record,
        parameters=cast_floating(parameters, form.dtype),
        steps=steps,
        scale=scale,
        raw=kept,
        loss=step.loss,
        passes=step.seen,
    )
