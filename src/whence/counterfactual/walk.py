"""The walk back through a run with second derivatives (math of metagradients: reverse mode through the training).

Every example has a weight, 1, inside the loss of each batch that it is in, at the same divisor. The derivative of a
target's quantity at the end with respect to these weights is found by walking back from the end: the only source is
the quantity's gradient there, and each step adds what a change of its parameters does to its own gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from whence.counterfactual.curvature import Curvature
from whence.counterfactual.steps import Form, Frozen, frozen_steps
from whence.optimizers import Scaled
from whence.runs import CLIP_EPS, NormClip, Run, is_plain

_REACHED = 1e-6  # relative; by how much an entry that was clipped may miss the bound


@final
@dataclass
class Sensitivities:
    """How much every target's quantity at the end depends on where the training stands, by parameter.

    Attributes:
        parameters: On the parameters, (targets, *shape).
        buffers: On the momentum-like buffers; a parameter is absent while that is zero.
        moments: On the second moments, and on the means or maxima beside them, by name; absent while zero.
        averages: On the running averages of batch normalisation, by buffer, (targets, channels).
    """

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]
    moments: dict[str, dict[str, Tensor]]
    averages: dict[str, Tensor]


@final
@dataclass
class Walk:
    """The state of one walk, between two segments of the run.

    Attributes:
        next_segment: Number of the segment to walk next (they are walked from the last to the first; -1 = done).
        owed: Sensitivities.
        effects: Minus the derivative with respect to each training example's weight so far, (targets, train).
    """

    next_segment: int
    owed: Sensitivities
    effects: Float[Tensor, "targets train"]


def begin(run: Run, sources: Mapping[str, Tensor], dtype: torch.dtype) -> Walk:
    """Stand at the end of the run.

    Args:
        run: The run.
        sources: The quantities' gradients there, by parameter or running average, (targets, *shape).
        dtype: In which to compute.
    """
    first = next(iter(sources.values()))
    effects = torch.zeros(len(first), len(run.examples), dtype=dtype, device=first.device)
    own = {
        name: source.clone(memory_format=torch.contiguous_format) for name, source in sources.items()
    }  # the walk adds to them in place
    averages = {name: own.pop(name) for name in sources if name not in run.parameter_names}
    return Walk(len(run.segments()) - 1, Sensitivities(own, {}, {}, averages), effects)


def walk_segment(walk: Walk, run: Run, curvature: Curvature, form: Form) -> int:
    """Walk back over the next segment; return how many steps that were."""
    segment = run.segments()[walk.next_segment]
    for piece in frozen_steps(run, segment, form):
        with curvature.at_work():
            for step in reversed(piece):
                walk_step(walk, step, curvature, run)
        piece.clear()  # before the next piece is made
    walk.next_segment -= 1
    return segment.stop - segment.start


def walk_step(walk: Walk, step: Frozen, curvature: Curvature, run: Run) -> None:
    """Walk back over one step."""
    owed = walk.owed
    directions: dict[str, Scaled] = {}
    for name, one in step.steps.items():
        p = owed.parameters[name]
        moments = owed.moments.setdefault(name, {})
        for moment in one.moments:
            if moment not in moments:
                moments[moment] = torch.zeros_like(p)
        owed.parameters[name], b, directions[name] = one.transpose(p, owed.buffers.get(name), moments)
        if b is not None:
            owed.buffers[name] = b
    directions = unscaled(directions, step, run)
    if len(step.record.batches) > 1:  # what one pulls back is added to what the next must not see
        directions = {name: Scaled(one.rows.clone(), one.factor) for name, one in directions.items()}
    for number in reversed(range(len(step.record.batches))):
        by_weight = curvature.pull(step, number, directions, owed.parameters, owed.averages)
        ids = step.record.batches[number].to(walk.effects.device)
        walk.effects.index_add_(1, ids, by_weight.to(walk.effects.dtype), alpha=-1.0)


def unscaled(directions: Mapping[str, Scaled], step: Frozen, run: Run) -> dict[str, Scaled]:
    """Bring sensitivities from the gradients that the optimizer used to those of the loss, back through the clipping.

    An entry that was clipped to a bound does not depend on its gradient. A gradient g clipped to a norm B became
    B g / (‖g‖ + ε), whose derivative leaves out what lies along g.
    """
    found: dict[str, Scaled] = {}
    together: dict[NormClip, list[str]] = {}
    for name, u in directions.items():
        factor = step.scale[name]
        if isinstance(factor, Tensor):
            through = through_bound(factor, step.raw[name], run.clipping().bound).to(u.rows.dtype)
            found[name] = Scaled(u.rows * through, u.factor)
            continue
        found[name] = u.times(factor)
        count = len(step.record.batches)
        if not is_plain(factor, count) and run.clipping().clips(factor, step.loss, count):
            clip = run.clipping().norm_of(name)
            if clip is not None:
                together.setdefault(clip, []).append(name)
    for clip, names in together.items():
        scaled = {name: found[name].value() for name in names}
        through_norm = _through_norm(clip, scaled, {name: step.raw[name] for name in names})
        found |= {name: Scaled(one) for name, one in through_norm.items()}
    return found


def through_bound(factor: Tensor, raw: Tensor, bound: float) -> Tensor:
    """Return the derivative of a gradient clipped entry by entry: the factor, 0 where the bound was reached."""
    return torch.where((factor * raw).abs() >= bound * (1 - _REACHED), torch.zeros_like(factor), factor)


def _through_norm(clip: NormClip, scaled: Mapping[str, Tensor], raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take what lies along the gradient out of sensitivities that were multiplied by the clipping's factor."""
    kept = {name: one.to(scaled[name].dtype) for name, one in raw.items()}
    along = torch.stack([(scaled[name] * one).reshape(len(scaled[name]), -1).sum(1) for name, one in kept.items()]).sum(
        0
    )
    if clip.order == 2:
        norm = torch.stack([one.square().sum() for one in kept.values()]).sum().sqrt()
        slopes = {name: one / (norm * (norm + CLIP_EPS)) for name, one in kept.items()}
    else:
        norm = torch.stack([one.abs().max() for one in kept.values()]).max()
        at = {name: (one.abs() == norm).to(one.dtype) * one.sign() for name, one in kept.items()}
        ties = torch.stack([one.abs().sum() for one in at.values()]).sum()
        slopes = {name: one / (ties * (norm + CLIP_EPS)) for name, one in at.items()}
    return {name: scaled[name] - along.reshape(-1, *(1 for _ in slope.shape)) * slope for name, slope in slopes.items()}
