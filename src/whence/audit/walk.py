"""The reverse walk: from the end of a run to its start, handing every change of the targets to the examples behind it.

For one chunk of targets (math: path-integrated loss-gradient kernels, sections 5.1-5.2 and A.2, run backwards): each
stretch of the path gives the integrated gradient h̄; each step of the stretch is pulled back through its optimizer and
multiplied with the per-example gradients of its batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from whence.audit.adjoints import Adjoints
from whence.audit.groups import Grouping, Slab
from whence.audit.integral import Integral, Limit, Stretch, integrate
from whence.audit.products import fast_products
from whence.audit.quadrature import Rule
from whence.audit.steps import Form, Walked, steps_of
from whence.audit.targets import State, TargetGradients, TargetPass
from whence.runs import Run, cast_floating


@runtime_checkable
class Sink(Protocol):
    """Where finished influences go."""

    def write(self, moment: int, values: Float[Tensor, "targets rows ..."]) -> None:
        """Keep the influences of the walk's targets at one position along time."""
        ...


@final
@dataclass(frozen=True)
class Plan:
    """How to walk.

    Attributes:
        rule: The quadrature to begin each stretch with.
        tolerance: Mean absolute error that the audit may have, or None.
        subsample: How many steps make a stretch.
        form: In which types steps are held, and how much memory they may take; ``form.dtype`` is that of the adjoints
            and of the targets' gradients.
        layers: Number of the layer of every trained parameter.
    """

    rule: Rule
    tolerance: float | None
    subsample: int
    form: Form
    layers: dict[str, int]


@final
@dataclass
class Tally:
    """What a walk adds up besides the influences, on its device; a point is the start of the run or an epoch's end.

    Attributes:
        profile: Influence summed over training examples, (targets, layers, epochs).
        course: The quantity at each point, (targets, points).
        explained: What was explained within each epoch: h̄·Δθ and the buffers' part, (targets, epochs).
        buffers: What the buffers did, (targets).
        rounding: What gradients did that were nothing but rounding, (targets).
        step_error: Mean over targets of the absolute error of each step, (steps); of a stretch at its first step.
    """

    profile: Tensor
    course: Tensor
    explained: Tensor
    buffers: Tensor
    rounding: Tensor
    step_error: Tensor

    @classmethod
    def empty(cls, targets: int, grouping: Grouping, device: torch.device) -> Tally:
        """Return a tally of zeros."""
        zeros = partial(torch.zeros, dtype=torch.float64, device=device)
        return cls(
            zeros(targets, grouping.layers, grouping.epochs),
            zeros(targets, grouping.epochs + 1),
            zeros(targets, grouping.epochs),
            zeros(targets),
            zeros(targets),
            zeros(grouping.steps),
        )

    def to(self, device: torch.device | str) -> Tally:
        """Return it on a device."""
        return Tally(**{one.name: getattr(self, one.name).to(device) for one in fields(self)})

    def fill(self, epochs: Sequence[int]) -> None:
        """Give epochs without a step the quantity's value at the next point: nothing moved in between.

        Args:
            epochs: The epoch of each step.
        """
        known = set(epochs)
        for epoch in reversed(range(self.course.shape[1] - 1)):
            if epoch not in known:
                self.course[:, epoch] = self.course[:, epoch + 1]


@final
@dataclass
class Walk:
    """The state of one walk, between two segments of the run.

    Attributes:
        next_segment: Number of the segment to walk next (they are walked from the last to the first; -1 = done).
        adjoints: Sensitivities still owed.
        slab: Influences at the current position along time.
        moment: That position.
        tally: Everything else.
        later: The targets' gradients at the state where the walk stands.
        standing: That state: parameters and buffers.
    """

    next_segment: int
    adjoints: Adjoints
    slab: Slab
    moment: int
    tally: Tally
    later: TargetGradients
    standing: tuple[State, State] = field(repr=False)


def begin(run: Run, targets: TargetPass, plan: Plan, grouping: Grouping) -> Walk:
    """Stand at the end of the run, nothing walked yet."""
    walk = stand(run, targets, plan, grouping, len(run.segments()) - 1)
    walk.tally.course[:, -1] = walk.later.values
    return walk


