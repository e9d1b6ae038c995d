"""What every solver keeps to, the published algorithm as it is written, and optimizers of torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.invariants.toys import Plain, problem, radius_and_height, solved_by, squared_radius, starts
from whence._errors import ArgumentError
from whence.invariants import (
    FirstOrder,
    GaussNewton,
    InfiniteOptimization,
    Metropolis,
    Objective,
    Search,
    Status,
    invariants,
    low_pass,
)
from whence.invariants.problem import Problem
from whence.invariants.solvers.randomness import normals, uniforms

SOLVERS: dict[str, Callable[[], Any]] = {
    "Gauss-Newton": GaussNewton,
    "Gauss-Newton, derivatives anew": lambda: GaussNewton(secant=False),
    "Metropolis": lambda: Metropolis(moves=6),
    "Algorithm 1": lambda: InfiniteOptimization(rate=0.2, cutoff=None, threshold=1e-7),
    "Algorithm 1, feasible": lambda: InfiniteOptimization(rate=0.2, feasible=True, threshold=1e-7),
    "SGD": lambda: FirstOrder(torch.optim.SGD, rate=0.2),
    "Adam": lambda: FirstOrder(torch.optim.Adam, rate=0.1),
    "Adam, length kept": lambda: FirstOrder(torch.optim.Adam, rate=0.1, renormalise=True),
}
EACH = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


def quartic() -> Problem:
    """A curved equation that latents of every length solve, over images of 2 by 2; its filter keeps only the mean."""
    objective = Objective(lambda images: _both(images.flatten(1)), "toy", tolerance=1e-3)
    goal = torch.tensor([0.3], dtype=torch.float64)
    return Problem(objective, Plain(1, 2, 2), goal, torch.tensor([0.1], dtype=torch.float64), 0.1)


def _both(flat: Tensor) -> Tensor:
    return flat[:, 0] + 0.2 * flat[:, 1] ** 2 - 0.1 * flat[:, 2] * flat[:, 3]


def for_solver(solver: Any) -> Problem:
    """Return the equation with a filter for the solver that needs one, without for the others."""
    whole = quartic()
    if getattr(solver, "feasible", False):
        return whole
    return Problem(whole.objective, whole.prior, whole.goal)


@EACH
def test_every_solver_solves_a_curved_equation(solver: Callable[[], Any]) -> None:
    equations = for_solver(solver())
    search = solved_by(solver(), equations, starts(12, 1, 2, 2))
    assert (search.status == Status.SOLVED).all()
    assert float(equations.at(search.latents).farther.max()) <= 1e-3


@EACH
def test_a_sample_is_the_same_whatever_is_solved_beside_it(solver: Callable[[], Any]) -> None:
    latents = starts(7, 1, 2, 2)
    together = solved_by(solver(), for_solver(solver()), latents)
    for rows in ([3], [6, 0, 2]):
        places = torch.tensor(rows)
        apart = solved_by(solver(), for_solver(solver()), latents[rows], places=places)
        # The order of sums in a batch is torch's: they agree to rounding, grown by a hundred steps.
        np.testing.assert_allclose(apart.latents, together.latents[rows], rtol=0, atol=1e-8)
        assert apart.status.tolist() == together.status[rows].tolist()
        assert apart.evaluations.tolist() == together.evaluations[rows].tolist()


@EACH
def test_the_same_seed_gives_the_same_samples_bit_for_bit(solver: Callable[[], Any]) -> None:
    one, other = (solved_by(solver(), for_solver(solver()), starts(5, 1, 2, 2)) for _ in range(2))
    assert torch.equal(one.latents, other.latents)


@EACH
def test_evaluations_are_the_decodings_and_twice_the_passes_back(solver: Callable[[], Any]) -> None:
    equations, back = for_solver(solver()), 0
    prior: Any = equations.prior

    class Counting(torch.autograd.Function):
        @staticmethod
        def forward(_context: Any, latents: Tensor) -> Tensor:
            return latents.clone()

        @staticmethod
        def backward(_context: Any, gradient: Any) -> Any:
            nonlocal back
            back += int((gradient.flatten(1) != 0).any(1).sum())  # rows that no number was asked of get zeros
            return gradient

    class Counted:
        latent_shape = prior.latent_shape

        def decode(self, latents: Tensor) -> Tensor:
            found: Tensor = Counting.apply(prior.decode(latents))  # type: ignore[no-untyped-call]
            return found

    search = solved_by(solver(), equations.over(Counted()), starts(6, 1, 2, 2))
    assert prior.decoded + 2 * back == int(search.evaluations.sum())


@EACH
def test_a_solved_start_is_not_moved_and_costs_little(solver: Callable[[], Any]) -> None:
    equations = for_solver(solver())
    solution = solved_by(GaussNewton(), equations, starts(1, 1, 2, 2)).latents
    if not isinstance(solver(), Metropolis):
        latents = torch.cat([solution, starts(3, 1, 2, 2, seed=1)])
        exact = solved_by(
            GaussNewton(),
            Problem(
                equations.objective.within(1e-9),
                equations.prior,
                equations.goal,
                equations.filtered_goal,
                equations.cutoff,
            ),
            latents[:1],
        ).latents
        latents[:1] = exact
        search = solved_by(solver(), equations, latents)
        assert torch.equal(search.latents[:1], exact)
        assert float(search.evaluations[0]) <= 1 + 2 * 2  # one look: a decoding, and a pass back an equation at most


@EACH
def test_an_interrupt_leaves_what_was_found_so_far(solver: Callable[[], Any]) -> None:
    whole = for_solver(solver())
    latents = starts(6, 1, 2, 2)
    search = Search(latents)
    with pytest.raises(KeyboardInterrupt):
        solver().solve(whole.over(Plain(1, 2, 2, interrupt_at=4)), search)
    assert search.latents.isfinite().all()
    assert not torch.equal(search.latents, latents)
    before, after = whole.at(latents).farther, whole.at(search.latents).farther
    assert float(after.mean()) < float(before.mean())


@EACH
def test_a_budget_ends_a_search_at_the_step_that_passes_it(solver: Callable[[], Any]) -> None:
    search = solved_by(solver(), for_solver(solver()), starts(6, 1, 2, 2), budget=10)
    # The costliest step: a move of Metropolis, with two ways back of 12 decodings and one finding of derivatives.
    assert float(search.evaluations.max()) <= 10 + 2 * 12 + 3
    assert float(search.evaluations.min()) > 0


def test_algorithm_1_takes_the_steps_of_its_listing() -> None:
    """Lines 9 to 27, written out for one sample with torch's own SGD."""
    image = torch.rand(1, 6, 6, dtype=torch.float64)
    weights = torch.randn(36, dtype=torch.float64)

    def function(images: Tensor) -> Tensor:
        found: Tensor = (images.flatten(1) @ weights / 6).tanh() + images.flatten(1).square().mean(1)
        return found

    goal = function(image[None])
    latent = starts(1, 1, 6, 6)[0]
    expected, steps = latent.clone().requires_grad_(), 0
    optimizer = torch.optim.SGD([expected], lr=0.3)
    while steps < 30:
        filtered = function(low_pass(expected[None], 0.4))
        total = 0.7 * ((function(expected[None]) - goal).square() + (filtered - goal).square()).sum()
        if total < 0.01:
            break
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
    assert steps > 3
    solver = InfiniteOptimization(rate=0.3, scale=0.7, cutoff=0.4, steps=30)
    equations = Problem(Objective(function, "toy"), Plain(1, 6, 6), goal)
    search = solved_by(solver, equations, torch.stack([latent, starts(1, 1, 6, 6, seed=5)[0]]))
    np.testing.assert_allclose(search.latents[0], expected.detach(), rtol=0, atol=1e-12)


