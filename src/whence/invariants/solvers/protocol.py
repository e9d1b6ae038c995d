"""What a solver is, and the searches it moves."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whence.invariants.priors.protocol import Prior, evaluations
from whence.invariants.problem import Problem

BACKWARD = 2  # evaluations of the prior's network that a pass back through it counts as


class Status(IntEnum):
    """How the search for one sample stands or ended.

    Attributes:
        OPEN: Under way.
        SOLVED: Within the tolerance.
        BUDGET: All steps were used up.
        STALLED: No step lowers the residual any more: a value that is not reached from here.
        FLAT: The objective does not depend on the input here, as a unit that is silent.
        INTERRUPTED: Stopped from outside.
        LOST: The latent grew beyond all numbers, or its value is none.
        MISSED: The solver stopped by a measure of its own, outside of the tolerance.
    """

    OPEN = 0
    SOLVED = 1
    BUDGET = 2
    STALLED = 3
    FLAT = 4
    INTERRUPTED = 5
    LOST = 6
    MISSED = 7


@final
class Search:
    """Where the searches for some samples stand: a solver moves the latents, row by row, and notes what it costs.

    Args:
        starts: Latents to begin with; copied.
        told: Called with how many searches ended.
        budget: Evaluations of the prior's network after which a row is no longer open, for all or each; the last
            step may pass it.
        places: Which sample of the whole call each row is: what a row draws at random hangs on it, and not on which
            other rows there are. From 0 if left out.

    Attributes:
        latents: Where each is now. Whatever stops a solver, they are what was found so far.
        status: A `Status` a row.
        evaluations: Of the prior's network, a row; a pass back counts as two.
        notes: What else a solver tells of each row, by name; columns of the certificate.
    """

    latents: Float[Tensor, "samples *latent"]
    status: Int[Tensor, " samples"]
    evaluations: Float[Tensor, " samples"]

    def __init__(
        self,
        starts: Float[Tensor, "samples *latent"],
        told: Callable[[float], None] | None = None,
        budget: float | Float[Tensor, " samples"] = torch.inf,
        places: Int[Tensor, " samples"] | None = None,
    ) -> None:
        self.latents = starts.detach().clone()
        self.status = torch.full((len(starts),), int(Status.OPEN), device=starts.device)
        self.evaluations = torch.zeros(len(starts), dtype=torch.float64, device=starts.device)
        self.notes: dict[str, Float[Tensor, " samples"]] = {}
        self.places = torch.arange(len(starts), device=starts.device) if places is None else places
        self._told, self._budget = told, budget

    @property
    def open(self) -> Bool[Tensor, " samples"]:
        """Which searches are under way."""
        return (self.status == Status.OPEN) & self.affordable

    @property
    def affordable(self) -> Bool[Tensor, " samples"]:
        """Which searches have not used their budget up, ended or not."""
        return self.evaluations < self._budget

    def rows(self) -> Int[Tensor, " open"]:
        """Return the rows of the searches under way."""
        return self.open.nonzero()[:, 0]

    def close(self, rows: Int[Tensor, " some"], status: Status) -> None:
        """End some searches."""
        self.status[rows] = int(status)
        if self._told is not None:
            self._told(len(rows))

    def reopen(self) -> None:
        """Begin all searches again, from where they are."""
        if self._told is not None:
            self._told(-int((self.status != Status.OPEN).sum()))
        self.status.fill_(int(Status.OPEN))

    def went_forward(self, rows: Int[Tensor, " some"], prior: Prior) -> None:
        """Note a decoding of some of the samples."""
        self.evaluations[rows] += evaluations(prior)

    def went_back(self, rows: Int[Tensor, " some"], prior: Prior, passes: int = 1) -> None:
        """Note passes back through the decoding of some of the samples."""
        self.evaluations[rows] += BACKWARD * passes * evaluations(prior)


@runtime_checkable
class Solver(Protocol):
    """Moves latents until their inputs take the query's values."""

    def solve(self, problem: Problem, search: Search) -> None:
        """Move the latents of a search; close each row as soon as it ends. Rows left open have used their steps up."""
        ...
