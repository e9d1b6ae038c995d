"""The steps of a segment, made again forwards and handed out for the walk backwards, within a budget of memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from whence.audit.blocks import Microbatch
from whence.audit.rounding import nobodys
from whence.audit.targets import State
from whence.gradients import Captured, capture
from whence.optimizers import LinearStep, linear_step, root_of_second_moment
from whence.runs import ReplayedStep, Run, Segment, by_parameter, cast_floating, pieces_of


@final
@dataclass(frozen=True)
class Walked:
    """One step of the run, ready to be walked back: nothing in it is live any more.

    Attributes:
        index, epoch: Of the step.
        parameters: Every parameter that the run trains at some time, before the step.
        buffers: Of the model, before the step.
        steps: The optimizer's step of each parameter that it updated.
        batch: The microbatches.
        noise: Used gradients that are nothing but rounding, by parameter (other entries 0); no example has a share.
        nobodys: Which entries those are.
        ids: Of the training examples, microbatch after microbatch.
    """

    index: int
    epoch: int
    parameters: State
    buffers: State
    steps: dict[str, LinearStep]
    batch: tuple[Microbatch, ...]
    noise: dict[str, Tensor]
    nobodys: dict[str, Tensor]
    ids: Tensor


@final
@dataclass(frozen=True)
class Form:
    """In which types steps are held, and how much memory they may take.

    Attributes:
        dtype: Of parameters and optimizer steps.
        factors: Of the batch's per-example gradients.
        budget: Bytes.
    """

    dtype: torch.dtype
    factors: torch.dtype
    budget: int


def steps_of(run: Run, segment: Segment, form: Form) -> Iterator[list[Walked]]:
    """Yield the steps of a segment with per-example gradients captured, in pieces, the last first; see `pieces_of`.

    Args:
        run: The run.
        segment: The segment.
        form: In which types, and how much at once (at least one step).
    """
    yield from pieces_of(run, segment, lambda made: _freeze(run, made, form), form.budget, lambda: _Around(run))


@final
class _Around:
    """Captures every microbatch of a piece; that the shares add up to the batch gradient is checked at its first."""

    def __init__(self, run: Run) -> None:
        self._names = run.parameter_names
        self._checked = False

    def __call__(self, model: nn.Module) -> AbstractContextManager[Captured]:
        check, self._checked = not self._checked, True
        return capture(model, self._names, check=check)


def _freeze(run: Run, step: ReplayedStep, form: Form) -> Walked:
    live = dict(run.model.named_parameters())
    steps = {
        name: linear_step(step.optimizer, live[name], first=name in step.unbuffered).to(form.dtype)
        for name in step.updated
    }
    captured = [dict(one.gradients()) for one in step.seen]
    used = {name: live[name].grad for name in step.updated}
    scale = by_parameter(step.scale, step.updated)
    roots = {name: root_of_second_moment(step.optimizer, live[name]) for name in used}
    masks = nobodys(captured, used, roots, scale, _low(step))
    noise = {name: gradient * masks[name] for name, gradient in used.items() if gradient is not None and name in masks}
    factors = {**scale, **{name: scale[name] * ~mask for name, mask in masks.items()}} if masks else step.scale
    batch = [
        Microbatch({name: one.to(form.factors) for name, one in gradients.items()}, len(ids), factors)
        for gradients, ids in zip(captured, step.record.batches, strict=True)
    ]
    parameters = {
        name: step.parameters[name] if name in step.parameters else live[name].detach().clone()
        for name in run.parameter_names
    }
    return Walked(
        index=step.index,
        epoch=step.record.epoch,
        parameters=cast_floating(parameters, form.dtype),
        buffers=cast_floating(step.buffers, form.dtype),
        steps=steps,
        batch=tuple(batch),
        noise=cast_floating(noise, form.dtype),
        nobodys=masks,
        ids=torch.cat(list(step.record.batches)),
    )


def _low(step: ReplayedStep) -> torch.dtype | None:
    """Return the type that autocast computed a step in, or some of it."""
    found = next((modes.autocast for modes in step.record.modes if modes.autocast is not None), None)
    return None if found is None else getattr(torch, found)