def test_the_query_is_no_zero_of_the_published_loss_and_is_one_of_ours() -> None:
    """A stripe that the filter takes away: the filtered query is flat, and flat is not what the query is."""
    stripes = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(4).expand(1, 8, 8)
    contrast = Objective(lambda images: images.exp().mean((1, 2, 3)), "mean of exp")
    own, filtered = contrast(stripes[None])[0], contrast(low_pass(stripes, 0.5)[None])[0]
    assert float(own) == pytest.approx(math.cosh(1))
    assert float(filtered) == pytest.approx(1)  # the mean of the stripes is 0
    equations = Problem(contrast, Plain(1, 8, 8), own, filtered, 0.5)
    published, feasible = InfiniteOptimization(cutoff=0.5), InfiniteOptimization(feasible=True)
    assert float(published.loss_of(equations)(stripes[None])) == pytest.approx((math.cosh(1) - 1) ** 2)
    assert float(feasible.loss_of(equations)(stripes[None])) == pytest.approx(0.0, abs=1e-12)
    assert float(equations.measure(stripes[None]).farther) < 1e-12
    # So the published algorithm leaves the query, and the feasible one stays.
    moved = solved_by(InfiniteOptimization(cutoff=0.5, rate=1.0, steps=20), equations, stripes[None])
    stayed = solved_by(feasible, equations, stripes[None])
    assert not torch.equal(moved.latents, stripes[None])
    assert torch.equal(stayed.latents, stripes[None])
    assert stayed.status.tolist() == [Status.SOLVED]


