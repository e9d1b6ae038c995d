"""What a training loop did to its gradients, as a rule for gradients that were not recorded.

`reconcile` finds by which factor a recorded gradient differs from the one computed again. What a loop would have done
to another gradient takes more: whether that factor is a constant of the loop or came from a bound on the gradient's
norm or on its entries. The factors of a whole run tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from whence._errors import ReplayError
from whence.runs.reconcile import Scale
from whence.runs.walker import Reduction, ReplayedStep

_SAME = 1e-4  # relative; factors and bounds found again agree far better, other ones far worse
_PLAIN = 1e-6  # relative; a bound that is just reached makes a factor hardly below 1, and has a derivative all the same
CLIP_EPS = 1e-6  # torch.nn.utils.clip_grad_norm_ adds it to the norm


@final
@dataclass(frozen=True)
class NormClip:
    """A bound on the norm of the gradients of some parameters together.

    Attributes:
        names: The parameters.
        order: Of the norm: 2 or infinity.
        bound: The largest norm that is let through.
    """

    names: frozenset[str]
    order: float
    bound: float


@final
@dataclass(frozen=True)
class Clipping:
    """What a loop does to the gradient of its loss before the optimizer sees it.

    Attributes:
        losses: The loss of a microbatch from whose gradient this leads, by the number of microbatches.
        constants: A factor that depends on nothing but the number of microbatches, by that number; 1 where not listed.
        norms: Bounds on norms.
        bound: Bound on the size of every entry, infinite if there is none.
    """

    losses: Mapping[int, Reduction] = field(default_factory=dict)
    constants: Mapping[int, float] = field(default_factory=dict)
    norms: tuple[NormClip, ...] = ()
    bound: float = math.inf

    def apply(self, gradients: Mapping[str, Tensor], microbatches: int) -> None:
        """Do to gradients, in place, what the loop would have done."""
        factor = self.constants.get(microbatches, 1.0)
        for gradient in gradients.values():
            if factor != 1.0:
                gradient.mul_(factor)
            if self.bound < math.inf:
                gradient.clamp_(-self.bound, self.bound)
        for clip in self.norms:
            members = [gradient for name, gradient in gradients.items() if name in clip.names]
            if members:
                norm = torch.linalg.vector_norm(
                    torch.stack([torch.linalg.vector_norm(one, clip.order) for one in members]), clip.order
                )
                coefficient = torch.clamp(clip.bound / (norm + CLIP_EPS), max=1.0)
                for one in members:
                    one.mul_(coefficient)

    def norm_of(self, name: str) -> NormClip | None:
        """Return the bound on norms that a parameter falls under, None if there is none."""
        return next((clip for clip in self.norms if name in clip.names), None)


@dataclass(frozen=True)
class _Scaled:
    """A factor that some parameters of a step had, norm and largest entry of their gradient before it."""

    factor: float
    norm: float
    largest: float
    microbatches: int


def by_parameter(scale: Scale, names: Iterable[str]) -> dict[str, float | Tensor]:
    """Return a step's factors from computed to used gradient, one a parameter."""
    return {name: scale if isinstance(scale, float) else scale.get(name, 1.0) for name in sorted(names)}


def is_plain(factor: float | Tensor, microbatches: int) -> bool:
    """Return whether a factor is one that every loop may have: none, or the mean over microbatches."""
    usual = (0.0, 1.0, 1.0 / microbatches)
    return isinstance(factor, float) and any(abs(factor - plain) <= _PLAIN * plain for plain in usual)


def find_clipping(replay: Callable[[], Iterable[ReplayedStep]], parameters: Mapping[str, Tensor]) -> Clipping:
    """Find what a loop did to its gradients from all steps of a run, made again; and that it explains every step.

    Args:
        replay: Makes the steps again, from the first; called twice where the loop did anything.
        parameters: The live parameters; their ``grad`` is what the optimizer used.

    Raises:
        ReplayError: If the factors follow neither a constant nor a bound on the 2-norm, the largest entry or entries.
    """
    found, touched = _found(replay(), parameters)
    if touched:
        for step in replay():
            _prove(found, step, parameters)
    return found


def _prove(found: Clipping, step: ReplayedStep, parameters: Mapping[str, Tensor]) -> None:
    """Apply what was found to a step's gradients.

    Raises:
        ReplayError: If it does not give those that the optimizer used.
    """
    raw = {}
    for name, factor in by_parameter(step.scale, step.updated).items():
        if isinstance(factor, float) and factor == 0.0:
            raise ReplayError(_unexplained(step, name))
        raw[name] = _used(parameters, name) / factor
    found.apply(raw, len(step.record.batches))
    for name, ours in raw.items():
        used = _used(parameters, name)
        if not float((ours - used).abs().max()) <= _SAME * float(used.abs().max()):
            raise ReplayError(_unexplained(step, name))


