"""What is solved: the values of a query, and a prior whose latents are to reach them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from whence._errors import GradientError
from whence.invariants.filters import low_pass
from whence.invariants.objective import Objective
from whence.invariants.priors.protocol import Prior

_TINY = 1e-30


@final
@dataclass(frozen=True, eq=False)
class Problem:
    """The equations that latents are to solve.

    Attributes:
        objective: L.
        prior: From latents to inputs.
        goal: L(x*), the values to reach.
        filtered_goal: What the values of low-pass filtered inputs are to be: L(F x*), which the query itself reaches.
            None without a filter.
        cutoff: Of the filter F; None without one.
    """

    objective: Objective
    prior: Prior
    goal: Float[Tensor, " values"]
    filtered_goal: Float[Tensor, " values"] | None = None
    cutoff: float | None = None

    def over(self, prior: Prior) -> Problem:
        """Return the same equations over another prior of the same latents."""
        return replace(self, prior=prior)

    def measure(self, inputs: Tensor) -> Measured:
        """Return the values of inputs, filtered and not."""
        filtered = None if self.cutoff is None else low_pass(inputs, self.cutoff)
        values = self.objective(inputs)
        followed = self._followed(inputs, values, self.goal)
        if filtered is None or self.filtered_goal is None:
            return Measured(self, values, None, followed, None)
        low = self.objective(filtered)
        return Measured(self, values, low, followed, self._followed(filtered, low, self.filtered_goal))

    def _followed(self, inputs: Tensor, values: Tensor, goal: Tensor) -> Tensor:
        """Return the objective's stand-in where it takes the goal as the objective does, above 0; else the values."""
        above = goal > 0
        if self.objective.stand_in is None or not bool(above.any()):
            return values
        return torch.where(above, self.objective.searched(inputs), values)

    def at(self, latents: Tensor) -> Measured:
        """Return the values of the inputs that latents stand for."""
        return self.measure(self.prior.decode(latents))


@final
@dataclass(frozen=True, eq=False)
class Measured:
    """Values of some inputs beside those to be reached; what a search follows is the values, or their stand-in."""

    problem: Problem
    values: Float[Tensor, "some values"]
    filtered: Float[Tensor, "some values"] | None
    followed: Float[Tensor, "some values"]
    followed_filtered: Float[Tensor, "some values"] | None

    @property
    def residuals(self) -> Float[Tensor, "some equations"]:
        """The differences that are to be 0: of the values, then of those of the filtered inputs."""
        parts = [self.followed - self.problem.goal]
        if self.followed_filtered is not None and self.problem.filtered_goal is not None:
            parts.append(self.followed_filtered - self.problem.filtered_goal)
        return torch.cat(parts, 1)

    def detached(self) -> Measured:
        """Return the same numbers without their graph."""
        parts = (self.values, self.filtered, self.followed, self.followed_filtered)
        values, filtered, followed, low = (None if one is None else one.detach() for one in parts)
        assert values is not None
        assert followed is not None
        return Measured(self.problem, values, filtered, followed, low)

    @property
    def distance(self) -> Float[Tensor, " some"]:
        """How far the values are from the query's, by the objective's own distance."""
        return self.problem.objective.away(self.values, self.problem.goal)

    @property
    def filtered_distance(self) -> Float[Tensor, " some"] | None:
        """How far the values of the filtered inputs are from the filtered query's."""
        if self.filtered is None or self.problem.filtered_goal is None:
            return None
        return self.problem.objective.away(self.filtered, self.problem.filtered_goal)

    @property
    def farther(self) -> Float[Tensor, " some"]:
        """The greater of the two distances: an invariant's is within the objective's tolerance."""
        filtered = self.filtered_distance
        return self.distance if filtered is None else torch.maximum(self.distance, filtered)

    @property
    def solved(self) -> Bool[Tensor, " some"]:
        """Whether each is within the objective's tolerance, filtered and not."""
        return self.farther <= self.problem.objective.tolerance