def test_a_value_within_the_tolerance_is_not_searched_for_again_though_algorithm_1_s_loss_asks_for_more() -> None:
    """The filtered term stays large where the value is right: a restart would be for nothing."""
    mean = Objective(lambda images: images.exp().mean((1, 2, 3)), "mean of exp", tolerance=10.0)
    stripes = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(4).expand(1, 8, 8)
    solver = InfiniteOptimization(cutoff=0.5, rate=1e-6, steps=3)
    found = invariants(mean, stripes, Plain(1, 8, 8), 2, solver=solver, pool=0, restarts=4)
    assert found.certificate["restarts"].values.tolist() == [0, 0]
    assert found.certificate["evaluations"].values.tolist() == [3 * 3 + 1] * 2  # forward and back, and a last look


def test_without_a_cutoff_algorithm_1_has_no_filtered_term() -> None:
    equations = problem(squared_radius, [2.0], 2)
    loss = InfiniteOptimization(cutoff=None, scale=3.0).loss_of(equations)
    assert loss(torch.tensor([[1.0, 2.0]], dtype=torch.float64)).tolist() == [27.0]  # 3 · (5 - 2)²


def test_a_rate_that_is_too_great_loses_the_latent_and_says_so() -> None:
    search = solved_by(InfiniteOptimization(rate=10.0, cutoff=None), problem(squared_radius, [1.0], 2), starts(4, 2))
    assert set(search.status.tolist()) == {Status.LOST}


def test_optimizers_step_each_sample_as_if_it_were_alone_with_them() -> None:
    equations, latent = problem(squared_radius, [1.0], 3), starts(1, 3)
    alone = latent.clone().requires_grad_()
    optimizer = torch.optim.Adam([alone], lr=0.1)
    for _ in range(10):
        optimizer.zero_grad()
        (squared_radius(alone) - 1).square().sum().backward()
        optimizer.step()
    search = solved_by(FirstOrder(rate=0.1, steps=10), equations, torch.cat([starts(3, 3, seed=2), latent]))
    np.testing.assert_allclose(search.latents[3], alone.detach()[0], rtol=0, atol=1e-12)


def test_renormalised_latents_keep_their_length() -> None:
    latents = starts(5, 4)
    search = solved_by(FirstOrder(steps=25, renormalise=True), problem(lambda z: z[:, 0], [0.5], 4), latents)
    np.testing.assert_allclose(search.latents.norm(dim=1), latents.norm(dim=1), rtol=1e-12)
    assert not torch.equal(search.latents, latents)