def _unexplained(step: ReplayedStep, name: str) -> str:
    return (
        f"What the loop did to the gradient of {name!r} at step {step.index} follows no rule that holds for all steps: "
        "a constant, then one bound on every entry, then one bound on the 2-norm or the largest entry of some "
        "parameters. What it would have done to another gradient cannot be told."
    )


def _found(steps: Iterable[ReplayedStep], parameters: Mapping[str, Tensor]) -> tuple[Clipping, bool]:
    """Return the rule that a run's factors suggest, and whether any gradient was changed at all."""
    touched = False
    constants: dict[int, float] = {}
    seen: dict[frozenset[str], list[_Scaled]] = {}
    losses: dict[int, Reduction] = {}
    bound = math.inf
    for step in steps:
        count = len(step.record.batches)
        losses[count] = step.loss
        groups: dict[float, list[str]] = {}
        for name, factor in by_parameter(step.scale, step.updated).items():
            touched = touched or not isinstance(factor, float) or factor != 1.0
            if isinstance(factor, Tensor):
                if bool((factor > factor.min() * (1 + _SAME)).any()):
                    constants[count] = max(constants.get(count, 0.0), float(factor.max()))  # all of it may be clipped
                bound = _bound(factor, _used(parameters, name), bound, count)
            elif is_plain(factor, count):
                constants[count] = max(constants.get(count, 0.0), factor)
            else:
                groups.setdefault(factor, []).append(name)
        for factor, members in groups.items():
            raw = [_used(parameters, name) / factor for name in members]
            l2 = math.sqrt(sum(float(one.double().square().sum()) for one in raw))
            largest = max(float(one.abs().max()) for one in raw)
            seen.setdefault(frozenset(members), []).append(_Scaled(factor, l2, largest, count))
    norms = []
    for names, found in seen.items():
        clip = _norm(names, found)
        if clip is None:
            constants |= {one.microbatches: one.factor for one in found}
        else:
            norms.append(clip)
    return Clipping(losses, constants, _merged(norms), bound), touched


def _norm(names: frozenset[str], found: list[_Scaled]) -> NormClip | None:
    """Return the bound that the factors of some parameters come from, None if they are all one number."""
    factors = [one.factor for one in found]
    if len(found) > 1 and _close(min(factors), max(factors)):
        return None
    for order, norms in ((2.0, [one.norm for one in found]), (math.inf, [one.largest for one in found])):
        bounds = [factor * (norm + CLIP_EPS) for factor, norm in zip(factors, norms, strict=True)]
        if _close(min(bounds), max(bounds)):
            return NormClip(names, order, sum(bounds) / len(bounds))
    raise ReplayError(
        f"The loop scaled the gradients of {', '.join(sorted(names)[:4])} by factors from {min(factors):.4g} to "
        f"{max(factors):.4g} that are no constant and come from no fixed bound on their 2-norm or largest entry. What "
        "it would have done to other gradients cannot be told; clip with torch.nn.utils.clip_grad_norm_ and one bound."
    )


def _merged(clips: list[NormClip]) -> tuple[NormClip, ...]:
    """Join bounds of overlapping parameters: one bound, where some of them had no gradient at times."""
    merged: list[NormClip] = []
    for clip in sorted(clips, key=lambda one: -len(one.names)):
        same = next((one for one in merged if one.names & clip.names and _close(one.bound, clip.bound)), None)
        if same is None:
            merged.append(clip)
        else:
            merged[merged.index(same)] = NormClip(same.names | clip.names, same.order, same.bound)
    return tuple(merged)


def _bound(factor: Tensor, used: Tensor, known: float, microbatches: int) -> float:
    """Return the smallest bound seen: where an entry was clipped, the largest one is at it."""
    some = bool((factor < factor.max() * (1 - _SAME)).any())
    sizes, least = used.abs(), 1.0 / microbatches
    every = bool(sizes.min() >= sizes.max() * (1 - _SAME)) and float(factor.max()) < least * (1 - _SAME)
    return min(known, float(sizes.max())) if some or every else known


def _used(parameters: Mapping[str, Tensor], name: str) -> Tensor:
    gradient = parameters[name].grad
    assert gradient is not None  # of a parameter that was updated
    return gradient


def _close(one: float, other: float) -> bool:
    return abs(one - other) <= _SAME * max(abs(one), abs(other))
