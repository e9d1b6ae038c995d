"""The integral of the targets' gradients along a stretch of the path, with the error it is known to have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from whence.audit.quadrature import Rule, refined
from whence.audit.targets import State, TargetGradients
from whence.gradients import PerExample, weighted_sum

_LEVELS = 6  # Simpson on up to 64 parts of a step
_ROUNDING = 2.0  # roundings of the quantity by which an error is known no better


@runtime_checkable
class Evaluates(Protocol):
    """What gives the audited quantity and its gradients at a state; `TargetPass` does."""

    dtype: torch.dtype

    def gradients(self, parameters: State, buffers: State) -> TargetGradients:
        """Return the quantity and its per-target gradients."""
        ...

    def values(self, parameters: State, buffers: State) -> Float[Tensor, " targets"]:
        """Return the quantity alone."""
        ...


@final
@dataclass(frozen=True)
class Stretch:
    """The straight way from one state of the parameters to another, with what is known at its end.

    Attributes:
        start, stop: Trained parameters at both ends.
        start_buffers, stop_buffers: Buffers at both ends. The gradient is integrated with those of the start; what the
            change of the buffers does at the end is a residual of its own.
        later: The targets' gradients at the end, with the buffers of the end.
    """

    start: State
    stop: State
    start_buffers: State
    stop_buffers: State
    later: TargetGradients

    @property
    def buffers_moved(self) -> bool:
        """Whether any buffer differs between the ends."""
        return any(not torch.equal(value, self.stop_buffers[name]) for name, value in self.start_buffers.items())


@final
@dataclass(frozen=True)
class Integral:
    """What a rule makes of a stretch.

    Attributes:
        here: The targets' gradients at the start of the stretch.
        gradients: The integrated gradients h̄, one entry a parameter.
        explained: h̄ · Δθ per target.
        error: What the quantity changed by along the stretch, minus ``explained``; exact but for rounding.
        buffers: What the change of the buffers at the end did to the quantity.
        rule: The rule that was used at last.
    """

    here: TargetGradients
    gradients: dict[str, PerExample]
    explained: Float[Tensor, " targets"]
    error: Float[Tensor, " targets"]
    buffers: Float[Tensor, " targets"]
    rule: Rule


@final
@dataclass(frozen=True)
class Limit:
    """What error a walk may have after its next stretch.

    Attributes:
        so_far: The error of all stretches walked so far, one number a target, with its sign. It is the true change of
            the quantity minus all that was explained: known to the rounding of two values, however many stretches.
        allowed: Mean absolute error that it may have after this one.
        share: The stretch's own part of that.
    """

    so_far: Float[Tensor, " targets"]
    allowed: float
    share: float

    def after(self, found: Integral) -> float:
        """Return the mean absolute error there will be."""
        return float((self.so_far + found.error).abs().mean())


def integrate(stretch: Stretch, targets: Evaluates, rule: Rule, limit: Limit | None) -> Integral:
    """Integrate the targets' gradients along a stretch.

    Args:
        stretch: The stretch.
        targets: Evaluates the targets.
        rule: The rule to begin with.
        limit: Where the error would pass it, the stretch is refined by Simpson's rule on ever smaller parts, until it
            does not, or until two rules in turn agree within the stretch's share or rounding. None: as it is.
    """
    points = _Points(stretch, targets)
    found = _apply(points, rule)
    if limit is None:
        return found
    eps = _ROUNDING * torch.finfo(points.dtype).eps
    allowed = max(limit.allowed, eps * float((1.0 + found.here.values.abs()).mean()))
    last = found
    for level in range(_LEVELS):
        if limit.after(found) <= allowed:
            break
        finer = _apply(points, refined(level))
        if limit.after(finer) < limit.after(found):
            found = finer
        moved = float((finer.explained - last.explained).abs().mean())
        if moved <= max(limit.share, eps * float(finer.explained.abs().mean())):
            break
        last = finer
    return found


@final
class _Points:
    """The targets at points along one stretch, each computed at most once."""

    def __init__(self, stretch: Stretch, targets: Evaluates) -> None:
        self._stretch, self._targets = stretch, targets
        self.change = {name: stretch.stop[name] - value for name, value in stretch.start.items()}
        self.dtype = targets.dtype
        self._known: dict[float, TargetGradients] = {0.0: targets.gradients(stretch.start, stretch.start_buffers)}
        self._moved = stretch.buffers_moved
        if not self._moved:
            self._known[1.0] = stretch.later

    def at(self, point: float) -> TargetGradients:
        """Return the targets' gradients at a point in [0, 1], with the buffers of the start."""
        if point not in self._known:
            self._known[point] = self._targets.gradients(self._state(point), self._stretch.start_buffers)
        return self._known[point]

    def ends(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the quantity at the start, at the end with the start's buffers, and at the end with the end's."""
        later = self._stretch.later.values
        if 1.0 in self._known:
            return self._known[0.0].values, self._known[1.0].values, later
        return self._known[0.0].values, self._targets.values(self._stretch.stop, self._stretch.start_buffers), later

    def _state(self, point: float) -> State:
        if point == 1.0:
            return self._stretch.stop
        return {name: value + point * self.change[name] for name, value in self._stretch.start.items()}


def _apply(points: _Points, rule: Rule) -> Integral:
    nodes = [(weight, points.at(point)) for point, weight in zip(rule.points, rule.weights, strict=True)]
    names = {name for _, node in nodes for name in node.gradients}
    gradients = {
        name: weighted_sum([(weight, node.gradients[name]) for weight, node in nodes if name in node.gradients])
        for name in names
    }
    start, end, later = points.ends()
    explained = sum((weight * node.along(points.change) for weight, node in nodes), torch.zeros_like(start))
    return Integral(points.at(0.0), gradients, explained, end - start - explained, later - end, rule)