def test_notes_of_a_solver_become_columns_whichever_way_samples_are_parted() -> None:
    objective = Objective(lambda images: images.flatten(1).square().sum(1), "squared radius", tolerance=1e-3)
    query = torch.tensor([1.0, 1.0], dtype=torch.float64)
    settings: dict[str, Any] = {"solver": Metropolis(moves=4), "pool": 0, "seed": 3}
    whole = invariants(objective, query, Plain(2), 9, **settings)
    parted = invariants(objective, query, Plain(2), 9, memory_budget=1, **settings)
    assert whole.certificate.accepted.dims == ("sample",)
    assert ((whole.certificate.accepted >= 0) & (whole.certificate.accepted <= 1)).all()
    # Parts do not share their random numbers: each sample draws what it draws in one whole.
    np.testing.assert_allclose(parted.latents, whole.latents, rtol=0, atol=1e-10)
    np.testing.assert_array_equal(parted.certificate.accepted, whole.certificate.accepted)


def test_each_samples_random_numbers_are_normal_and_its_own() -> None:
    places = torch.arange(400)
    numbers = normals(places, 3, 7, 50)
    assert torch.equal(normals(places[[17, 5]], 3, 7, 50), numbers[[17, 5]])
    for other in (normals(places, 3, 8, 50), normals(places, 4, 7, 50)):
        # Of 20,000 independent pairs the correlation has the deviation 1/√20,000.
        assert abs(float((numbers * other).mean())) < 5 / math.sqrt(20_000)
    assert abs(float(numbers.mean())) < 5 / math.sqrt(20_000)
    assert float(numbers.var()) == pytest.approx(1, abs=5 * math.sqrt(2 / 20_000))
    assert abs(float((numbers[1:] * numbers[:-1]).mean())) < 5 / math.sqrt(20_000)
    assert abs(float((numbers[:, 1:] * numbers[:, :-1]).mean())) < 5 / math.sqrt(20_000)
    even = uniforms(places, 3, 7, 50).flatten().sort().values
    ideal = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    assert float((even - ideal).abs().max()) < 1.63 / math.sqrt(20_000)  # Kolmogorov and Smirnov, p = 0.01


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: InfiniteOptimization(rate=0), "rate is a number above 0; got 0"),
        (lambda: InfiniteOptimization(threshold=-1.0), "threshold is a number above 0"),
        (lambda: InfiniteOptimization(cutoff=2.0), "cutoff is a share of the highest frequency, above 0 to 1"),
        (lambda: InfiniteOptimization(steps=0), "steps is a whole number above 0; got 0"),
        (lambda: FirstOrder(rate=float("nan")), "rate is a number above 0; got nan"),
        (lambda: Metropolis(moves=0), "moves is a whole number above 0; got 0"),
        (lambda: Metropolis(size=0.0), "size is the deviation of a move, above 0"),
        (lambda: Metropolis(closeness=2), "closeness is a share of the tolerance, above 0 to 1; got 2"),
        (lambda: GaussNewton(steps=0), "steps is a whole number above 0 and sketch one from 2; got 0 and 64"),
        (lambda: GaussNewton(sketch=1), "sketch one from 2; got 100 and 1"),
        (lambda: GaussNewton(patience=0), "patience is a number of steps, above 0; got 0"),
        (lambda: FirstOrder(torch.optim.LBFGS), "L-BFGS mixes the numbers of all samples"),
        (lambda: GaussNewton(radius=0.0), "radius and damping are above 0; got 0.0"),
        (lambda: GaussNewton(pull=2.0), "pull is a share from 0 to 1; got 2.0"),
    ],
)
def test_settings_that_are_not_what_they_must_be_are_refused(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        make()


def test_coarse_priors_of_other_latents_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"priors of the same latents, of shape \(3,\); got one of \(2,\)"):
        solved_by(GaussNewton(coarse=(Plain(2),)), problem(squared_radius, [1.0], 3), starts(2, 3))


def test_the_feasible_target_asks_for_the_filter_of_the_call() -> None:
    equations = problem(radius_and_height, [1.0, 0.0], 3)
    with pytest.raises(ArgumentError, match="needs `cutoff` in the call of invariants"):
        InfiniteOptimization(feasible=True).solve(equations, Search(starts(1, 3)))
