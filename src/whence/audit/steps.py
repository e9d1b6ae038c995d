"""The steps of a segment, made again forwards and handed out for the walk backwards, within a budget of memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import reduce
from typing import final

import torch
from torch import Tensor, nn

from whence.audit.adjoints import Microbatch
from whence.audit.targets import State
from whence.gradients import Captured, Dense, PerExample, capture
from whence.optimizers import LinearStep, linear_step, root_of_second_moment
from whence.runs import ReplayedStep, Run, Segment, cast_floating, pieces_of

NOISE = 256.0  # roundings of the shares' sizes below which their sum counts as nothing but rounding


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
        ids: Of the training examples, microbatch after microbatch.
    """

    index: int
    epoch: int
    parameters: State
    buffers: State
    steps: dict[str, LinearStep]
    batch: tuple[Microbatch, ...]
    noise: dict[str, Tensor]
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
    noise = without_noise(captured, used, {name: root_of_second_moment(step.optimizer, live[name]) for name in used})
    batch = [
        Microbatch({name: one.to(form.factors) for name, one in gradients.items()}, len(ids), step.scale)
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
        ids=torch.cat(list(step.record.batches)),
    )


def without_noise(
    captured: list[dict[str, PerExample]], used: Mapping[str, Tensor | None], roots: Mapping[str, Tensor | None]
) -> dict[str, Tensor]:
    """Take the shares of entries whose batch gradients are nothing but rounding away, and return those gradients.

    The gradient of a bias right before a batch normalisation is zero, whatever the batch; what is computed is rounding.
    An optimizer that divides by the gradient's size moves the bias all the same. Shares of examples, which cancel
    there, would be blown up as much: huge, and meaning nothing. Where examples cancel in one batch only, or the
    optimizer does not divide, every share stands.

    Args:
        captured: Per-example gradients of each microbatch; changed in place.
        used: The gradient that the optimizer saw, by parameter.
        roots: The size of the gradients so far that the optimizer divides by; None where it does not.
    """
    masks: dict[str, Tensor] = {}
    for name, gradient in used.items():
        terms = [one[name] for one in captured if name in one]
        root = roots[name]
        if (
            gradient is None
            or root is None
            or not all(isinstance(term, Dense) and term.values.ndim == 2 for term in terms)
        ):
            continue
        values = [term.values for term in terms if isinstance(term, Dense)]
        if not values:
            continue
        total = reduce(torch.add, [one.sum(0) for one in values])
        size = reduce(torch.add, [one.abs().sum(0) for one in values])
        least = NOISE * torch.finfo(total.dtype).eps * size
        masks[name] = (total.abs() <= least) & (root.reshape(total.shape) <= least) & (size > 0)
    found: dict[str, Tensor] = {}
    if not masks or not torch.cat(list(masks.values())).any():
        return found
    for name, noise in masks.items():
        gradient = used[name]
        if gradient is not None and noise.any():
            found[name] = torch.where(noise.reshape(gradient.shape), gradient.detach(), 0.0)
            for one in captured:
                term = one.get(name)
                if isinstance(term, Dense):
                    one[name] = Dense(term.values.masked_fill(noise, 0.0))
    return found
