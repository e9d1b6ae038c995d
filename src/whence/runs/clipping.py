"""What a training loop did to its gradients, as a rule for gradients that were not recorded.

`reconcile` finds by which factor a recorded gradient differs from the one computed again. What a loop would have done
to another gradient takes more: whether that factor is a constant of the loop or came from a bound on the gradient's
norm or on its entries. The factors of a whole run tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from whence._errors import ReplayError
from whence.runs.rule import CLIP_EPS, PLAIN, Clipping, NormClip, by_parameter
from whence.runs.walker import Reduction, ReplayedStep, divided_by

__all__ = ("Clipping", "find_clipping")

_SAME = 1e-4  # relative; factors and bounds found again agree far better, other ones far worse
_EXACT = 1e-12  # a constant this near to 1 is none
_ROUNDINGS = 64  # by which the bounds that clipped steps tell may differ


@dataclass(frozen=True)
class _Scaled:
    """A factor that some parameters of a step had, norm and largest entry of their gradient before it.

    All are of the loss that nothing is divided by yet.
    """

    factor: float
    norm: float
    largest: float
    microbatches: int


def find_clipping(replay: Callable[[], Iterable[ReplayedStep]], parameters: Mapping[str, Tensor]) -> Clipping:
    """Find what a loop did to its gradients from all steps of a run, made again; and that it explains every step.

    Args:
        replay: Makes the steps again, from the first; called twice where the loop did anything.
        parameters: The live parameters; their ``grad`` is what the optimizer used.

    Raises:
        ReplayError: If the factors follow neither a constant nor a bound on the 2-norm, the largest entry or entries.
    """
    found, touched = _Seen().look(replay(), parameters)
    if touched:
        for step in replay():
            _prove(found, step, parameters)
    return found


def _prove(found: Clipping, step: ReplayedStep, parameters: Mapping[str, Tensor]) -> None:
    """Apply what was found to a step's gradients.

    Raises:
        ReplayError: If it does not give those that the optimizer used.
    """
    raw, count = {}, len(step.record.batches)
    for name, factor in by_parameter(step.scale, step.updated).items():
        if isinstance(factor, float) and factor == 0.0:
            raise ReplayError(_unexplained(step, name))
        raw[name] = _used(parameters, name) / factor * (divided_by(step.loss) / divided_by(found.losses[count]))
    found.apply(raw, count)
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


@final
class _Seen:
    """What the steps of a run show of what the loop does to its gradients."""

    def __init__(self) -> None:
        self._losses: dict[int, Reduction] = {}
        self._constants: dict[int, float] = {}  # of the loss that nothing is divided by yet
        self._groups: dict[frozenset[str], list[_Scaled]] = {}
        self._bound, self._eps, self._touched = math.inf, 0.0, False

    def look(self, steps: Iterable[ReplayedStep], parameters: Mapping[str, Tensor]) -> tuple[Clipping, bool]:
        """Return the rule that a run's factors suggest, and whether any gradient was changed at all.

        Raises:
            ReplayError: If there is none.
        """
        for step in steps:
            self._take(step, parameters)
        self._find_plain()
        clipped = {names: rest for names, found in self._groups.items() if (rest := self._without_constants(found))}
        undecided = self._decide(clipped)
        norms = [_norm(names, found, self._constants) for names, found in clipped.items()]
        constants = {}
        for count, constant in self._constants.items():
            kept = constant * divided_by(self._losses[count])
            constants[count] = 1.0 if abs(kept - 1.0) <= _EXACT else kept
        return Clipping(self._losses, constants, _merged(norms), self._bound, undecided), self._touched

    def _take(self, step: ReplayedStep, parameters: Mapping[str, Tensor]) -> None:
        """Note the factors of one step."""
        count, divided = len(step.record.batches), divided_by(step.loss)
        if count not in self._losses or divided >= divided_by(self._losses[count]):
            self._losses[count] = step.loss
        groups: dict[float, list[str]] = {}
        for name, factor in by_parameter(step.scale, step.updated).items():
            self._touched = self._touched or not isinstance(factor, float) or factor != 1.0
            used = _used(parameters, name)
            self._eps = max(self._eps, torch.finfo(used.dtype).eps)
            if isinstance(factor, float):
                groups.setdefault(factor / divided, []).append(name)
                continue
            if bool((factor > factor.min() * (1 + _SAME)).any()):
                self._raise(count, float(factor.max()) / divided)  # all of it may be clipped
            self._bound = _bound(factor, used, self._bound, count)
        for factor, members in groups.items():
            if factor == 0.0:
                self._raise(count, 0.0)
                continue
            raw = [_used(parameters, name) / factor for name in members]
            l2 = math.sqrt(sum(float(one.double().square().sum()) for one in raw))
            largest = max(float(one.abs().max()) for one in raw)
            self._groups.setdefault(frozenset(members), []).append(_Scaled(factor, l2, largest, count))

    def _raise(self, count: int, constant: float) -> None:
        self._constants[count] = max(self._constants.get(count, 0.0), constant)

    def _plain(self) -> list[float]:
        """Return the factors that a loop may have: none, or the mean over microbatches, be it of a shorter step."""
        return [1.0, *(1.0 / count for count in self._losses)]

    def _find_plain(self) -> None:
        """Find the constants of steps that were not clipped: those any loop may have, and ones that come again."""
        every = [one for found in self._groups.values() for one in found]
        for one in every:
            if any(abs(one.factor - plain) <= PLAIN * plain for plain in self._plain()):
                self._raise(one.microbatches, one.factor)
        for count in {one.microbatches for one in every} - {count for count, one in self._constants.items() if one}:
            for found in self._groups.values():
                factors = sorted(one.factor for one in found if one.microbatches == count)
                if len(factors) > 1 and factors[-1] - factors[-2] <= PLAIN * factors[-1]:
                    self._raise(count, factors[-1])

    def _without_constants(self, found: list[_Scaled]) -> list[_Scaled]:
        """Return what is left of some parameters' factors: those that were clipped."""
        known = self._constants
        return [
            one
            for one in found
            if abs(one.factor - known.get(one.microbatches, 0.0)) > PLAIN * one.factor
            and not any(abs(one.factor - plain) <= PLAIN * plain for plain in self._plain())
        ]

    def _decide(self, clipped: Mapping[frozenset[str], list[_Scaled]]) -> frozenset[int]:
        """Find the constants of steps that were all clipped; return the numbers of microbatches where none is found.

        torch adds a small number to the norm after the constant: only with the right one do all steps tell one bound.
        """
        open_ = {one.microbatches for found in clipped.values() for one in found} - self._constants.keys()
        counts = sorted(self._losses)
        schemes = [dict.fromkeys(counts, one) for one in self._plain()] + [{one: 1.0 / one for one in counts}]
        known = {count: one for count, one in self._constants.items() if one}
        schemes = [one for one in schemes if all(abs(one[count] - known[count]) <= PLAIN for count in known)] or schemes
        options = {tuple(scheme[count] for count in sorted(open_)): scheme for scheme in schemes}
        rounding = _ROUNDINGS * self._eps
        spreads = {
            option: max((_spread(found, known | scheme) for found in clipped.values()), default=0.0)
            for option, scheme in options.items()
        }
        best = min(spreads, key=lambda option: spreads[option])
        others = [one for option, one in spreads.items() if option != best]
        decided = not others or (spreads[best] <= rounding and min(others) > 4 * rounding)
        for place, count in enumerate(sorted(open_)):
            self._constants[count] = best[place] if decided else min(option[place] for option in options)
        return frozenset() if decided else frozenset(open_)


def _bounds(found: list[_Scaled], constants: Mapping[int, float]) -> dict[float, list[float]]:
    """Return the bounds that factors come from, one a step, by the order of the norm; see `CLIP_EPS`."""
    norms = {2.0: [one.norm for one in found], math.inf: [one.largest for one in found]}
    return {
        order: [
            one.factor * (norm + CLIP_EPS / constants[one.microbatches]) for one, norm in zip(found, of, strict=True)
        ]
        for order, of in norms.items()
    }


def _spread(found: list[_Scaled], constants: Mapping[int, float]) -> float:
    """Return how far apart the bounds on a norm are that clipped steps tell, relative to the largest."""
    return min((max(one) - min(one)) / max(one) for one in _bounds(found, constants).values())


def _norm(names: frozenset[str], found: list[_Scaled], constants: Mapping[int, float]) -> NormClip:
    """Return the bound that the factors of some parameters come from.

    Raises:
        ReplayError: If they come from none.
    """
    for order, bounds in _bounds(found, constants).items():
        if _close(min(bounds), max(bounds)):
            return NormClip(names, order, sum(bounds) / len(bounds))
    factors = [one.factor for one in found]
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
