"""The steps of a segment, made again forwards and handed out for the walk backwards, within a budget of memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from whence.audit.adjoints import Microbatch
from whence.audit.targets import State
from whence.gradients import Captured, PerExample, capture
from whence.optimizers import LinearStep, linear_step
from whence.runs import ReplayedStep, Run, Segment


@final
@dataclass(frozen=True)
class Walked:
    """One step of the run, ready to be walked back: nothing in it is live any more."""

    index: int
    epoch: int
    parameters: State
    buffers: State
    steps: dict[str, LinearStep]
    batch: tuple[Microbatch, ...]
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


def pieces_of(run: Run, segment: Segment, form: Form) -> Iterator[list[Walked]]:
    """Yield the steps of a segment in pieces that fit the budget, the last piece first.

    A segment that fits is replayed once. A longer one is first replayed to keep where the training stood at the
    start of each piece, and then piece by piece: one more training step a step, in bounded memory.

    Args:
        run: The run.
        segment: The segment.
        form: In which types, and how much at once (at least one step).

    Yields:
        Steps in order, with per-example gradients captured.
    """
    steps: list[Walked] = []
    for made in run.replay(segment.start, segment.stop, around=_Around(run)):
        steps.append(_freeze(run, made, form))
        if len(steps) == 1 and size(steps[0]) * (segment.stop - segment.start) > form.budget:
            break
    else:
        yield steps
        return
    yield from _bounded(run, segment, form, length=max(1, form.budget // size(steps[0])))


def _bounded(run: Run, segment: Segment, form: Form, length: int) -> Iterator[list[Walked]]:
    starts = range(segment.start, segment.stop, length)
    states = run.states_at(starts)
    for start in reversed(starts):
        made = run.replay(start, min(start + length, segment.stop), around=_Around(run), state=states.pop(start))
        yield [_freeze(run, step, form) for step in made]


@final
class _Around:
    """Captures every microbatch of a piece; that the shares add up to the batch gradient is checked at its first."""

    def __init__(self, run: Run) -> None:
        self._names = run.parameter_names
        self._checked = False

    def __call__(self, model: nn.Module) -> AbstractContextManager[Captured]:
        check, self._checked = not self._checked, True
        return capture(model, self._names, check=check)


def size(tree: Any) -> int:
    """Return how many bytes the tensors of a nest of dataclasses, mappings and tuples take."""
    if isinstance(tree, Tensor):
        return tree.numel() * tree.itemsize
    if dataclasses.is_dataclass(tree):
        return sum(size(getattr(tree, one.name)) for one in dataclasses.fields(tree))
    if isinstance(tree, Mapping):
        return sum(size(value) for value in tree.values())
    if isinstance(tree, tuple | list):
        return sum(size(value) for value in tree)
    return 0


def cast(state: State, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the floating-point entries of a state in ``dtype``, the others as they are."""
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}


def _freeze(run: Run, step: ReplayedStep, form: Form) -> Walked:
    live = dict(run.model.named_parameters())
    steps = {
        name: linear_step(step.optimizer, live[name], first=name in step.unbuffered).to(form.dtype)
        for name in step.updated
    }
    batch = []
    for captured, ids in zip(step.seen, step.record.batches, strict=True):
        gradients: dict[str, PerExample] = {name: one.to(form.factors) for name, one in captured.gradients().items()}
        batch.append(Microbatch(gradients, len(ids), step.scale))
    parameters, buffers = cast(step.parameters, form.dtype), cast(step.buffers, form.dtype)
    ids = torch.cat(list(step.record.batches))
    return Walked(step.index, step.record.epoch, parameters, buffers, steps, tuple(batch), ids)
