"""Gauss-Newton steps onto the level set in the space of latents, with damping and a radius of trust."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whence._errors import ArgumentError
from whence._numbers import is_number, is_whole
from whence.invariants.priors.protocol import Prior
from whence.invariants.problem import Combinations, Problem, linearised
from whence.invariants.solvers.normal_space import gram, tangent
from whence.invariants.solvers.protocol import BACKWARD, Search, Status

_TINY = 1e-30
_LEAST_RADIUS = 1e-6  # of the radius at the start: a search whose radius is below it is stalled
_KEPT_PROMISE, _BROKEN_PROMISE = 0.75, 0.25  # share of the promised fall of the residual
_FRESH = 0.2  # of the residual, about what a step by derivatives just found leaves


@final
@dataclass(frozen=True, eq=False)
class GaussNewton:
    """Solve the equations by damped Gauss-Newton steps of least length (Levenberg 1944, Marquardt 1963).

    At latents z with residuals r and their derivatives J, the step is -Jᵀ(JJᵀ + λI)⁻¹r: of all that solve the
    equations' linear part the shortest, so that samples stay close to where the prior drew them. It is cut at a radius
    that grows while steps do what they promised and shrinks while they do not. A step that lowers the residual is
    taken; J is then corrected by what was seen (Broyden 1965), also from a coarse prior to the next, and found anew
    where it lowers the residual less than the same evaluations would by a J found anew, or too little for patience.
    There is no rate to tune, and nothing depends on the objective's unit.

    Attributes:
        steps: At most so many for each sample and prior.
        patience: A search that has not halved its residual in so many steps is stalled: elsewhere is better.
        radius: Of trust at the start, as a share of the length of the prior's latents.
        damping: λ, as a share of the mean of JJᵀ's diagonal.
        coarse: Cheaper priors of the same latents, such as the same flow in fewer steps: solved first, in this order.
        sketch: How many random combinations of the equations a step looks at, if there are more equations than that.
        secant: Whether J is corrected between two findings; if not, each step finds it.
        pull: Share of what a latent is longer than the prior's that each step takes back along the level set: more
            usual samples, for more steps. 0 leaves each where the shortest steps lead.

    Raises:
        ArgumentError: If one of these is not what it must be.
    """

    steps: int = 100
    patience: int = 20
    radius: float = 0.25
    damping: float = 1e-4
    coarse: tuple[Prior, ...] = ()
    sketch: int = 64
    secant: bool = True
    pull: float = 0.0

    def __post_init__(self) -> None:
        if not is_whole(self.patience) or self.patience < 1:
            raise ArgumentError(f"patience is a number of steps, above 0; got {self.patience!r}.")
        if not is_whole(self.steps) or self.steps < 1 or not is_whole(self.sketch) or self.sketch < 2:
            raise ArgumentError(
                f"steps is a whole number above 0 and sketch one from 2; got {self.steps!r} and {self.sketch!r}."
            )
        if not is_number(self.radius) or self.radius <= 0 or not is_number(self.damping) or self.damping <= 0:
            raise ArgumentError(f"radius and damping are above 0; got {self.radius!r} and {self.damping!r}.")
        if not is_number(self.pull) or not 0 <= self.pull <= 1:
            raise ArgumentError(f"pull is a share from 0 to 1; got {self.pull!r}.")
        coarse: Any = self.coarse
        if not isinstance(coarse, tuple | list) or not all(isinstance(one, Prior) for one in coarse):
            told = [type(one).__name__ for one in (coarse if isinstance(coarse, tuple | list) else [coarse])]
            raise ArgumentError(f"coarse is a tuple of priors, such as (prior.with_steps(2),); got {', '.join(told)}.")

    def solve(self, problem: Problem, search: Search) -> None:
        """Solve over the coarse priors, one after the other, then over the problem's own.

        Raises:
            ArgumentError: If a coarse prior has latents of another shape.
            KeyboardInterrupt: As it came; a search that ended over a coarse prior is then under way again.
        """
        shape = tuple(problem.prior.latent_shape)
        for prior in self.coarse:
            if tuple(prior.latent_shape) != shape:
                raise ArgumentError(
                    f"coarse are priors of the same latents, of shape {shape}; got one of {tuple(prior.latent_shape)}."
                )
        slopes = None
        for prior in (*self.coarse, problem.prior):
            search.reopen()
            try:
                slopes = _Walk(self, problem.over(prior), search, slopes).run()
            except KeyboardInterrupt:
                if prior is not problem.prior:  # what ended over a coarse prior has not ended
                    search.reopen()
                raise


class _Walk:
    """The walk of all samples over one prior: each has its own radius, damping, residuals and derivatives."""

    def __init__(self, settings: GaussNewton, problem: Problem, search: Search, slopes: Tensor | None = None) -> None:
        self.settings, self.problem, self.search = settings, problem, search
        count, numbers, equations = len(search.latents), search.latents[0].numel(), _equations(problem)
        rows = min(equations, settings.sketch)
        self.sketched = rows < equations
        self.secant = settings.secant and not self.sketched
        self.start = settings.radius * numbers**0.5
        self.radius = search.latents.new_full((count,), self.start)
        self.damping = search.latents.new_full((count,), settings.damping)
        self.least = _LEAST_RADIUS * self.start
        self.residuals = search.latents.new_zeros(count, equations)
        self.marked, self.waited = self.radius + torch.inf, torch.zeros_like(self.radius)
        # A step by derivatives found anew costs so many others; patience runs out of what does not halve it in time.
        self.slow = min(_FRESH ** (1 / (2 + BACKWARD * rows)), 0.5 ** (1 / settings.patience))
        self.slopes = search.latents.new_zeros(count, rows, numbers) if slopes is None else slopes
        size = self.slopes.abs().amax((1, 2))
        self.stale = ~(size.isfinite() & (size > 0))  # whose derivatives are not known
        self.corrected = ~self.stale  # whose derivatives are not those found here
        self.lent = ~self.stale  # whose derivatives are those of the prior before

    def run(self) -> Tensor | None:
        """Step until every search has ended or the steps are used up; return the derivatives, if they are corrected."""
        self.begin()
        for step in range(self.settings.steps):
            self.look(step)
            if not self.search.open.any():
                break
            self.move(self.search.rows(), step)
        return self.slopes if self.secant else None

    def begin(self) -> None:
        """Find the residuals of the samples whose derivatives are those of the prior before."""
        rows = (self.search.open & ~self.stale).nonzero()[:, 0]
        if not len(rows):
            return
        with torch.no_grad():
            measured = self.problem.at(self.search.latents[rows])
        self.search.went_forward(rows, self.problem.prior)
        self.residuals[rows] = measured.residuals
        self.search.close(rows[measured.solved], Status.SOLVED)

    def look(self, step: int) -> None:
        """Find the derivatives of the samples whose own no longer serve."""
        rows = (self.search.open & self.stale).nonzero()[:, 0]
        if not len(rows):
            return
        measured, slopes = linearised(self.problem, self.search.latents[rows], self.settings.sketch, step)
        self.search.went_forward(rows, self.problem.prior)
        self.search.went_back(rows, self.problem.prior, slopes.shape[1])
        self.residuals[rows], self.slopes[rows] = measured.residuals, slopes
        self.stale[rows] = self.corrected[rows] = False
        own = rows[self.lent[rows]]  # how far another prior's derivatives led says nothing of these
        self.radius[own], self.damping[own], self.lent[own] = self.start, self.settings.damping, False
        self.search.close(rows[measured.solved], Status.SOLVED)
        lost = ~(slopes.flatten(1).isfinite().all(1) & measured.residuals.isfinite().all(1))
        self.search.close(rows[~measured.solved & lost], Status.LOST)
        self.search.close(rows[~measured.solved & ~lost & (slopes.abs().amax((1, 2)) == 0)], Status.FLAT)

    def move(self, rows: Int[Tensor, " some"], step: int) -> None:
        """Try a step for each sample; take those that lower the residual, and learn from all."""
        before, slopes = self.residuals[rows], self.slopes[rows]
        combine = Combinations(before, self.settings.sketch, step)  # as when the derivatives were found, if sketched
        asked = combine(before)
        steps = shortest_step(slopes, asked, self.damping[rows], self.radius[rows])
        if self.settings.pull:
            steps = steps + tangent(slopes, self.settings.pull * self.inward(rows))
        tried = self.search.latents[rows] + steps.reshape(-1, *self.search.latents.shape[1:])
        with torch.no_grad():
            measured = self.problem.at(tried)
        self.search.went_forward(rows, self.problem.prior)
        after, foreseen = measured.residuals, torch.einsum("nrd,nd->nr", slopes, steps)
        fell = before.norm(dim=1) - after.norm(dim=1)
        better = fell > 0
        promised = asked.norm(dim=1) - (asked + foreseen).norm(dim=1)
        kept = (asked.norm(dim=1) - combine(after).norm(dim=1)) / promised.clamp_min(_TINY)
        self.search.latents[rows[better]], self.residuals[rows[better]] = tried[better], after[better]
        self.trust(rows, torch.where(better, kept, 0), steps.norm(dim=1))
        if self.secant:
            miss = (after - before - foreseen) / steps.square().sum(1, keepdim=True).clamp_min(_TINY)
            self.slopes[rows[better]] += torch.einsum("nr,nd->nrd", miss[better], steps[better])
        slow = after.norm(dim=1) > self.slow * before.norm(dim=1)
        fresh = ~self.corrected[rows]  # a step back from derivatives just found needs a smaller radius, not new ones
        self.stale[rows] = torch.where(better, slow | (not self.secant), ~fresh) | self.sketched
        self.corrected[rows] |= self.secant & better
        self.search.close(rows[better & measured.solved], Status.SOLVED)
        small = ~better & fresh & (self.radius[rows] < self.least)
        self.search.close(rows[~(better & measured.solved) & (small | self.impatient(rows))], Status.STALLED)

    def impatient(self, rows: Int[Tensor, " some"]) -> Bool[Tensor, " some"]:
        """Say which searches have not halved their residual for too long."""
        size = self.residuals[rows].norm(dim=1)
        halved = size <= self.marked[rows] / 2
        self.marked[rows] = torch.where(halved, size, self.marked[rows])
        self.waited[rows] = torch.where(halved, 0, self.waited[rows] + 1)
        found: Tensor = self.waited[rows] >= self.settings.patience
        return found

    def inward(self, rows: Int[Tensor, " some"]) -> Float[Tensor, "some numbers"]:
        """Return the way from latents to the length that the prior's have, for those that are longer."""
        flat = self.search.latents[rows].flatten(1)
        length = flat.norm(dim=1, keepdim=True).clamp_min(_TINY)
        inward: Tensor = flat * (flat.shape[1] ** 0.5 / length - 1).clamp(max=0)
        return inward

    def trust(self, rows: Int[Tensor, " some"], kept: Float[Tensor, " some"], length: Float[Tensor, " some"]) -> None:
        """Widen or narrow the radius by the share of the promised fall that was kept."""
        well, badly = kept > _KEPT_PROMISE, ~(kept >= _BROKEN_PROMISE)
        radius, damping = self.radius[rows], self.damping[rows]
        wider, narrower = torch.maximum(radius, 2 * length), torch.minimum(radius, length) / 4
        self.radius[rows] = torch.where(well, wider, torch.where(badly, narrower, radius))
        self.damping[rows] = torch.where(well, damping / 4, torch.where(badly, damping * 4, damping)).clamp(
            8 * torch.finfo(damping.dtype).eps, 1e4
        )


def shortest_step(
    slopes: Float[Tensor, "some rows numbers"],
    residuals: Float[Tensor, "some rows"],
    damping: Float[Tensor, " some"],
    radius: Float[Tensor, " some"],
) -> Float[Tensor, "some numbers"]:
    """Return -Jᵀ(JJᵀ + λI)⁻¹r for each sample, no longer than its radius; λ is a share of the mean of the diagonal."""
    grams = gram(slopes)
    # Below the rounding of JJᵀ, damping would leave it singular where equations repeat each other.
    least = grams.shape[1] * torch.finfo(grams.dtype).eps
    size = (damping.clamp_min(least) * grams.diagonal(dim1=1, dim2=2).mean(1)).clamp_min(_TINY)
    eye = torch.eye(grams.shape[1], dtype=grams.dtype, device=grams.device)
    weights = torch.linalg.solve(grams + size[:, None, None] * eye, residuals)
    step: Tensor = -torch.einsum("nrd,nr->nd", slopes, weights)
    share: Tensor = (radius / step.norm(dim=1).clamp_min(_TINY)).clamp(max=1)
    return step * share[:, None]


def _equations(problem: Problem) -> int:
    return len(problem.goal) + (0 if problem.filtered_goal is None else len(problem.filtered_goal))
