"""What a region map is made of: a score, a way from its gradient to a map, and smoothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, final, runtime_checkable

import numpy as np
from torch import Tensor

from whence._errors import ArgumentError
from whence._numbers import check_seed, is_number, is_whole
from whence.attribution import GradCos, GradDot, Influence, Layers
from whence.audit.quadrature import rule
from whence.audit.quantities import Numbers

Stops = tuple[tuple[float, float], ...]
"""Points on the way from the baseline (0) to the training input (1), each with its weight."""


@final
@dataclass(frozen=True)
class AuditTerm:
    """What a training example did to the target at one step of a run: that entry of ``whence.audit(run, by="step")``.

    The score is ⟨u, g⟩ of the example's gradient g at that step with what the rest of the run makes of it, u: learning
    rate, preconditioner, clipping, momentum and decay, and the target's gradient along the steps. It keeps the audit's
    own sign: negative on a loss = the example helped (math: PLGK, sections 5.1-5.3).

    An optimizer with momentum or decay carries a gradient on, so the run is walked back from its end; one without
    needs that step alone.

    Args:
        step: Number of the step, from 0; the example must be in its batch.
        quantity: Of the target, as in `whence.audit`.
        layers: Which parameters count, as in `GradDot`; the audit's entries of these layers, summed.
        quadrature: As in `whence.audit`.

    Raises:
        ArgumentError: If the step is not a whole number, at least 0, or there is no such quadrature.
    """

    step: int
    quantity: str | Numbers = "loss"
    layers: Layers = "all"
    quadrature: str = "trapezoid"

    def __post_init__(self) -> None:
        if not is_whole(self.step) or self.step < 0:
            raise ArgumentError(f"`step` is the number of a recorded step, from 0; got {self.step!r}.")
        rule(self.quadrature)


Score = GradDot | GradCos | Influence | AuditTerm


@runtime_checkable
class Map(Protocol):
    """A way from gradients of a score with respect to the input, on the way there from a baseline, to a map."""

    @property
    def shares(self) -> bool:
        """Whether the entries of a signed map are shares of score(input) - score(start)."""
        ...

    @property
    def start(self) -> float:
        """How far along the way that start is: 0 is the baseline."""
        ...

    @property
    def stops(self) -> Stops:
        """Where gradients are taken, and how much each counts."""
        ...

    def scaled(self, gradient: Tensor, inputs: Tensor, baseline: Tensor) -> Tensor:
        """Return the map of the weighted gradient."""
        ...


@final
@dataclass(frozen=True)
class Gradient:
    """The gradient itself: the change of the score per unit of the input (TFA, equation 2)."""

    @property
    def shares(self) -> bool:
        """No: its unit is the score's per unit of the input."""
        return False

    @property
    def start(self) -> float:
        """The baseline, for what it is worth."""
        return 0.0

    @property
    def stops(self) -> Stops:
        """The input alone."""
        return ((1.0, 1.0),)

    def scaled(self, gradient: Tensor, inputs: Tensor, baseline: Tensor) -> Tensor:  # noqa: ARG002
        """Return the gradient."""
        return gradient


@final
@dataclass(frozen=True)
class GradientInput:
    """Gradient times (input - baseline): to first order, each entry's share of score(input) - score(baseline)."""

    @property
    def shares(self) -> bool:
        """Yes."""
        return True

    @property
    def start(self) -> float:
        """The baseline."""
        return 0.0

    @property
    def stops(self) -> Stops:
        """The input alone."""
        return ((1.0, 1.0),)

    def scaled(self, gradient: Tensor, inputs: Tensor, baseline: Tensor) -> Tensor:
        """Return the gradient times the difference."""
        return gradient * (inputs - baseline)


