"""Searches for all samples: as many at once as the memory takes, begun again where they end in nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whence._numbers import even_parts
from whence.invariants.problem import Problem
from whence.invariants.solvers import Search, Solver, Status

Starts = Callable[[int], Float[Tensor, "samples *latent"]]
"""From the number of an attempt, 0 first, to a start for each sample."""


@final
@dataclass(frozen=True)
class Limits:
    """What searches may cost.

    Attributes:
        restarts: How often a sample whose search ends in nothing begins again elsewhere.
        budget: Evaluations of the prior's network for each sample, over all its attempts.
        together: How many samples are searched for together.
    """

    restarts: int
    budget: float
    together: int


def search_all(
    problem: Problem, starts: Starts, solver: Solver, limits: Limits, told: Callable[[float], None]
) -> Search:
    """Search for every sample; an interrupt from the keyboard leaves what was found so far.

    A search that does not end within the tolerance is begun again from another start, while the sample's budget
    lasts. Where no attempt succeeds the sample is where its first one ended. The note ``restarts`` counts attempts
    after the first.
    """
    whole = Search(starts(0))
    whole.notes["restarts"] = torch.zeros_like(whole.evaluations)
    for attempt in range(limits.restarts + 1):
        failed = (whole.status != Status.SOLVED) & (whole.evaluations < limits.budget)
        rows = failed.nonzero()[:, 0]
        begun = whole.latents if attempt == 0 else starts(attempt) if len(rows) else whole.latents
        for part in even_parts(range(len(rows)), limits.together):
            some = rows[part.start : part.stop]
            if attempt:
                told(-len(some))
            search = Search(begun[some], told, limits.budget - whole.evaluations[some], whole.places[some])
            whole.notes["restarts"][some] = float(attempt)
            interrupted = _interrupted(problem, solver, search)
            _take(whole, some, search, attempt)
            if interrupted:
                whole.status[some[search.status == Status.INTERRUPTED]] = int(Status.INTERRUPTED)
                whole.status[rows[part.stop :]] = int(Status.INTERRUPTED)  # whose attempt did not begin
                return whole
    return whole


def _interrupted(problem: Problem, solver: Solver, search: Search) -> bool:
    """Run a solver and say whether it was stopped from the keyboard; no row is left open."""
    ending, interrupted = Status.BUDGET, False
    try:
        solver.solve(problem, search)
    except KeyboardInterrupt:
        ending, interrupted = Status.INTERRUPTED, True
    search.close((search.status == Status.OPEN).nonzero()[:, 0], ending)
    return interrupted


def _take(whole: Search, rows: Int[Tensor, " some"], search: Search, attempt: int) -> None:
    """Write what a search of some rows found; of a later attempt only what it solved."""
    whole.evaluations[rows] += search.evaluations
    taken = search.status == Status.SOLVED if attempt else torch.ones_like(search.open)
    whole.latents[rows[taken]], whole.status[rows[taken]] = search.latents[taken], search.status[taken]
    for name, values in search.notes.items():
        column = whole.notes.setdefault(name, values.new_full((len(whole.latents),), torch.nan))
        column[rows[taken]] = values[taken]
