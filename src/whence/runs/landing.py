"""How closely a walk from one snapshot arrives at the next."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from whence._errors import ReplayError
from whence.runs.causes import missed_landing
from whence.runs.snapshots import TrainingState

TOLERANCE = 1e-3
"""Of the way between two snapshots. On the machine that trained, a plain loop is walked again bit by bit; other kernels
round otherwise, which training amplifies. A walk that misses by less changes an influence by less than that share."""


@final
@dataclass(frozen=True)
class Landing:
    """A walk's end beside the snapshot there.

    Attributes:
        exact: Whether all parameters and buffers are equal bit by bit.
        deviation: Distance between the two, divided by the distance between the two snapshots; where training moved
            less than rounding does, by that.
    """

    exact: bool
    deviation: float


def measure(found: TrainingState, wanted: TrainingState, start: TrainingState, steps: int) -> Landing:
    """Compare a walk's end with a snapshot.

    Args:
        found: Where the walk ended.
        wanted: The snapshot there.
        start: The snapshot from which it came.
        steps: How many steps it made.
    """
    pairs = [(_floats(found.parameters), _floats(wanted.parameters), _floats(start.parameters))]
    pairs += [(_floats(found.buffers), _floats(wanted.buffers), _floats(start.buffers))]
    if _equal(found.parameters, wanted.parameters) and _equal(found.buffers, wanted.buffers):
        return Landing(exact=True, deviation=0.0)
    return Landing(exact=False, deviation=max(_deviation(*pair, steps) for pair in pairs))


def check_landing(landing: Landing, start: int, stop: int, touched: dict[int, tuple[str, ...]]) -> None:
    """Check that a walk arrived.

    Raises:
        ReplayError: If not.
    """
    if not landing.deviation <= TOLERANCE:  # also when it is not a number
        raise ReplayError(missed_landing(start, stop, landing.deviation, TOLERANCE, touched))


def _deviation(found: list[Tensor], wanted: list[Tensor], start: list[Tensor], steps: int) -> float:
    missed = _norm(a.to(b.device) - b for a, b in zip(found, wanted, strict=True))
    moved = _norm(a - b for a, b in zip(wanted, start, strict=True))
    rounding = max((torch.finfo(value.dtype).eps for value in wanted), default=0.0) * steps * _norm(wanted)
    scale = max(moved, rounding / TOLERANCE)
    return missed / scale if scale else missed


def _floats(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    return [tensors[name].detach() for name in sorted(tensors) if tensors[name].is_floating_point()]


def _norm(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(sum(float(value.double().square().sum()) for value in tensors))


def _equal(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(found[name].detach().cpu(), wanted[name].cpu()) for name in wanted)