@final
@dataclass(frozen=True)
class Integrated:
    """Integrated gradients (Sundararajan et al., 2017, section 3): shares of score(input) - score(start).

    Args:
        steps: Points of Gauss-Legendre's rule between the start and the input.
        start: Where on the straight way from the baseline (0) to the input (1) the path starts: the input, faded to
            this contrast. Far from the input a network answers what it answers for any input, so the first part of the
            way says much the same for all targets.

    Raises:
        ArgumentError: If there is not at least one point, or the start is not at least 0 and below 1.
    """

    steps: int = 12
    start: float = 0.0

    def __post_init__(self) -> None:
        if not is_number(self.start) or not 0 <= self.start < 1:
            raise ArgumentError(f"`start` is a place on the way to the input, 0 up to but not 1; got {self.start!r}.")
        if not is_whole(self.steps) or self.steps < 1:
            raise ArgumentError(f"`steps` is a whole number of points on the path, at least 1; got {self.steps!r}.")

    @property
    def shares(self) -> bool:
        """Yes."""
        return True

    @property
    def stops(self) -> Stops:
        """The rule from the start to the input."""
        points, weights = np.polynomial.legendre.leggauss(self.steps)
        length = 1 - self.start
        places, shares = self.start + length * (points + 1) / 2, length * weights / 2
        return tuple(zip(places.tolist(), shares.tolist(), strict=True))

    def scaled(self, gradient: Tensor, inputs: Tensor, baseline: Tensor) -> Tensor:
        """Return the mean gradient times the difference."""
        return gradient * (inputs - baseline)


@final
@dataclass(frozen=True)
class Recipe:
    """How a region map is made.

    Args:
        score: What the map splits up over the training input; `GradDot`, `GradCos` or `Influence`
            of `whence.attribution`, or `AuditTerm`.
        map: `Integrated`, `GradientInput` or `Gradient`.
        held: Whether the slope of the training loss in the model's outputs stays that of the whole training input. The
            map then says which regions make the features that the target shares, not which ones make the example fit
            and so lower its gradient.
        signed: Whether the map keeps its sign; otherwise it is the absolute value, taken before channels are summed.
        smooth: How many noisy copies of the input to average over (SmoothGrad; Smilkov et al., 2017); 0 for the input.
        noise: Standard deviation of the noise, as a share of the range of the training inputs.
        baseline: Where `Integrated` and `GradientInput` start: ``"mean"``, the mean training input, or a number for
            every entry of the input.
        seed: Of the noise. It is the same for all pairs, so that maps of one recipe differ for their images' sake.

    Raises:
        ArgumentError: If a part is not of its kind.
    """

    score: Score
    map: Map = Integrated()
    held: bool = False
    signed: bool = True
    smooth: int = 0
    noise: float = 0.1
    baseline: Literal["mean"] | float = "mean"
    seed: int = 0

    def __post_init__(self) -> None:
        check_parts(self.score, self.map, self.baseline)
        if getattr(self.score, "projection", None) is not None:
            raise ArgumentError("A region map needs exact gradients: leave `projection` of its score out.")
        if not is_whole(self.smooth) or self.smooth < 0:
            raise ArgumentError(f"`smooth` is how many noisy copies to average, at least 0; got {self.smooth!r}.")
        if not is_number(self.noise) or self.noise <= 0:
            raise ArgumentError(f"`noise` is a share of the inputs' range, above 0; got {self.noise!r}.")
        check_seed(self.seed)


def check_parts(score: object, way: object, baseline: object) -> None:
    """Refuse parts of a recipe that are of another kind.

    Args:
        score, way, baseline: The recipe's score, map and baseline.

    Raises:
        ArgumentError: If one is.
    """
    if not isinstance(score, Score):
        raise ArgumentError(
            f"`score` is GradDot(...), GradCos(...), Influence(...) or AuditTerm(...); got {_shown(score)}."
        )
    if isinstance(way, type) or not isinstance(way, Map):
        raise ArgumentError(f"`map` is Integrated(), GradientInput() or Gradient(); got {_shown(way)}.")
    if baseline != "mean" and not is_number(baseline):
        raise ArgumentError(f"`baseline` is 'mean' or a number; got {baseline!r}.")


def _shown(given: object) -> str:
    return given.__name__ if isinstance(given, type) else repr(given)


PAPER = Recipe(GradCos("loss"), Gradient(), signed=False, smooth=20, noise=0.1)
"""As in Training Feature Attribution for Vision Models, section 3.2 and appendix C; the number of copies is ours."""

DEFAULT = Recipe(GradDot("margin", layers="last"), Integrated(start=0.25))
"""Best over all that the how-to lists: insertion, a planted patch, two targets told apart, random weights."""

SHARED = Recipe(GradDot("logit", layers="last"), Integrated(), held=True)
"""Which regions make the features that the target shares; `DEFAULT` also asks which regions show the target's class."""