def stand(run: Run, targets: TargetPass, plan: Plan, grouping: Grouping, segment: int) -> Walk:
    """Stand at the end of a segment with nothing owed and nothing added up."""
    state = run.state_at(run.segments()[segment].stop)
    device = next(run.model.parameters()).device  # snapshots are read to the CPU
    parameters = {name: state.parameters[name].to(device) for name in run.parameter_names}
    buffers = {name: value.to(device) for name, value in state.buffers.items()}
    standing = (cast_floating(parameters, plan.form.dtype), cast_floating(buffers, plan.form.dtype))
    targets.place(state.parameters, state.buffers)  # also what the run never trained
    later = targets.gradients(*standing)
    count = later.values.numel()
    shapes = {name: value.shape for name, value in parameters.items()}
    adjoints = Adjoints(shapes, plan.layers, count, plan.form.dtype, device)
    moment = grouping.moment(run.steps - 1, grouping.epochs - 1)
    slab = Slab(grouping, count, plan.form.dtype, device)
    return Walk(segment, adjoints, slab, moment, Tally.empty(count, grouping, device), later, standing)


def walk_segment(walk: Walk, run: Run, targets: TargetPass, plan: Plan, grouping: Grouping, sink: Sink) -> int:
    """Walk back over the next segment; return how many steps that were."""
    segment = run.segments()[walk.next_segment]
    for piece in steps_of(run, segment, plan.form):
        for steps in reversed(list(stretches(piece, plan.subsample))):
            _walk_stretch(walk, steps, targets, plan, grouping, sink)
        del steps
        piece.clear()  # before the next piece is made, or the influences handed over
    walk.next_segment -= 1
    if walk.next_segment < 0:
        _hand_over(walk, sink)
    return segment.stop - segment.start


def _hand_over(walk: Walk, sink: Sink) -> None:
    """Give the finished influences of one position along time away."""
    sink.write(walk.moment, walk.slab.by_target())
    walk.slab.clear()


def residuals(walk: Walk, initial_buffers: State) -> Tensor:
    """Return what no example did, (targets, 4): initial parameters and optimizer state, buffers, rounding."""
    owed = walk.adjoints.owed(walk.standing[0], initial_buffers)
    return torch.stack([*owed, walk.tally.buffers, walk.tally.rounding], 1).cpu()


def stretches(steps: list[Walked], length: int) -> Iterator[list[Walked]]:
    """Cut a segment's steps into stretches of at most ``length`` that do not cross the end of an epoch."""
    current: list[Walked] = []
    for step in steps:
        if current and (len(current) == length or current[-1].epoch != step.epoch):
            yield current
            current = []
        current.append(step)
    yield current


def _walk_stretch(
    walk: Walk, steps: list[Walked], targets: TargetPass, plan: Plan, grouping: Grouping, sink: Sink
) -> None:
    first = steps[0]
    stretch = Stretch(first.parameters, walk.standing[0], first.buffers, walk.standing[1], walk.later)
    found = integrate(stretch, targets, plan.rule, _limit(walk, plan, grouping.steps, steps))
    with fast_products():
        for step in reversed(steps):
            _walk_step(walk, step, found, grouping, sink)
    _note(walk.tally, first, found)
    walk.later, walk.standing = found.here, (first.parameters, first.buffers)


def _limit(walk: Walk, plan: Plan, total: int, steps: list[Walked]) -> Limit | None:
    """Return what error the walk may have once it stands before some steps: their part of the tolerance, and those."""
    if plan.tolerance is None:
        return None
    so_far = walk.tally.course[:, -1] - walk.later.values - walk.tally.explained.sum(1)
    share = plan.tolerance / total
    return Limit(so_far, share * (total - steps[0].index), share * len(steps))


def _walk_step(walk: Walk, step: Walked, found: Integral, grouping: Grouping, sink: Sink) -> None:
    moment = grouping.moment(step.index, step.epoch)
    if moment != walk.moment:
        _hand_over(walk, sink)
        walk.moment = moment
    influences, rounding = walk.adjoints.step(step.steps, found.gradients, step.batch, step.noise)
    walk.tally.rounding += rounding
    walk.slab.add(step.ids, influences)
    walk.tally.profile[:, :, step.epoch] += influences.sum(2).T.double()


def _note(tally: Tally, first: Walked, found: Integral) -> None:
    """Add one stretch to the tally. Walking back, the last stretch noted of an epoch is the one that begins it."""
    tally.course[:, first.epoch] = found.here.values
    tally.explained[:, first.epoch] += found.explained + found.buffers
    tally.buffers += found.buffers
    tally.step_error[first.index] = found.error.abs().mean()
