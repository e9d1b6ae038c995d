"""Rules that integrate a target's gradient along one step of the parameters.

The change of a quantity q over a step from θ to θ + Δ is ∫₀¹ ∇q(θ + γΔ)·Δ dγ; a rule replaces the integral by a
weighted sum over points γ in [0, 1] (path-integrated loss-gradient kernels, section 5.1 and appendix A.2.7).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

from whence._errors import ArgumentError
from whence._numbers import is_number

_GAUSS2 = 0.5 / math.sqrt(3.0)
_GAUSS3 = 0.5 * math.sqrt(0.6)


@final
@dataclass(frozen=True)
class Rule:
    """Points in [0, 1] and the weights that sum to 1.

    Attributes:
        name: As a caller names it.
        points: Where along the step the gradient is taken; 0 is its start, 1 its end.
        weights: One weight a point.
    """

    name: str
    points: tuple[float, ...]
    weights: tuple[float, ...]


RULES = MappingProxyType(
    {
        rule.name: rule
        for rule in (
            Rule("euler", (0.0,), (1.0,)),
            Rule("trapezoid", (0.0, 1.0), (0.5, 0.5)),
            Rule("simpson", (0.0, 0.5, 1.0), (1 / 6, 4 / 6, 1 / 6)),
            Rule("gauss2", (0.5 - _GAUSS2, 0.5 + _GAUSS2), (0.5, 0.5)),
            Rule("gauss3", (0.5 - _GAUSS3, 0.5, 0.5 + _GAUSS3), (5 / 18, 8 / 18, 5 / 18)),
        )
    }
)


def rule(name: str) -> Rule:
    """Return the rule of that name.

    Raises:
        ArgumentError: If there is none.
    """
    if name not in RULES:
        raise ArgumentError(f"No quadrature {name!r}. Choose one of: {', '.join(RULES)}.")
    return RULES[name]


def check_tolerance(tolerance: float | None) -> None:
    """Check that a tolerance is none or an error above 0.

    Raises:
        ArgumentError: If it is not.
    """
    if tolerance is not None and not (is_number(tolerance) and tolerance > 0):
        raise ArgumentError(f"`tolerance` is an error above 0 in the quantity's unit; got {tolerance!r}.")


def refined(level: int) -> Rule:
    """Return Simpson's rule on ``2**level`` equal parts of the step.

    Every point of one level is a point of the next, so refining a step reuses the gradients it already has.
    """
    parts = 2**level
    inner = [4.0 if index % 2 else 2.0 for index in range(1, 2 * parts)]
    weights = tuple(weight / (6.0 * parts) for weight in (1.0, *inner, 1.0))
    points = tuple(index / (2 * parts) for index in range(2 * parts + 1))
    return Rule(f"simpson/{parts}", points, weights)