def joined(parts: Sequence[Measured]) -> Measured:
    """Return what was measured in parts as one."""
    columns = (
        [getattr(one, name) for one in parts] for name in ("values", "filtered", "followed", "followed_filtered")
    )
    values, filtered, followed, low = (None if some[0] is None else torch.cat(some) for some in columns)
    assert values is not None
    assert followed is not None
    return Measured(parts[0].problem, values, filtered, followed, low)


def linearised(
    problem: Problem, latents: Float[Tensor, "some *latent"], sketch: int | None = None, seed: int = 0
) -> tuple[Measured, Float[Tensor, "some rows numbers"]]:
    """Return the measured values at latents, and the residuals' derivatives by the latents, one pass back a row.

    Args:
        problem: The equations.
        latents: Where.
        sketch: At most so many `Combinations` of the equations instead of all of them.
        seed: Of the combinations.

    Raises:
        GradientError: If the values do not depend on the latents differentiably.
    """
    points = latents.detach().requires_grad_()
    with torch.enable_grad():
        measured = problem.at(points)
        residuals = Combinations(measured.residuals, sketch, seed)(measured.residuals)
        rows = [row_gradient(problem, residuals[:, row], points) for row in range(residuals.shape[1])]
    return measured.detached(), torch.stack([one.flatten(1) for one in rows], 1)


def row_gradient(problem: Problem, numbers: Float[Tensor, " some"], points: Tensor) -> Tensor:
    """Return the gradient of one number a sample by the sample's own latent; the graph stays.

    Raises:
        GradientError: If the numbers do not depend on the latents differentiably.
    """
    found = (
        torch.autograd.grad(numbers.sum(), points, retain_graph=True, allow_unused=True)[0]
        if (numbers.requires_grad)
        else None
    )
    if found is None:
        raise GradientError(
            f"The objective {problem.objective.name} has no gradient by its input. Take out what cuts it, such as "
            "detach(), no_grad(), inference_mode(), argmax or rounding, or take another objective."
        )
    return found


@final
class Combinations:
    """Orthonormal combinations of equations, for steps that look at fewer of them than there are.

    All but one are sums of random groups of the equations with random signs; the last is what is left of the residuals
    beside these. The residuals are so within their span, and a short enough step that lowers the combinations lowers
    the residuals. If there are no more than ``most`` equations, they are the equations themselves.

    Args:
        residuals: That the last combination follows, each sample its own.
        most: How many combinations, at least 2.
        seed: Of the groups and signs.
    """

    def __init__(self, residuals: Float[Tensor, "some equations"], most: int | None, seed: int) -> None:
        equations = residuals.shape[1]
        self.whole = most is None or equations <= most
        if most is None or self.whole:
            return
        random = torch.Generator().manual_seed(seed)
        order = torch.randperm(equations, generator=random)
        group = torch.empty_like(order)
        group[order] = torch.arange(equations) % (most - 1)
        sizes = torch.bincount(group, minlength=most - 1)
        signs = torch.randint(2, (equations,), generator=random) * 2 - 1
        self._group, self._count = group.to(residuals.device), most - 1
        self._weights = (signs / sizes[group].double().sqrt()).to(residuals)
        left = residuals.detach() - self._sums(residuals.detach())[:, self._group] * self._weights
        self._left = left / left.norm(dim=1, keepdim=True).clamp_min(_TINY)

    def __call__(self, values: Float[Tensor, "some equations"]) -> Float[Tensor, "some rows"]:
        """Return the combinations of numbers, one an equation."""
        if self.whole:
            return values
        return torch.cat([self._sums(values), (values * self._left).sum(1, keepdim=True)], 1)

    def _sums(self, values: Float[Tensor, "some equations"]) -> Float[Tensor, "some groups"]:
        sums = values.new_zeros(len(values), self._count)
        return sums.index_add(1, self._group, values * self._weights)
