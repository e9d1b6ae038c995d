"""Moves along the level set leave the prior's law under the condition; searches alone do not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp, kstest, norm
from torch import Tensor

from tests.invariants.toys import Plain, problem, radius_and_height, solved_by, squared_radius, starts
from whence.invariants import GaussNewton, Metropolis, Objective, Search, Status
from whence.invariants.problem import Problem
from whence.invariants.solvers import metropolis

N = 800


@pytest.mark.parametrize("numbers", [2, 16, 64])
def test_of_a_linear_value_the_law_is_the_conditional_gaussian(numbers: int) -> None:
    """Given a·z = c, standard normal z is N(ac/|a|², I - aaᵀ/|a|²)."""
    along = torch.randn(numbers, dtype=torch.float64)
    equations = problem(lambda z: z @ along, [1.5], numbers, tolerance=1e-4)
    search = solved_by(Metropolis(moves=8), equations, starts(N, numbers))
    assert (search.status == Status.SOLVED).all()
    unit = along / along.norm()
    mean, covariance = 1.5 * unit / along.norm(), torch.eye(numbers, dtype=torch.float64) - torch.outer(unit, unit)
    # A coordinate of the mean has the deviation 1/√n at most; five of them are passed once in 1.7 million.
    assert float((search.latents.mean(0) - mean).abs().max()) < 5 / math.sqrt(N)
    # Entries of the sample covariance of d - 1 free numbers have squared deviations of (d - 1)d/n in all; their root
    # has a deviation below √(2/n)·√(d - 1).
    free = numbers - 1
    allowed = math.sqrt(free * numbers / N) + 3 * math.sqrt(2 * free / N)
    assert float((torch.cov(search.latents.T) - covariance).norm()) < allowed
    # Within 0.01 of the tolerance: 1e-6 / |a|.
    assert float((search.latents @ unit - 1.5 / along.norm()).abs().max()) <= 1e-6 / float(along.norm())


def test_of_the_radius_the_law_is_uniform_on_the_circle() -> None:
    search = solved_by(Metropolis(moves=8), problem(squared_radius, [2.0], 2), starts(N, 2))
    angle = torch.atan2(search.latents[:, 1], search.latents[:, 0])
    # Rayleigh: n times the squared length of the mean direction is exponential with mean 1; p = 0.01 at log 100.
    assert N * float(angle.cos().mean() ** 2 + angle.sin().mean() ** 2) < math.log(100)
    assert float((search.latents.norm(dim=1) - 2**0.5).abs().max()) < 1e-5 / 2


def test_of_radius_and_height_together_the_rest_stays_normal() -> None:
    """Two equations: the angle is uniform, the third number fixed, the fourth free."""
    search = solved_by(Metropolis(moves=10), problem(radius_and_height, [1.5, 0.3], 4), starts(N, 4))
    assert (search.status == Status.SOLVED).all()
    angle = torch.atan2(search.latents[:, 1], search.latents[:, 0])
    assert N * float(angle.cos().mean() ** 2 + angle.sin().mean() ** 2) < math.log(100)
    free = search.latents[:, 3]
    assert abs(float(free.mean())) < 4 / math.sqrt(N)
    assert float(free.var()) == pytest.approx(1, abs=4 * math.sqrt(2 / N))
    assert float((search.latents[:, 2] - 0.3).abs().max()) <= 1e-5 * 2**0.5  # of the root mean square of two


def _ellipse(points: Tensor) -> Tensor:
    return points[:, 0] ** 2 / 4 + points[:, 1] ** 2


def _distance_from_the_law(points: Tensor) -> float:
    """Return Kolmogorov and Smirnov's distance times √n of places on the ellipse from density φ(z)/|∇f| of its arc."""
    grid = np.linspace(-math.pi, math.pi, 20_001)
    x, y = 2 * np.cos(grid), np.sin(grid)
    arc, slope = np.hypot(2 * np.sin(grid), np.cos(grid)), np.hypot(x / 2, 2 * y)
    density = np.exp(-(x**2 + y**2) / 2) * arc / slope
    law = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    law /= law[-1]
    place = np.sort(torch.atan2(points[:, 1], points[:, 0] / 2).numpy())
    at, n = np.interp(place, grid, law), len(place)
    return float(max((at - np.arange(n) / n).max(), (np.arange(1, n + 1) / n - at).max()) * math.sqrt(n))


