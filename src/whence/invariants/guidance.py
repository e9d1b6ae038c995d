"""One-pass guidance: the chain of a prior is bent towards the value while it runs; a baseline, never exact."""

from __future__ import annotations

import time

import torch
from jaxtyping import Float
from torch import Tensor

from whence._errors import ArgumentError
from whence._numbers import even_parts, is_number, is_whole
from whence._progress import progress
from whence.invariants.api import certified, decoded
from whence.invariants.asking import check_query, checked_kind, problem_of
from whence.invariants.memory import samples_at_once
from whence.invariants.objective import Objective
from whence.invariants.priors.protocol import Chain, draw
from whence.invariants.problem import Problem, row_gradient
from whence.invariants.result import InvariantSet
from whence.invariants.solvers import Search, Status


def guided(
    objective: Objective,
    query: Float[Tensor, "*input"],
    chain: Chain,
    n: int,
    *,
    strength: float = 1.0,
    cutoff: float | None = None,
    seed: int = 0,
    memory_budget: int = 2**30,
) -> InvariantSet:
    """Sample inputs near an invariant set in one pass through a chain (posterior sampling: Chung et al. 2023).

    At each step the chain foretells where it will end; the state is moved down the gradient of the distance of that
    end's values from the query's. The distance is each sample's own, and it is not squared. One chain a sample, so it
    is cheap, and nothing makes the end hit the value: the certificate says by how much it is missed. The latents of
    the result are the noise that chains began with; decoding them gives other inputs, since no step is bent there.
    After an interrupt from the keyboard, samples that were not guided yet are what their noise decodes to.

    Args:
        objective: What is to be kept.
        query: One input, without a batch axis.
        chain: A prior whose steps can be seen.
        n: How many samples.
        strength: How far a step is bent, in the state's own unit and per unit of the objective's distance.
        cutoff: As of `invariants`.
        seed: Of the noise.
        memory_budget: Bytes that the graphs of samples guided together may take.

    Raises:
        ArgumentError: If n, the strength, the budget, the cutoff or another argument is not what it must be.
        ShapeError: If the query's shape is not the prior's.
        GradientError: If the objective has no gradient by its input.
    """
    begun = time.perf_counter()
    if not is_whole(n) or n < 1:
        raise ArgumentError(f"n is how many samples are wanted, 1 or more; got {n!r}.")
    if not is_number(strength) or strength < 0:
        raise ArgumentError(f"strength is a number from 0; got {strength!r}.")
    checked_kind("objective", objective, Objective)
    checked_kind("chain", chain, Chain)
    check_query(query, chain)
    problem = problem_of(objective, query, chain, cutoff=cutoff)
    noise = draw(chain, n, seed, device=query.device, dtype=query.dtype)
    search, ends, at_once = Search(noise), [], samples_at_once(problem, query, memory_budget)
    try:
        with progress(f"guided samples of {objective.name}", n) as advance:
            for part in even_parts(range(n), at_once):
                state = noise[part.start : part.stop]
                for step in range(chain.steps):
                    state = _bent(problem, chain, state, step, strength)
                with torch.no_grad():
                    ends.append(chain.finish(state))
                advance(len(part))
    except KeyboardInterrupt:
        done = sum(map(len, ends))
        ends += [decoded(chain, noise[done:], at_once)] if done < n else []
        search.status[done:] = int(Status.INTERRUPTED)
    search.went_forward(search.rows(), chain)
    search.went_back(search.rows(), chain)
    told = {"spread": float("nan"), "pool_evaluations": 0, "seed": seed, "seconds": time.perf_counter() - begun}
    return certified(problem, query, search, torch.cat(ends), told, at_once)


def _bent(problem: Problem, chain: Chain, state: Tensor, step: int, strength: float) -> Tensor:
    """Take a step of the chain and move its end down the gradient of the foretold distance."""
    at = state.detach().requires_grad_()
    with torch.enable_grad():
        after, end = chain.advance(at, step)
        distance = problem.measure(chain.finish(end)).farther
        gradient = row_gradient(problem, distance, at)
    # Where the gradient is no number, or without end, the step is left as the chain takes it.
    return after.detach() - strength * gradient.nan_to_num(0.0, 0.0, 0.0)
