"""Exact sampling on the level set: projected Metropolis moves in the space of latents."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whence._errors import ArgumentError
from whence._numbers import is_number, is_whole
from whence.invariants.problem import Problem, linearised
from whence.invariants.solvers.gauss_newton import GaussNewton
from whence.invariants.solvers.normal_space import gram, inverted, log_determinant, tangent
from whence.invariants.solvers.protocol import Search, Solver, Status
from whence.invariants.solvers.randomness import normals, uniforms

_WANTED = 0.6  # share of moves to be taken, towards which the size of moves is adapted
_SAME = 1e-2  # of a move's length: how near the way back has to come to where it began
_FAR = 10  # times the length of the prior's latents: a way back to the level set that is longer is given up
_ROUNDINGS = 64  # of the goal's numbers: nearer than this no network's values are


@final
@dataclass(frozen=True, eq=False)
class Metropolis:
    """Draw from the prior under the condition that the value is the query's, by moves along the level set.

    A Gauss-Newton search finds a level set; it does not find all of it equally often. Here each sample then walks:
    a random step in the tangent space, back onto the level set along the normal space of where it came from, and the
    move is taken with the probability that makes the walk reversible (Zappa, Holmes-Cerfon and Goodman 2018). The law
    that stays is that of the prior's latents given the value: by the co-area formula of density
    φ(z)/√det(JJᵀ) on the level set. Moves whose way back does not return are refused.

    Attributes:
        moves: Of each sample.
        size: Of the first moves, as the deviation of each number. It is adapted in the first half of the moves, and
            held from then on.
        closeness: How near the level set moves end (root mean square), as a share of the objective's tolerance; no
            nearer than 64 roundings of the query's values.
        projections: Steps that a move may take back onto the level set.
        first: What finds the level set.
        seed: Of the moves.

    Each sample's share of taken moves, in the second half, is noted as ``accepted``. A sample moves no more once its
    budget is spent.

    Raises:
        ArgumentError: If one of these is not what it must be.
    """

    moves: int = 25
    size: float = 0.5
    closeness: float = 0.01
    projections: int = 12
    first: Solver = field(default_factory=GaussNewton)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("moves", "projections"):
            if not is_whole(getattr(self, name)) or getattr(self, name) < 1:
                raise ArgumentError(f"{name} is a whole number above 0; got {getattr(self, name)!r}.")
        if not is_number(self.size) or self.size <= 0:
            raise ArgumentError(f"size is the deviation of a move, above 0; got {self.size!r}.")
        if not is_number(self.closeness) or not 0 < self.closeness <= 1:
            raise ArgumentError(f"closeness is a share of the tolerance, above 0 to 1; got {self.closeness!r}.")
        if not is_whole(self.seed):
            raise ArgumentError(f"seed is a whole number; got {self.seed!r}.")
        if isinstance(self.first, type) or not isinstance(self.first, Solver):
            raise ArgumentError(f"first is a solver, such as GaussNewton(); got {self.first!r}.")

    def solve(self, problem: Problem, search: Search) -> None:
        """Find the level set, then walk on it."""
        self.first.solve(problem, search)
        rows = (search.status == Status.SOLVED).nonzero()[:, 0]
        search.notes["accepted"] = torch.full_like(search.evaluations, torch.nan)
        if len(rows):
            _Walk(self, problem, search, rows).run()


@final
class _Walk:
    """The walk of some samples: each has its own derivatives, its own size of moves and its own random numbers."""

    def __init__(self, settings: Metropolis, problem: Problem, search: Search, rows: Int[Tensor, " some"]) -> None:
        self.settings, self.problem, self.search, self.rows = settings, problem, search, rows
        self.shape = search.latents.shape[1:]
        self.points = search.latents[rows].flatten(1)
        self.sizes = self.points.new_full((len(rows), 1), settings.size)
        self.taken, self.tried = torch.zeros_like(self.points[:, 0]), torch.zeros_like(self.points[:, 0])
        tolerance, goal = problem.objective.tolerance, float(problem.goal.abs().max())
        least = _ROUNDINGS * torch.finfo(self.points.dtype).eps * goal
        self.close = min(max(settings.closeness * tolerance, least), tolerance)

    def run(self) -> None:
        """Move each sample as often as is asked for, or as its budget allows."""
        everyone = torch.ones(len(self.rows), dtype=torch.bool, device=self.points.device)
        self.slopes = self.look(self.points, everyone, None)
        polished, reached = self.projected(self.points, self.points, self.slopes, everyone)
        self.points = torch.where(reached[:, None], polished, self.points)
        self.slopes = self.look(self.points, reached, self.slopes)
        half = self.settings.moves // 2
        for move in range(self.settings.moves):
            moving = self.search.affordable[self.rows]
            if not bool(moving.any()):
                break
            took = self.move(move, moving)
            if move < half:
                change = torch.exp((took.to(self.sizes) - _WANTED)[:, None] / (move + 1) ** 0.5)
                self.sizes = torch.where(moving[:, None], self.sizes * change, self.sizes)
            else:
                self.taken += took
                self.tried += moving
            self.search.latents[self.rows] = self.points.reshape(-1, *self.shape)
        self.search.notes["accepted"][self.rows] = (self.taken / self.tried).double()

    def move(self, number: int, moving: Bool[Tensor, " some"]) -> Bool[Tensor, " some"]:
        """Propose a move for each sample that is moving and return which were taken."""
        places, seed = self.search.places[self.rows], self.settings.seed
        noise = normals(places, seed, 2 * number, self.points.shape[1]).to(self.points)
        step = tangent(self.slopes, self.sizes * noise)
        there, arrived = self.projected(self.points + step, self.points, self.slopes, moving)
        slopes = self.look(there, arrived, self.slopes)
        back = tangent(slopes, self.points - there)
        home, returned = self.projected(there + back, there, slopes, arrived)
        same = returned & ((home - self.points).norm(dim=1) <= _SAME * step.norm(dim=1))
        logarithm = self.density(there, slopes) - self.density(self.points, self.slopes)
        logarithm += (step.square().sum(1) - back.square().sum(1)) / (2 * self.sizes[:, 0].square())
        chance = uniforms(places, seed, 2 * number + 1, 1)[:, 0].to(self.points)
        took: Tensor = same & (chance.log() < logarithm)
        self.points = torch.where(took[:, None], there, self.points)
        self.slopes = torch.where(took[:, None, None], slopes, self.slopes)
        return took

    def look(
        self, points: Float[Tensor, "some numbers"], wanted: Bool[Tensor, " some"], known: Tensor | None
    ) -> Tensor:
        """Return the derivatives at points; where they are not wanted, those known before."""
        if known is not None and not bool(wanted.any()):
            return known
        _, found = linearised(self.problem, points[wanted].reshape(-1, *self.shape))
        whole = found.new_ones(len(points), *found.shape[1:]) if known is None else known.clone()
        whole[wanted] = found
        self.search.went_forward(self.rows[wanted], self.problem.prior)
        self.search.went_back(self.rows[wanted], self.problem.prior, found.shape[1])
        return whole

    def projected(
        self, starts: Tensor, origins: Tensor, slopes: Tensor, wanted: Bool[Tensor, " some"]
    ) -> tuple[Tensor, Bool[Tensor, " some"]]:
        """Move starts along the normal space of their origins until they are on the level set; say which came there."""
        found, arrived = starts.clone(), torch.zeros_like(wanted)
        inverse, under_way = inverted(gram(slopes)), wanted.clone()
        for _ in range(self.settings.projections):
            rows = under_way.nonzero()[:, 0]
            if not len(rows):
                break
            with torch.no_grad():
                residuals = self.problem.at(found[rows].reshape(-1, *self.shape)).residuals
            self.search.went_forward(self.rows[rows], self.problem.prior)
            near = residuals.square().mean(1).sqrt() <= self.close
            arrived[rows[near]] = True
            under_way[rows[near]] = False
            left = rows[~near]
            weights = torch.einsum("nrs,ns->nr", inverse[left], residuals[~near])
            found[left] -= torch.einsum("nrd,nr->nd", slopes[left], weights)
            lost = (found[left] - origins[left]).norm(dim=1) > _FAR * found.shape[1] ** 0.5
            under_way[left[lost | ~found[left].isfinite().all(1)]] = False
        return found, arrived

    def density(self, points: Tensor, slopes: Tensor) -> Float[Tensor, " some"]:
        """Return the logarithm of φ(z)/√det(JJᵀ), up to a constant."""
        density: Tensor = -(points.square().sum(1) + log_determinant(gram(slopes))) / 2
        return density
