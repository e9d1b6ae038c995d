"""The audit's terms of one step, by what they are linear in: the gradients of the examples at that step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from whence.audit.integral import Stretch, integrate
from whence.audit.quadrature import Rule
from whence.audit.steps import Form, Walked, steps_of
from whence.audit.targets import State, TargetGradients, TargetPass
from whence.gradients import PerExample
from whence.runs import Run, cast_floating

Standing = tuple[State, State]
"""Parameters and buffers."""


@final
class StepTerms:
    """The terms of one step, P̃[m, n] = ⟨u_n, g_m⟩ (PLGK, section 5.2, walked backwards).

    Args:
        run: The recorded run.
        step: Number of the step.
        names: The parameters that count; an optimizer's step does not mix parameters.
        rule: Quadrature of the targets' gradients along each step.
        dtype: In which to compute.
        memory_budget: Bytes that steps made again may take.
    """

    def __init__(
        self, run: Run, step: int, names: tuple[str, ...], rule: Rule, dtype: torch.dtype, memory_budget: int
    ) -> None:
        self._run, self._step, self._names, self._rule = run, step, names, rule
        self._form = Form(dtype, dtype, memory_budget)
        self._forgets = all(forgets(run, later) for later in range(step + 1, run.steps))
        self._known: Walked | None = None

    def sensitivities(self, targets: TargetPass) -> dict[str, Float[Tensor, "targets *parameter"]]:
        """Return u of some targets: what is made of an example's gradient at this step, up to the end of the run.

        The optimizer, its momentum, clipping and accumulation are in it; the loss's mean over the batch is not.
        """
        p: dict[str, Tensor] = {}  # sensitivity to each parameter's share, and to its buffer's
        b: dict[str, Tensor] = {}
        u: dict[str, Tensor] = {}
        later: TargetGradients | None = None
        for one, standing in self._backwards():
            if one.index > self._step and self._forgets:
                continue
            later = targets.gradients(*standing) if later is None else later
            stretch = Stretch(one.parameters, standing[0], one.buffers, standing[1], later)
            found = integrate(stretch, targets, self._rule, None)
            for name in (name for name in self._names if name in one.steps):
                h = _written(found.gradients.get(name), one.parameters[name], len(later.values))
                nothing = torch.zeros_like(h)
                before, b[name], u[name] = one.steps[name].transpose(p.get(name, nothing) + h, b.get(name, nothing))
                p[name] = before - h
            later = found.here
        return {name: self._of_examples(name, u[name]) for name in self._names if name in self.step.steps}

    def gradients(self, ids: Int64[Tensor, " examples"]) -> dict[str, Float[Tensor, "examples *parameter"]]:
        """Return what some examples added to this step's gradient, as training computed it."""
        found = {}
        for name in self._names:
            like, start = self.step.parameters[name], 0
            total = like.new_zeros(len(ids), like.numel())
            for batch in self.step.batch:
                among, start = self.step.ids[start : start + batch.examples], start + batch.examples
                if name in batch.gradients:
                    rows = _written(batch.gradients[name], like, batch.examples).flatten(1)
                    total += (among == ids[:, None]).to(rows) @ rows
            found[name] = total.reshape(len(ids), *like.shape)
        return found

    def nobodys(self, name: str) -> Bool[Tensor, "*parameter"] | None:
        """Say which entries of a parameter's gradient are nothing but rounding, no example's; None if none is."""
        return self.step.nobodys.get(name)

    @property
    def step(self) -> Walked:
        """The step, made again."""
        return self._known or next(one for one, _ in self._backwards() if one.index == self._step)

    def _of_examples(self, name: str, u: Tensor) -> Tensor:
        return u * self.step.batch[0].scale_of(name)  # which is 0 where the gradient is nobody's

    def _backwards(self) -> Iterator[tuple[Walked, Standing]]:
        """Yield steps and where the training stood after them, from the last that matters to the one asked for."""
        last = self._step if self._forgets else self._run.steps - 1
        device, dtype = next(self._run.model.parameters()).device, self._form.dtype
        standing: Standing | None = None
        for segment in reversed(self._run.segments()):
            if segment.start > last or segment.stop <= self._step:
                continue
            if standing is None:
                state = self._run.state_at(segment.stop)
                standing = (_cast(state.parameters, dtype, device), _cast(state.buffers, dtype, device))
            for piece in steps_of(self._run, segment, self._form):
                for one in reversed(piece):
                    if one.index == self._step:
                        self._known = one
                    if one.index >= self._step:
                        yield one, standing
                    standing = (one.parameters, one.buffers)


def forgets(run: Run, step: int) -> bool:
    """Say whether a step of the optimizer makes nothing of what it was given before: no momentum and no decay."""
    options = [group.options for group in run.record_of(step).settings]
    return not any("betas" in one or one.get("momentum") or one.get("weight_decay") for one in options)


def _cast(state: State, dtype: torch.dtype, device: torch.device) -> State:
    cast: State = cast_floating({name: one.to(device) for name, one in state.items()}, dtype)
    return cast


def _written(gradient: PerExample | None, like: Tensor, rows: int) -> Tensor:
    """Return per-example gradients of a parameter in full, first axis the rows; zeros where there is none."""
    if gradient is None:
        return like.new_zeros(rows, *like.shape)
    return gradient.part(0, gradient.shape[0]).reshape(rows, *like.shape).to(like)
