"""Gauss-Newton against closed forms, and what it says when there is nothing to be found."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.invariants.toys import Plain, problem, solved_by, squared_radius, starts
from whence._errors import GradientError
from whence.invariants import GaussNewton, Objective, Search, Status
from whence.invariants.problem import Combinations, Problem
from whence.invariants.solvers.normal_space import gram, inverted, log_determinant, tangent


@pytest.mark.parametrize(("equations", "numbers"), [(1, 2), (1, 30), (3, 30)])
def test_a_linear_objective_is_solved_at_the_orthogonal_projection_of_the_start(equations: int, numbers: int) -> None:
    matrix, goal = torch.randn(equations, numbers, dtype=torch.float64), torch.randn(equations, dtype=torch.float64)
    latents = starts(6, numbers)
    linear = Problem(Objective(lambda z: z @ matrix.T, "linear", tolerance=1e-10), Plain(numbers), goal)
    search = solved_by(GaussNewton(), linear, latents)
    assert (search.status == Status.SOLVED).all()
    nearest = latents - (latents @ matrix.T - goal) @ torch.linalg.pinv(matrix).T
    # What is left is J⁺ of residuals whose mean square is within the tolerance.
    slack = 1e-10 * math.sqrt(equations) / float(torch.linalg.svdvals(matrix)[-1])
    np.testing.assert_allclose(search.latents, nearest, rtol=0, atol=slack + 1e-12)


def test_a_squared_radius_is_solved_along_the_ray_of_the_start() -> None:
    latents = starts(20, 5)
    search = solved_by(GaussNewton(), problem(squared_radius, [3.0], 5, tolerance=1e-8), latents)
    assert (search.status == Status.SOLVED).all()
    nearest = latents / latents.norm(dim=1, keepdim=True) * 3**0.5
    # |z|² within 1e-8 of 3: the radius is within 1e-8 / 2√3.
    np.testing.assert_allclose(search.latents, nearest, rtol=0, atol=1e-8 / (2 * 3**0.5) + 1e-14)


def test_the_objectives_unit_changes_nothing() -> None:
    latents = starts(8, 4)

    def of(unit: float) -> Search:
        return solved_by(
            GaussNewton(), problem(lambda z: unit * _curved(z), [0.7 * unit], 4, tolerance=1e-4 * unit), latents
        )

    plain = of(1.0)
    for unit in (1024.0, 1 / 1024):  # powers of two: rounding is the same
        scaled = of(unit)
        np.testing.assert_allclose(scaled.latents, plain.latents, rtol=0, atol=1e-12)
        assert scaled.evaluations.tolist() == plain.evaluations.tolist()


def _curved(points: Tensor) -> Tensor:
    return points[:, 0] + 0.4 * points[:, 1] ** 2 - 0.3 * (points[:, 2] * points[:, 3]).sin()


def test_no_step_is_longer_than_the_radius_of_trust() -> None:
    latents = starts(5, 9)
    search = solved_by(GaussNewton(steps=1, radius=0.1), problem(lambda z: 1e-3 * z[:, 0], [50.0], 9), latents)
    np.testing.assert_allclose((search.latents - latents).norm(dim=1), 0.1 * 3, rtol=1e-12)  # 0.1 · √9


def test_an_objective_that_is_flat_at_the_start_is_said_to_be_flat() -> None:
    silent = torch.tensor([[-1.0, 0.3], [-2.0, 0.1], [0.5, 0.2]], dtype=torch.float64)
    search = solved_by(GaussNewton(), problem(lambda z: z[:, 0].relu(), [2.0], 2), silent)
    assert search.status.tolist() == [Status.FLAT, Status.FLAT, Status.SOLVED]
    assert torch.equal(search.latents[:2], silent[:2])


def test_a_value_that_nothing_takes_ends_stalled_at_the_nearest_that_is_taken() -> None:
    search = solved_by(GaussNewton(), problem(lambda z: 1 + squared_radius(z), [0.0], 3), starts(6, 3))
    assert set(search.status.tolist()) <= {int(Status.STALLED), int(Status.FLAT)}
    # The radius of trust has shrunk to 1e-6 of its start: |z|² is 0 to what float64 leaves of 1 + |z|².
    assert float(squared_radius(search.latents).max()) < 1e-6


def test_a_value_that_is_no_number_ends_the_search_and_no_other() -> None:
    latents = torch.tensor([[-1.0, 0.0], [0.5, 0.0]], dtype=torch.float64)
    search = solved_by(GaussNewton(), problem(lambda z: z[:, 0].log(), [0.0], 2), latents)
    assert search.status.tolist() == [Status.LOST, Status.SOLVED]


def test_steps_that_are_used_up_leave_the_row_open() -> None:
    search = solved_by(GaussNewton(steps=1), problem(squared_radius, [400.0], 2), starts(3, 2))
    assert (search.status == Status.OPEN).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equations_that_follow_from_the_others_do_no_harm(dtype: torch.dtype) -> None:
    """Probabilities sum to 1: of ten equations nine are independent."""
    weights = torch.randn(10, 16, dtype=torch.float64).to(dtype) / 4
    goal = (starts(1, 16, seed=9).to(dtype) @ weights.T).softmax(1)[0]
    objective = Objective(lambda z: (z @ weights.T).softmax(1), "probabilities", tolerance=1e-4)
    search = solved_by(GaussNewton(), Problem(objective, Plain(16), goal), starts(10, 16).to(dtype))
    assert (search.status == Status.SOLVED).all()
    assert float((objective(search.latents) - goal).square().mean(1).sqrt().max()) <= 1e-4


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_an_equation_given_twice_is_solved_as_if_it_were_given_once(dtype: torch.dtype) -> None:
    """JJᵀ is singular to the last bit, and the damping that is asked for is below its rounding in float32."""
    latents = starts(12, 3).to(dtype)
    twice = Objective(lambda z: z[:, :1].expand(-1, 2), "twice", tolerance=1e-6)
    search = solved_by(GaussNewton(damping=1e-9), Problem(twice, Plain(3), torch.ones(2, dtype=dtype)), latents)
    assert (search.status == Status.SOLVED).all()
    assert torch.equal(search.latents[:, 1:], latents[:, 1:])


@pytest.mark.parametrize("numbers", [6, 24])
def test_more_equations_than_are_looked_at_are_solved_all(numbers: int) -> None:
    """With more latent numbers than combinations no single step can solve them: each has to lower what is left."""
    first, second = (torch.randn(60, numbers, dtype=torch.float64) / numbers**0.5 for _ in range(2))
    objective = Objective(lambda z: z @ first.T + 0.2 * (z @ second.T) ** 2, "many", tolerance=1e-3)
    latents, goal = starts(6, numbers), objective(starts(1, numbers, seed=4))[0]
    search = solved_by(GaussNewton(sketch=16), Problem(objective, Plain(numbers), goal), latents)
    assert (search.status == Status.SOLVED).all()
    assert float((objective(search.latents) - goal).square().mean(1).sqrt().max()) <= 1e-3


def test_combinations_are_orthonormal_and_keep_the_residuals_length() -> None:
    residuals = torch.randn(3, 50, dtype=torch.float64)
    combine = Combinations(residuals, 8, seed=2)
    matrix = torch.stack([combine(row.expand(3, 50)) for row in torch.eye(50, dtype=torch.float64)], 1)
    for sample in matrix:
        np.testing.assert_allclose(sample.T @ sample, np.eye(8), atol=1e-12)
    np.testing.assert_allclose(combine(residuals).norm(dim=1), residuals.norm(dim=1), rtol=1e-12)
    assert torch.equal(Combinations(residuals, 50, seed=2)(residuals), residuals)
    assert not torch.allclose(Combinations(residuals, 8, seed=3)(residuals), combine(residuals))


def test_coarse_priors_are_solved_first_and_the_last_is_the_problems_own() -> None:
    class Doubled(Plain):
        def decode(self, latents: Tensor) -> Tensor:
            return 2 * super().decode(latents)

    coarse = Doubled(2)
    fine = problem(squared_radius, [4.0], 2, tolerance=1e-6)
    search = solved_by(GaussNewton(coarse=(coarse,)), fine, starts(5, 2))
    assert coarse.decoded > 0
    assert (search.status == Status.SOLVED).all()
    np.testing.assert_allclose(search.latents.norm(dim=1), 2, atol=1e-6)


def test_a_coarse_priors_derivatives_serve_the_next_without_a_pass_back() -> None:
    class Shifted(Plain):
        def decode(self, latents: Tensor) -> Tensor:
            return super().decode(latents) + 0.5

    def evaluations(coarse: tuple[Plain, ...]) -> set[float]:
        solver, line = GaussNewton(coarse=coarse, radius=100.0), problem(lambda z: z.sum(1), [9.0], 3, tolerance=0.01)
        search = solved_by(solver, line, latents)
        assert (search.status == Status.SOLVED).all()
        return set(search.evaluations.tolist())

    latents = starts(5, 3)
    forward, back = 1, 2
    assert evaluations(()) == {forward + back + forward}  # of a linear objective one step solves all
    assert evaluations((Shifted(3),)) == {forward + back + forward + forward + forward}


@pytest.mark.parametrize("scale", [-1.0, -1e8, 1e8])
def test_a_coarse_prior_s_derivatives_that_do_not_serve_leave_the_radius_as_it_was(scale: float) -> None:
    class Scaled(Plain):
        def decode(self, latents: Tensor) -> Tensor:
            return scale * super().decode(latents)

    search = solved_by(GaussNewton(coarse=(Scaled(3),)), problem(lambda z: z.sum(1), [2.0], 3), starts(6, 3))
    assert (search.status == Status.SOLVED).all()
    assert float(search.evaluations.max()) < 50


def test_a_search_with_many_equations_finds_derivatives_anew_before_its_patience_runs_out() -> None:
    """With 30 a step by derivatives found anew costs 62 others: it pays only where each of these leaves 97 %."""
    first, second = (torch.randn(30, 64, dtype=torch.float64) / 8 for _ in range(2))
    objective = Objective(lambda z: z @ first.T + 0.3 * (3 * z @ second.T).sin(), "many", tolerance=1e-3)
    goal = objective(starts(1, 64, seed=4))[0]
    search = solved_by(GaussNewton(patience=5), Problem(objective, Plain(64), goal), starts(12, 64))
    assert (search.status == Status.SOLVED).all()


@pytest.mark.parametrize("call", [5, 8, 10])
def test_searches_that_ended_over_a_coarse_prior_are_under_way_after_an_interrupt(call: int) -> None:
    class Doubled(Plain):
        def decode(self, latents: Tensor) -> Tensor:
            return 2 * super().decode(latents)

    search = Search(starts(20, 3))
    solver = GaussNewton(coarse=(Doubled(3, interrupt_at=call),))
    with pytest.raises(KeyboardInterrupt):
        solver.solve(problem(squared_radius, [4.0], 3, tolerance=1e-9), search)
    assert (search.status == Status.OPEN).all()


def test_a_pull_brings_long_latents_nearer_to_the_priors_length_on_the_same_level_set() -> None:
    latents = 3 * starts(10, 12)
    plain, pulled = (
        solved_by(GaussNewton(pull=pull, secant=False), problem(lambda z: z[:, 0] ** 3 + z[:, 0], [5.0], 12), latents)
        for pull in (0.0, 0.3)
    )
    assert (pulled.status == Status.SOLVED).all()
    assert float(pulled.latents.norm(dim=1).mean()) < float(plain.latents.norm(dim=1).mean())


def test_corrected_derivatives_save_evaluations_and_find_the_same_level_set() -> None:
    anew, corrected = (
        solved_by(GaussNewton(secant=secant), problem(_curved, [0.7], 4, tolerance=1e-9), starts(16, 4))
        for secant in (False, True)
    )
    assert (anew.status == Status.SOLVED).all()
    assert (corrected.status == Status.SOLVED).all()
    assert float(corrected.evaluations.sum()) < float(anew.evaluations.sum())


def test_an_objective_that_has_no_gradient_is_refused_by_name() -> None:
    with pytest.raises(GradientError, match="The objective toy has no gradient by its input"):
        solved_by(GaussNewton(), problem(lambda z: z.detach().sum(1), [0.0], 2), starts(2, 2))


def test_a_direction_along_the_level_set_has_no_part_along_the_derivatives_even_dependent_ones() -> None:
    slopes = torch.randn(4, 3, 7, dtype=torch.float64)
    slopes[:, 2] = slopes[:, 0] - 2 * slopes[:, 1]
    slopes[3] = 0
    directions = torch.randn(4, 7, dtype=torch.float64)
    left = tangent(slopes, directions)
    np.testing.assert_allclose(torch.einsum("nrd,nd->nr", slopes, left), np.zeros((4, 3)), atol=1e-12)
    for sample in range(3):
        basis = np.linalg.qr(slopes[sample, :2].numpy().T)[0]
        expected = directions[sample].numpy() - basis @ (basis.T @ directions[sample].numpy())
        np.testing.assert_allclose(left[sample], expected, atol=1e-12)
    assert torch.equal(left[3], directions[3])
    np.testing.assert_allclose(inverted(gram(slopes)), np.linalg.pinv(gram(slopes).numpy(), hermitian=True), atol=1e-9)
    positive = np.linalg.eigvalsh(gram(slopes)[0].numpy())[1:]
    assert float(log_determinant(gram(slopes))[0]) == pytest.approx(np.log(positive).sum(), rel=1e-9)
