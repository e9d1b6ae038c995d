"""Exact sampling on the level set: projected Metropolis moves in the space of latents."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whence.invariants.problem import Problem, linearised
from whence.invariants.solvers.gauss_newton import GaussNewton, tangent
from whence.invariants.solvers.protocol import Search, Solver, Status

_WANTED = 0.6  # share of moves to be taken, towards which the size of moves is adapted
_SAME = 1e-2  # of a move's length: how near the way back has to come to where it began


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
        closeness: How near the level set moves end, as a share of the objective's tolerance.
        projections: Steps that a move may take back onto the level set.
        first: What finds the level set.
        seed: Of the moves.
    """

    moves: int = 25
    size: float = 0.5
    closeness: float = 0.01
    projections: int = 12
    first: Solver = field(default_factory=GaussNewton)
    seed: int = 0

    def solve(self, problem: Problem, search: Search) -> None:
        """Find the level set, then walk on it."""
        self.first.solve(problem, search)
        rows = (search.status == Status.SOLVED).nonzero()[:, 0]
        search.notes["accepted"] = torch.full_like(search.evaluations, torch.nan)
        if len(rows):
            _Walk(self, problem, search, rows).run()


@final
class _Walk:
    """The walk of some samples: each has its own derivatives and its own size of moves."""

    def __init__(self, settings: Metropolis, problem: Problem, search: Search, rows: Int[Tensor, " some"]) -> None:
        self.settings, self.problem, self.search, self.rows = settings, problem, search, rows
        self.shape = search.latents.shape[1:]
        self.points = search.latents[rows].flatten(1)
        self.close = settings.closeness * problem.objective.tolerance
        self.sizes = self.points.new_full((len(rows), 1), settings.size)
        self.taken = torch.zeros_like(self.points[:, 0])
        self.random = torch.Generator().manual_seed(settings.seed)

    def run(self) -> None:
        """Move each sample as often as is asked for."""
        everyone = torch.ones(len(self.rows), dtype=torch.bool, device=self.points.device)
        self.slopes = self.look(self.points, everyone)
        polished, reached = self.projected(self.points, self.points, self.slopes, everyone)
        self.points = torch.where(reached[:, None], polished, self.points)
        half = self.settings.moves // 2
        for move in range(self.settings.moves):
            took = self.move()
            if move < half:
                self.sizes = self.sizes * torch.exp((took.to(self.sizes) - _WANTED)[:, None] / (move + 1) ** 0.5)
            else:
                self.taken += took
            self.search.latents[self.rows] = self.points.reshape(-1, *self.shape)
        self.search.notes["accepted"][self.rows] = (self.taken / max(1, self.settings.moves - half)).double()

    def move(self) -> Bool[Tensor, " some"]:
        """Propose a move for each sample and return which were taken."""
        noise = torch.randn(self.points.shape, generator=self.random, dtype=torch.float64).to(self.points)
        step = tangent(self.slopes, self.sizes * noise)
        everyone = torch.ones(len(self.rows), dtype=torch.bool, device=step.device)
        there, arrived = self.projected(self.points + step, self.points, self.slopes, everyone)
        slopes = self.look(there, arrived)
        back = tangent(slopes, self.points - there)
        home, returned = self.projected(there + back, there, slopes, arrived)
        length = step.norm(dim=1)
        same = returned & ((home - self.points).norm(dim=1) <= _SAME * length)
        logarithm = self.density(there, slopes) - self.density(self.points, self.slopes)
        logarithm += (step.square().sum(1) - back.square().sum(1)) / (2 * self.sizes[:, 0].square())
        chance = torch.rand(len(self.rows), generator=self.random, dtype=torch.float64).to(self.points)
        took: Tensor = same & (chance.log() < logarithm)
        self.points = torch.where(took[:, None], there, self.points)
        self.slopes = torch.where(took[:, None, None], slopes, self.slopes)
        return took

    def look(self, points: Float[Tensor, "some numbers"], wanted: Bool[Tensor, " some"]) -> Tensor:
        """Return the derivatives at points; where they are not wanted, those known before or 1."""
        _, found = linearised(self.problem, points[wanted].reshape(-1, *self.shape))
        whole = found.new_ones(len(points), *found.shape[1:])
        whole[wanted] = found
        self.search.went_forward(self.rows[wanted], self.problem.prior)
        self.search.went_back(self.rows[wanted], self.problem.prior, found.shape[1])
        return whole

    def projected(
        self, starts: Tensor, origins: Tensor, slopes: Tensor, wanted: Bool[Tensor, " some"]
    ) -> tuple[Tensor, Bool[Tensor, " some"]]:
        """Move starts along the normal space of their origins until they are on the level set; say which came there."""
        found, arrived = starts.clone(), torch.zeros_like(wanted)
        inverse = torch.linalg.pinv(torch.einsum("nrd,nsd->nrs", slopes, slopes), hermitian=True)
        under_way = wanted.clone()
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
            lost = (found[left] - origins[left]).norm(dim=1) > 10 * found.shape[1] ** 0.5
            under_way[left[lost | ~found[left].isfinite().all(1)]] = False
        return found, arrived

    def density(self, points: Tensor, slopes: Tensor) -> Float[Tensor, " some"]:
        """Return the logarithm of φ(z)/√det(JJᵀ), up to a constant."""
        spectrum = torch.linalg.eigvalsh(torch.einsum("nrd,nsd->nrs", slopes, slopes))
        # Equations that follow from the others, such as probabilities that sum to 1, do not count.
        counted = spectrum > spectrum.shape[1] * torch.finfo(spectrum.dtype).eps * spectrum[:, -1:]
        volume = torch.where(counted, spectrum.clamp_min(1e-300).log(), 0).sum(1) / 2
        density: Tensor = -points.square().sum(1) / 2 - volume
        return density