def test_on_an_ellipse_the_law_weighs_by_density_and_gradient() -> None:
    """All start in two places: only the walk can spread them as the co-area formula says.

    The ends of the ellipse part its law in two halves between which a walk goes seldom: half of them start in each.
    """
    begun = torch.tensor([[1.0, 0.9], [-1.0, -0.9]], dtype=torch.float64).repeat(N // 2, 1)
    equations = problem(_ellipse, [1.0], 2)
    alone = solved_by(GaussNewton(), equations, begun)
    walked = solved_by(Metropolis(moves=50, size=1.0), equations, begun)
    assert _distance_from_the_law(walked.latents) < 1.63  # p = 0.01
    assert _distance_from_the_law(alone.latents) > 10


TILT = 0.7


def _distance_on_a_line(solver: Any) -> float:
    """Return √n times the distance from the law on f(z) = z₂ exp(k z₁) = 0.

    There |∇f| = exp(k z₁), so that z₁ is N(-k, 1).
    """
    tilted = problem(lambda z: z[:, 1] * (TILT * z[:, 0]).exp(), [0.0], 2, tolerance=1e-4)
    found = solved_by(solver, tilted, starts(N, 2)).latents[:, 0]
    return float(kstest(found.numpy(), norm(-TILT).cdf).statistic) * math.sqrt(N)


def test_where_the_slope_grows_samples_gather_at_the_flat_end_and_only_by_the_walk_that_weighs_slopes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Along gradients z₁ falls by k z₂²/2, in the mean half of what it should; without slopes it stays N(0, 1)."""
    assert _distance_on_a_line(Metropolis(moves=40)) < 1.63  # p = 0.01
    assert _distance_on_a_line(GaussNewton()) > 2 * 1.63
    monkeypatch.setattr(metropolis, "log_determinant", lambda grams: torch.zeros_like(grams[:, 0, 0]))
    assert _distance_on_a_line(Metropolis(moves=40)) > 2 * 1.63


def _valley(points: Tensor) -> Tensor:
    """Return a curved value of three numbers; its level sets are graphs over the first and last, in one piece."""
    first, second, last = points.T
    value: Tensor = second + 0.6 * first.square() + 0.5 * (first * last).tanh()
    return value


def test_the_walk_s_law_is_that_of_rejection_sampling_and_the_search_s_alone_is_not() -> None:
    """Draws of the prior whose value is within 0.01 of the goal are its law to O(0.01²); no formula is in this test."""
    drawn = torch.randn(2_000_000, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    kept = drawn[(_valley(drawn) - 1.0).abs() < 0.01]
    equations = problem(_valley, [1.0], 3)

    def distance(solver: Any) -> float:
        found = solved_by(solver, equations, starts(N, 3))
        assert (found.status == Status.SOLVED).all()
        size = math.sqrt(N * len(kept) / (N + len(kept)))
        return max(float(ks_2samp(found.latents[:, k].numpy(), kept[:, k].numpy()).statistic) for k in range(3)) * size

    # Kolmogorov and Smirnov's distance of two samples exceeds this once in 300: of three numbers, once in 100.
    allowed = math.sqrt(math.log(2 * 300) / 2)
    assert distance(Metropolis(moves=40)) < allowed
    assert distance(GaussNewton()) > allowed


def test_equations_that_repeat_each_other_leave_the_same_law() -> None:
    """The same value twice says nothing more: samples, taken moves and all."""
    walk = Metropolis(moves=6, first=GaussNewton(secant=False))  # when derivatives are found anew goes by their number
    one = solved_by(walk, problem(_ellipse, [1.0], 3), starts(20, 3))
    doubled = problem(lambda z: torch.stack([_ellipse(z), _ellipse(z)], 1), [1.0, 1.0], 3)
    both = solved_by(walk, doubled, starts(20, 3))
    np.testing.assert_allclose(both.latents, one.latents, atol=1e-4)  # each within 1e-5 of the value
    assert torch.equal(both.notes["accepted"], one.notes["accepted"])


def test_samples_that_are_not_solved_do_not_walk() -> None:
    latents = torch.tensor([[-1.0, 0.0], [0.7, 0.1]], dtype=torch.float64)
    search = solved_by(Metropolis(moves=6), problem(lambda z: z[:, 0].relu(), [1.0], 2), latents)
    assert search.status.tolist() == [Status.FLAT, Status.SOLVED]
    assert torch.equal(search.latents[0], latents[0])
    assert search.notes["accepted"].isnan().tolist() == [True, False]


def test_moves_that_never_arrive_leave_the_sample_where_it_is() -> None:
    """On the smallest circle that a step can miss: a tangent of length 50 has no way back along the normal."""
    begun = torch.tensor([[0.01, 0.0]], dtype=torch.float64)
    equations = problem(squared_radius, [1e-4], 2, tolerance=1e-8)
    search = Search(begun)
    settings: dict[str, Any] = {"moves": 2, "size": 50.0}
    Metropolis(**settings).solve(equations, search)
    assert torch.equal(search.latents, begun)
    assert search.notes["accepted"].tolist() == [0.0]


def test_the_size_of_moves_adapts_towards_the_wanted_share() -> None:
    equations = problem(squared_radius, [2.0], 2)
    search = solved_by(Metropolis(moves=60, size=20.0), equations, starts(40, 2))
    assert 0.4 < float(search.notes["accepted"].mean()) < 0.8


def test_in_float32_a_large_value_is_no_nearer_than_its_rounding() -> None:
    """A tolerance of 1e-3 asks for 1e-5 of 1,000, which float32 does not have."""
    objective = Objective(lambda z: 1000 + z[:, 0] + z[:, 1] ** 2, "far from 0", tolerance=1e-3)
    equations = Problem(objective, Plain(3), torch.tensor([1000.5]))
    search = solved_by(Metropolis(moves=10), equations, starts(20, 3).float())
    assert float(search.notes["accepted"].mean()) > 0.2
    assert float(equations.at(search.latents).distance.max()) <= 1e-3
