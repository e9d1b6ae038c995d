"""Invariants: inputs on which a network takes the value that it takes on a query."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from whence._errors import ArgumentError, UnreachedError
from whence._numbers import even_parts, is_number, is_whole
from whence._progress import progress
from whence.invariants.asking import check_query, checked_kind, problem_of, values_over
from whence.invariants.memory import samples_at_once
from whence.invariants.objective import Objective
from whence.invariants.pool import Pool, checked_pool, draw_pool, pool_values, starts_of
from whence.invariants.priors.protocol import Prior, draw, evaluations, fitting_memory, latent_quantile
from whence.invariants.problem import Measured, Problem, joined
from whence.invariants.result import InvariantSet, said
from whence.invariants.searching import Limits, Starts, search_all
from whence.invariants.solvers import GaussNewton, Search, Solver, Status

_FAILED = {Status.OPEN: Status.MISSED, Status.SOLVED: Status.MISSED}  # what a sample's status is that is not solved


def invariants(  # noqa: PLR0913 - each is a choice of its own
    objective: Objective,
    query: Float[Tensor, "*input"],
    prior: Prior,
    n: int,
    *,
    solver: Solver | None = None,
    pool: Pool | int = 1024,
    cutoff: float | None = None,
    goal: Any = None,
    data: Any = None,
    restarts: int = 4,
    budget: float = float("inf"),
    seed: int = 0,
    memory_budget: int = 2**30,
) -> InvariantSet:
    """Find inputs of a prior on which an objective takes the value that it takes on a query (EquiDiff, section 3.1).

    Every sample comes back, with its own certificate; one that is not within the objective's tolerance is marked, not
    dropped. An interrupt from the keyboard ends the search with what was found so far.

    Args:
        objective: What is to be kept; it has its own distance and tolerance.
        query: One input, without a batch axis.
        prior: Where samples come from; its inputs have the query's shape.
        n: How many samples.
        solver: Moves latents to their goal; `GaussNewton` if left out.
        pool: Draws of the prior that searches start from, those nearest in value and far from each other: made once
            for many calls by `draw_pool`, or how many to draw now. 0 starts from n draws as they come.
        cutoff: Demand also that the sample, low-pass filtered at this share of the highest frequency, takes the
            value that the filtered query takes: then the value does not hang on what no eye sees. (The published
            algorithm demands the unfiltered query's value, which the query itself fails; see `InfiniteOptimization`.)
        goal: Values to reach instead of the query's, a row of numbers; of one value also the number alone.
        data: Examples, or inputs alone, over which the objective's spread is measured (the first 1,024); the pool's
            draws if left out.
        restarts: How often a sample whose search ends in nothing begins again from another start.
        budget: Evaluations of the prior's network that a sample may cost with its restarts, beyond the solver's own
            limit of steps; a pass back counts as two.
        seed: Of all draws.
        memory_budget: Bytes that the graphs of samples searched for together may take, on the way back as well.

    Raises:
        ArgumentError: If n, the cutoff, the goal, the seed, another argument or the query's range is not what it must
            be, the objective cannot be called with the query or the data, its value there is no finite number or hangs
            on what stands beside the query, or memory does not hold so many samples.
        DataError: If the data cannot be read.
        ShapeError: If the query's shape is not the prior's, or the goal is of another length.
        GradientError: If the objective has no gradient by its input.
        UnreachedError: If no sample came within the tolerance; the error has them all as ``found`` and says how near
            they came.
    """
    begun = time.perf_counter()
    if not is_whole(n) or n < 1:
        raise ArgumentError(f"n is how many samples are wanted, 1 or more; got {n!r}.")
    if not is_whole(restarts) or restarts < 0 or not (budget == float("inf") or is_number(budget)) or budget <= 0:
        raise ArgumentError(f"restarts is 0 or more and budget above 0; got {restarts!r} and {budget!r}.")
    way = GaussNewton() if solver is None else solver
    for name, one, kind in (("objective", objective, Objective), ("prior", prior, Prior), ("solver", way, Solver)):
        checked_kind(name, one, kind)
    check_query(query, prior)
    problem = problem_of(objective, query, prior, cutoff=cutoff, goal=goal)
    at_once = samples_at_once(problem, query, memory_budget)
    known = _pool(pool, prior, query, seed, memory_budget)
    spread, starts, cost = _begin(problem, known, n, seed, query, data, at_once)
    # A pool drawn for this call is paid by it; one that was handed in was paid for before.
    cost = 0 if isinstance(pool, Pool) else cost
    with progress(f"invariants of {objective.name}", n) as advance, fitting_memory(n, "samples"):
        limits = Limits(restarts, budget, at_once)
        search = search_all(problem, starts, way, limits, advance)
    told = {"spread": spread, "pool_evaluations": cost, "seed": seed, "seconds": time.perf_counter() - begun}
    try:
        found = certified(problem, query, search, decoded(prior, search.latents, at_once), told, at_once)
    except KeyboardInterrupt:  # a first one: what is left is short, and all that was found would be lost
        found = certified(problem, query, search, decoded(prior, search.latents, at_once), told, at_once)
    if not found.solved.any() and not (search.status == Status.INTERRUPTED).any():
        raise UnreachedError(_how_near(found, problem, known, at_once), found)
    return found


def _pool(pool: Pool | int, prior: Prior, query: Tensor, seed: int, memory_budget: int) -> Pool | None:
    """Return the pool to start from, drawn if only its size is given; None without one.

    Raises:
        ArgumentError: If the size is not a whole number from 0.
    """
    if isinstance(pool, Pool):
        return checked_pool(pool, prior, query)
    if not is_whole(pool) or pool < 0:
        raise ArgumentError(f"pool is a Pool, or how many draws it holds, from 0; got {pool!r}.")
    if not pool:
        return None
    return draw_pool(prior, pool, seed=seed, device=query.device, dtype=query.dtype, memory_budget=memory_budget)


def _begin(
    problem: Problem, pool: Pool | None, n: int, seed: int, query: Tensor, data: Any, at_once: int
) -> tuple[float, Starts, int]:
    """Return the objective's spread, where each attempt starts, and the evaluations that the pool cost."""
    if pool is None:
        values, cost = None, 0

        def starts(attempt: int) -> Tensor:
            return draw(problem.prior, n, seed + attempt, device=query.device, dtype=query.dtype)
    else:
        values, distances = pool_values(pool, problem, at_once)
        cost = len(pool) * evaluations(problem.prior)

        def starts(attempt: int) -> Tensor:
            return starts_of(pool, distances, n, seed, attempt)

    if data is not None:
        values = values_over(problem.objective, data, query, at_once)
    return float("nan") if values is None else spread_of(values), starts, cost


def spread_of(values: Float[Tensor, "some values"]) -> float:
    """Return the standard deviation of an objective's values: the root of the mean variance if there are many."""
    return float(values.var(0, correction=0).mean().sqrt())


def decoded(prior: Prior, latents: Tensor, at_once: int) -> Tensor:
    """Return the inputs that latents stand for."""
    with torch.no_grad():
        parts = even_parts(range(len(latents)), at_once)
        return torch.cat([prior.decode(latents[part.start : part.stop]) for part in parts])


def certified(
    problem: Problem, query: Tensor, search: Search, inputs: Tensor, told: dict[str, Any], at_once: int
) -> InvariantSet:
    """Return samples with what proves each: their values are measured anew, the solver's word does not count."""
    with torch.no_grad():
        parts = even_parts(range(len(inputs)), at_once)
        measured = joined([problem.measure(inputs[part.start : part.stop]) for part in parts])
    attrs = {
        "objective": problem.objective.name,
        "goal": problem.goal.tolist(),
        "tolerance": problem.objective.tolerance,
        "cutoff": "none" if problem.cutoff is None else problem.cutoff,
        **told,
    }
    return InvariantSet(inputs, search.latents, query.detach().clone(), _certificate(search, measured, attrs))


def _certificate(search: Search, measured: Measured, attrs: dict[str, Any]) -> xr.Dataset:
    """Return what proves each sample, from values measured after the search."""
    columns: dict[str, Any] = {
        "residual": measured.distance,
        "solved": measured.solved,
        "evaluations": search.evaluations,
        **search.notes,
    }
    if measured.filtered_distance is not None:
        columns["filtered_residual"] = measured.filtered_distance
    data: dict[str, Any] = {name: ("sample", one.cpu().numpy()) for name, one in columns.items()}
    data["latent_quantile"] = ("sample", latent_quantile(search.latents))
    data["value"] = (("sample", "component"), measured.values.cpu().numpy())
    # What was measured decides: a search that was cut short may have come within the tolerance all the same, and a
    # solver that stopped by a measure of its own may not have.
    words = [
        said(Status.SOLVED if solved else _FAILED.get(Status(status), Status(status)))
        for solved, status in zip(measured.solved.tolist(), search.status.tolist(), strict=True)
    ]
    return xr.Dataset(data, {"status": ("sample", np.array(words, dtype=object))}, attrs)


def _how_near(found: InvariantSet, problem: Problem, pool: Pool | None, at_once: int) -> str:
    """Return what to say when no sample reached the goal."""
    told = found.certificate
    away = told.residual.values
    if "filtered_residual" in told:
        away = np.maximum(away, told.filtered_residual.values)
    nearest = int(np.nanargmin(away)) if np.isfinite(away).any() else 0
    goal, value = problem.goal.tolist(), told["value"].values[nearest].tolist()
    shown = f"{goal[0]:.6g}; the nearest came to {value[0]:.6g}" if len(goal) == 1 else f"{len(goal)} values"
    reach = ""
    if pool is not None and len(goal) == 1:
        drawn, _ = pool_values(pool, problem, at_once)
        reach = f" The prior's own draws go from {float(drawn.min()):.4g} to {float(drawn.max()):.4g}."
    both = "" if problem.cutoff is None else ", filtered or not"
    failures = ", ".join(f"{count} {name}" for name, count in found.summary()["failures"].items())
    return (
        f"None of {len(found)} samples reached {problem.objective.name} = {shown}, {away[nearest]:.3g} away{both} "
        f"(tolerance {problem.objective.tolerance:g}; {failures}).{reach} Take a query or goal within the prior's "
        "reach, a larger pool, or more steps; the samples are in this error's `found`."
    )
