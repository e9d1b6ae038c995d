"""Priors and objectives of a few numbers, whose invariants are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from whence.invariants import Objective, draw
from whence.invariants.problem import Problem
from whence.invariants.solvers import Search


class Plain:
    """A prior whose latents are its inputs; it counts for how many of them it was called, and may interrupt."""

    def __init__(self, *shape: int, interrupt_at: float = float("inf")) -> None:
        self.latent_shape = tuple(shape)
        self.calls, self.decoded, self._interrupt_at = 0, 0, interrupt_at

    def decode(self, latents: Tensor) -> Tensor:
        """Return the latents."""
        self.calls += 1
        if self.calls > self._interrupt_at:
            raise KeyboardInterrupt
        self.decoded += len(latents)
        return latents * 1.0


def problem(function: Callable[[Tensor], Tensor], goal: list[float], *shape: int, tolerance: float = 1e-3) -> Problem:
    """Return the equations that a function takes a goal, over a plain prior."""
    objective = Objective(function, "toy", tolerance=tolerance)
    return Problem(objective, Plain(*shape), torch.tensor(goal, dtype=torch.float64))


def starts(n: int, *shape: int, seed: int = 0) -> Tensor:
    """Return draws of a plain prior."""
    return draw(Plain(*shape), n, seed, dtype=torch.float64)


def solved_by(solver: Any, equations: Problem, latents: Tensor, **settings: Any) -> Search:
    """Return the search of a solver from some latents."""
    search = Search(latents, **settings)
    solver.solve(equations, search)
    return search


def squared_radius(points: Tensor) -> Tensor:
    """Return |z|²."""
    return points.square().sum(1)


def radius_and_height(points: Tensor) -> Tensor:
    """Return (|z_1:2|², z_3)."""
    return torch.stack([points[:, :2].square().sum(1), points[:, 2]], 1)
