"""Invariants end to end: certificates by brute force, pools, filters, files, and every error in its words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch import Tensor, nn

from tests.invariants.making import Counting, network, plain
from whence._errors import ArgumentError, AuditError, GradientError, LabelError, ShapeError, UnreachedError
from whence.invariants import (
    FirstOrder,
    GaussNewton,
    InfiniteOptimization,
    InvariantSet,
    Metropolis,
    Objective,
    Pixels,
    Pool,
    api,
    draw,
    draw_pool,
    greatest_difference,
    invariants,
    load_invariants,
    logits,
    low_pass,
    named_unit,
    neuron,
    probabilities,
)
from whence.invariants.asking import check_query
from whence.invariants.memory import decoded_at_once, samples_at_once, saved_bytes
from whence.invariants.pool import starts_of
from whence.invariants.priors.protocol import recomputed
from whence.invariants.problem import Problem

DOUBLE = torch.float64


def a_query(prior: Any, seed: int = 99) -> Tensor:
    made: Tensor = prior.decode(draw(prior, 1, seed, dtype=DOUBLE))[0]
    return made


@pytest.mark.parametrize("cutoff", [None, 0.6])
def test_certificates_are_what_brute_force_finds(cutoff: float | None) -> None:
    prior, model = Counting(), network()
    query, objective = a_query(prior), logits(model)
    data = (torch.randn(50, 1, 4, 4, dtype=DOUBLE), torch.zeros(50, dtype=torch.int64))
    found = invariants(objective, query, prior, 5, pool=40, cutoff=cutoff, data=data)
    told, attrs = found.certificate, found.certificate.attrs
    assert found.solved.all()
    assert attrs["goal"] == pytest.approx(model(query[None])[0].tolist(), abs=1e-12)
    assert attrs["spread"] == pytest.approx(float(model(data[0]).var(0, correction=0).mean().sqrt()))
    assert attrs["pool_evaluations"] == 40 * prior.evaluations
    for row, (image, latent) in enumerate(zip(found.inputs, found.latents, strict=True)):
        one = told.isel(sample=row)
        assert torch.equal(prior.decode(found.latents)[row], image)
        residual = float((model(image[None]) - model(query[None])).square().mean().sqrt())
        assert float(one.residual) == pytest.approx(residual, abs=1e-12)
        assert residual <= 0.01
        np.testing.assert_allclose(one["value"], model(image[None])[0], atol=1e-12)
        assert float(one.latent_quantile) == pytest.approx(float(chi2.cdf(float(latent.square().sum()), 6)))
        assert str(one.status.values) == "solved"
        if cutoff is not None:
            filtered, goal = (model(low_pass(of, cutoff)[None]) for of in (image, query))
            away = float((filtered - goal).square().mean().sqrt())
            assert float(one.filtered_residual) == pytest.approx(away, abs=1e-12)
            assert away <= 0.01
    assert ("filtered_residual" in told) == (cutoff is not None)


def test_the_objectives_own_distance_decides() -> None:
    prior = Counting()
    objective = Objective(network(), "outputs", greatest_difference, 0.005)
    found = invariants(objective, a_query(prior), prior, 3, pool=0)
    values = objective(found.inputs) - objective(found.query[None])
    np.testing.assert_allclose(found.certificate.residual, values.abs().amax(1), atol=1e-12)
    assert np.isnan(found.certificate.attrs["spread"])


def test_a_unit_that_is_silent_on_most_inputs_is_reached_from_a_pool_and_not_from_draws_as_they_come() -> None:
    """relu(z₁ - 1.645) is silent on 95 % of draws."""
    prior = plain(4)
    objective = Objective(lambda points: (points[:, 0] - 1.645).relu(), "unit", tolerance=1e-3)
    query = torch.tensor([2.0, 0.0, 0.0, 0.0], dtype=DOUBLE)
    alone = invariants(objective, query, prior, 60, pool=0, restarts=0)
    assert alone.summary()["failures"] == {"flat": int((draw(prior, 60, 0, dtype=DOUBLE)[:, 0] <= 1.645).sum())}
    assert alone.summary()["failures"]["flat"] > 50
    assert invariants(objective, query, prior, 40, pool=1024).solved.all()


def test_a_set_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    prior = Counting()
    found = invariants(logits(network()), a_query(prior), prior, 4, pool=16, cutoff=0.6, solver=Metropolis(moves=2))
    found.save(tmp_path / "set")
    again = load_invariants(tmp_path / "set")
    assert torch.equal(again.inputs, found.inputs)
    assert torch.equal(again.latents, found.latents)
    assert torch.equal(again.query, found.query)
    assert again.certificate.identical(found.certificate)
    with pytest.raises(AuditError):
        found.save(tmp_path / "set")
    with pytest.raises(AuditError):
        load_invariants(tmp_path / "nothing")


def test_some_samples_and_a_summary_of_all() -> None:
    objective = Objective(lambda points: points[:, 0].relu(), "unit")
    query = torch.tensor([0.5, 0.0], dtype=DOUBLE)
    found = invariants(objective, query, plain(2), 20, pool=0)
    solved = found.only(found.solved)
    assert 0 < len(solved) < 20
    assert solved.solved.all()
    assert torch.equal(found.only([3, 1]).inputs, found.inputs[[3, 1]])
    assert found.only([3, 1]).certificate.residual.values.tolist() == found.certificate.residual.values[[3, 1]].tolist()
    told, residuals = found.summary(), found.certificate.residual.values
    assert told["samples"] == 20
    assert told["solved"] == len(solved)
    assert told["greatest_residual"] == residuals[residuals <= 0.01].max()
    assert told["evaluations_per_solved"] == float(found.certificate.evaluations.sum()) / len(solved)
    assert told["failures"] == {"flat": 20 - len(solved)}
    assert len(found.only([])) == 0
    for rows in ([20], [-1], [1.5], [True, False], ["a"]):
        with pytest.raises(ArgumentError, match="Rows are places of 20 samples, or a mask of them; got "):
            found.only(rows)


@pytest.mark.parametrize("solver", [None, Metropolis(moves=3), FirstOrder(steps=5)])
def test_samples_in_parts_that_fit_the_memory_are_those_found_at_once(solver: Any) -> None:
    prior, objective = Counting(), logits(network()).within(0.2)
    query = a_query(prior)
    whole, parts = (
        invariants(objective, query, prior, 7, pool=64, solver=solver, memory_budget=budget) for budget in (2**30, 1)
    )
    np.testing.assert_allclose(parts.latents, whole.latents, atol=1e-9)
    for name in whole.certificate:
        np.testing.assert_allclose(parts.certificate[name], whole.certificate[name], atol=1e-9)


def test_the_graph_that_is_kept_is_counted_to_the_byte() -> None:
    """exp keeps its result: 8 bytes a number; a budget holds as many samples as it has multiples of that."""
    objective = Objective(lambda points: points.exp(), "exp")
    problem, like = Problem(objective, plain(5), torch.ones(5, dtype=DOUBLE)), torch.zeros(1, dtype=DOUBLE)
    assert saved_bytes(objective, torch.zeros(3, 5, dtype=DOUBLE)) == 3 * 5 * 8
    assert samples_at_once(problem, like, 200) == 5
    assert samples_at_once(problem, like, 1) == 1
    assert decoded_at_once(plain(5), like, 200) == 200  # decoding keeps nothing
    with pytest.raises(ArgumentError, match="memory_budget is a number of bytes, above 0; got 0"):
        samples_at_once(problem, like, 0)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_what_a_checkpoint_makes_again_on_the_way_back_is_counted_once_whatever_the_steps(steps: int) -> None:
    """Each step keeps its 6 latent numbers; on the way back one network at a time has its 40 + 6 activations."""

    def network(state: Tensor) -> Tensor:
        return state.repeat(1, 7)[:, :40].exp()[:, :6].tanh()

    class Steps:
        latent_shape = (6,)

        def decode(self, latents: Tensor) -> Tensor:
            for _ in range(steps):
                latents = latents + recomputed(network, latents)
            return latents

    kept = saved_bytes(Steps().decode, torch.zeros(3, 6, dtype=DOUBLE))
    assert kept == 3 * 8 * (6 * steps + 40 + 6)
    assert decoded_at_once(Steps(), torch.zeros(1, dtype=DOUBLE), 1000) == 1000 // (8 * (6 * steps + 40 + 6))


def test_no_more_samples_are_decoded_or_measured_together_than_the_memory_holds() -> None:
    """A sample's graph keeps two exp and, in float64, two tanh of two numbers: 32 bytes beside the 16 of z * z."""
    greatest = 0

    class Seen:
        latent_shape = (2,)

        def decode(self, latents: Tensor) -> Tensor:
            nonlocal greatest
            greatest = max(greatest, len(latents))
            return latents.tanh()

    def function(points: Tensor) -> Tensor:
        nonlocal greatest
        greatest = max(greatest, len(points))
        return points.exp().sum(1)

    data = (torch.zeros(40, 2, dtype=DOUBLE), torch.zeros(40, dtype=torch.int64))
    query = torch.zeros(2, dtype=DOUBLE)
    invariants(Objective(function, "sum"), query, Seen(), 30, pool=60, data=data, memory_budget=5 * 32)
    assert greatest == 5 * 2  # of decodings alone, which keep half, twice as many


def test_a_sample_that_its_solver_holds_for_solved_and_that_is_not_is_called_missed() -> None:
    """Algorithm 1 stops at a loss of 0.01: a value 0.1 away, ten times the tolerance."""
    objective = Objective(lambda points: points[:, 0], "first")
    with pytest.raises(UnreachedError, match="3 missed") as error:
        invariants(
            objective, torch.zeros(2, dtype=DOUBLE), plain(2), 3, pool=0, solver=InfiniteOptimization(0.02, cutoff=None)
        )
    assert error.value.found.certificate.status.values.tolist() == ["missed"] * 3


def test_a_value_that_is_not_reached_is_told_with_the_nearest_and_the_priors_own_range() -> None:
    objective = Objective(lambda points: points.sum(1).tanh(), "tanh")
    words = r"None of 4 samples reached tanh = 3; the nearest came to .* own draws go from -.* to .* in this error's"
    with pytest.raises(UnreachedError, match=words) as error:
        invariants(objective, torch.zeros(2, dtype=DOUBLE), plain(2), 4, pool=20, goal=torch.tensor([3.0]).double())
    assert len(error.value.found) == 4
    assert not error.value.found.solved.any()


def test_a_sample_whose_filtered_value_alone_is_missed_is_told_as_far_away_as_that() -> None:
    """Of stripes the mean of squares is 1, of their filtered selves 0; a constant image has one value of both."""
    stripes = torch.tensor([1.0, -1.0], dtype=DOUBLE).repeat(4).expand(1, 8, 8)
    objective = Objective(lambda images: images.square().mean((1, 2, 3)), "power")

    class Constant:
        latent_shape = (1,)

        def decode(self, latents: Tensor) -> Tensor:
            return latents[:, :, None, None].expand(-1, 1, 8, 8)

    with pytest.raises(UnreachedError, match=r"power = 1; the nearest came to .*, 0\.[5-9]\d* away, filtered or not"):
        invariants(objective, stripes, Constant(), 3, pool=16, cutoff=0.5, restarts=0)


@pytest.mark.parametrize("memory_budget", [1, 2**30])
def test_an_interrupt_of_a_later_attempt_is_told_and_raises_nothing(memory_budget: int) -> None:
    """No sample is solved; without the interrupt that would be an error."""
    calls = 0

    def function(points: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 100:
            raise KeyboardInterrupt
        return 2 + points.square().sum(1)

    settings: dict[str, Any] = {"pool": 0, "goal": 1.0, "solver": GaussNewton(steps=2), "restarts": 10**6}
    found = invariants(
        Objective(function, "two"), torch.zeros(2, dtype=DOUBLE), plain(2), 4, memory_budget=memory_budget, **settings
    )
    assert float(found.certificate.restarts.max()) > 1
    assert "interrupted" in found.certificate.status.values
    assert not found.solved.any()


def test_an_interrupt_after_the_search_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {"pool": 0, "goal": 3.0, "seed": 1}
    objective = Objective(lambda points: 2 + points.square().sum(1), "two")
    whole = invariants(objective, torch.zeros(2, dtype=DOUBLE), plain(2), 4, **asked)
    calls, certify = 0, api.certified

    def once(*arguments: Any) -> InvariantSet:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise KeyboardInterrupt
        return certify(*arguments)

    monkeypatch.setattr(api, "certified", once)
    found = invariants(objective, torch.zeros(2, dtype=DOUBLE), plain(2), 4, **asked)
    np.testing.assert_array_equal(found.inputs, whole.inputs)
    assert found.solved.all()


REFUSED: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "n": (ArgumentError, "n is how many samples are wanted, 1 or more; got 0", {"n": 0}),
    "pool": (ArgumentError, "pool is a Pool, or how many draws it holds, from 0; got -1", {"pool": -1}),
    "cutoff": (ArgumentError, r"cutoff is a share of the highest frequency, above 0 to 1; got 0\.0", {"cutoff": 0.0}),
    "goal": (ShapeError, r"two has 2 values; got a goal of shape \(3,\)", {"goal": torch.zeros(3, dtype=DOUBLE)}),
    "infinite goal": (
        ArgumentError,
        r"goal is values to reach, finite numbers; got \[nan, nan\]",
        {"goal": torch.full((2,), torch.nan, dtype=DOUBLE)},
    ),
    "goal and cutoff": (
        ArgumentError,
        "with `goal` leave `cutoff` out",
        {"goal": torch.zeros(2, dtype=DOUBLE), "cutoff": 0.5},
    ),
    "shape": (
        ShapeError,
        r"query has the shape \(1, 4, 5\), and the prior makes inputs of \(1, 4, 4\)",
        {"query": torch.zeros(1, 4, 5, dtype=DOUBLE)},
    ),
    "not finite": (
        ArgumentError,
        "query has numbers that are not finite",
        {"query": torch.full((1, 4, 4), torch.nan, dtype=DOUBLE)},
    ),
    "another type": (
        ArgumentError,
        r"objective two cannot be called with the query, of shape \(1, 4, 4\), torch\.float32 on cpu: ",
        {"query": torch.zeros(1, 4, 4)},
    ),
    "no finite value": (
        ArgumentError,
        r"objective log takes no finite value on the query: \[nan\]",
        {"objective": Objective(lambda images: (-1 - images.square().sum((1, 2, 3))).log(), "log")},
    ),
    "reduced": (
        ShapeError,
        r"must return one row for each of 1 inputs, not empty and never reduced over the batch; got shape \(\)",
        {"objective": Objective(lambda images: images.mean(), "mean")},
    ),
    "no number": (
        ArgumentError,
        "must return a tensor of floating-point numbers; got a tensor of torch.int64",
        {"objective": Objective(lambda images: images.flatten(1).argmax(1), "class")},
    ),
    "no gradient": (
        GradientError,
        "objective rounded has no gradient by its input. Take out what cuts it",
        {"objective": Objective(lambda images: images.detach().flatten(1), "rounded"), "pool": 0},
    ),
    "memory": (ArgumentError, "memory_budget is a number of bytes, above 0; got 0", {"memory_budget": 0}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_searched_for_is_refused_in_words(name: str) -> None:
    error, words, given = REFUSED[name]
    prior = Counting()
    usual: dict[str, Any] = {"query": a_query(prior), "n": 3, "objective": Objective(network(), "two"), "pool": 8}
    asked = usual | given
    with pytest.raises(error, match=words):
        invariants(asked.pop("objective"), asked.pop("query"), prior, asked.pop("n"), **asked)


def test_a_query_that_is_no_tensor_of_floating_point_numbers_is_refused() -> None:
    words = r"query must be a tensor of floating-point numbers; got a tensor of torch\.uint8\. Convert it and scale it"
    with pytest.raises(ArgumentError, match=words):
        check_query(torch.zeros(1, 4, 4, dtype=torch.uint8), Counting())
    with pytest.raises(ArgumentError, match="floating-point numbers; got a ndarray"):
        check_query(np.zeros((1, 4, 4)), Counting())


def test_a_query_outside_of_the_range_of_the_priors_inputs_is_refused() -> None:
    prior = Counting()
    prior.bounds = (0.0, 1.0)  # type: ignore[attr-defined]
    with pytest.raises(ArgumentError, match=r"query's numbers go from 0 to 255, and the prior's inputs from 0 to 1\."):
        invariants(Objective(network(), "two"), torch.arange(16).reshape(1, 4, 4).double() * 17, prior, 1)


def test_a_pool_of_another_prior_is_refused_and_one_of_this_prior_costs_nothing_more() -> None:
    prior, objective = Counting(), Objective(network(), "two")
    with pytest.raises(ShapeError, match=r"decodes latents of shape \(n, 6\); got \(4, 3\)"):
        invariants(objective, a_query(prior), prior, 2, pool=draw_pool(plain(3), 4, dtype=DOUBLE))
    pool = draw_pool(prior, 64, seed=0, dtype=DOUBLE)
    ours, drawn = (invariants(objective, a_query(prior), prior, 2, pool=of) for of in (pool, 64))
    assert torch.equal(ours.latents, drawn.latents)
    assert ours.certificate.attrs["pool_evaluations"] == 0
    with pytest.raises(ArgumentError, match="A pool holds one or more draws; got size=0"):
        draw_pool(prior, 0)
    with pytest.raises(ArgumentError, match="each with its input; got 0 latents and 0 inputs"):
        invariants(objective, a_query(prior), prior, 2, pool=Pool(torch.zeros(0, 6), torch.zeros(0, 1, 4, 4)))


def test_a_pool_of_another_type_is_taken_in_the_querys() -> None:
    """A pool drawn without naming a type is of float32."""
    prior, objective = Counting(), Objective(network(), "two")
    found = invariants(objective, a_query(prior), prior, 2, pool=draw_pool(prior, 64))
    assert found.solved.all()
    assert found.latents.dtype == DOUBLE


def test_a_goal_of_one_value_may_be_a_number() -> None:
    objective = Objective(lambda points: points[:, 0] ** 3, "cube")
    query = torch.zeros(3, dtype=DOUBLE, requires_grad=True)
    found = invariants(objective, query, plain(3), 3, pool=32, goal=0.5)
    np.testing.assert_allclose(found.certificate["value"], 0.5, atol=0.01)


def test_draws_on_a_plateau_are_started_from_only_if_there_are_no_others() -> None:
    """Ties are plateaus, unless the goal is there."""
    pool = draw_pool(plain(2), 6, seed=1, dtype=DOUBLE)
    silent = torch.tensor([0.1, 0.1, 3.0, 0.1, 2.0, torch.nan], dtype=DOUBLE)
    assert torch.equal(starts_of(pool, silent, 2), pool.latents[[4, 2]])
    assert len(starts_of(pool, torch.full((6,), 0.1, dtype=DOUBLE), 3).unique(dim=0)) == 3
    reached = torch.tensor([0.0, 5.0, 0.0, 0.0, 6.0, 7.0], dtype=DOUBLE)
    assert torch.equal(starts_of(pool, reached, 1), pool.latents[:1])


def test_starts_are_the_nearest_draw_and_then_those_farthest_from_all_taken() -> None:
    pool = draw_pool(plain(2), 30, seed=1, dtype=DOUBLE)
    distances = pool.latents[:, 0].abs()
    near = sorted(range(30), key=lambda row: float(distances[row]))[:12]
    taken = [near[0]]
    while len(taken) < 3:
        taken.append(
            max(near, key=lambda row: min(float((pool.latents[row] - pool.latents[one]).norm()) for one in taken))
        )
    assert torch.equal(starts_of(pool, distances, 3), pool.latents[taken])
    many = starts_of(pool, distances, 2000, seed=0)
    assert len(many.unique(dim=0)) == 2000
    assert {tuple(row) for row in many[:30].tolist()} == {tuple(row) for row in pool.latents.tolist()}
    again = many[30:].reshape(-1, 2)
    expected = 0.99 * pool.latents.square().sum(1).mean() + 2 * 0.01
    assert float(again.square().sum(1).mean()) == pytest.approx(float(expected), rel=0.05)


@pytest.mark.parametrize(("draws", "n"), [(16, 4), (16, 20), (64, 4), (64, 5)])
def test_each_attempt_starts_elsewhere_also_after_all_draws_were_taken_from(draws: int, n: int) -> None:
    """A search is the same from the same start: to begin again there would end in nothing again."""
    pool = draw_pool(plain(3), draws, seed=1, dtype=DOUBLE)
    begun = [starts_of(pool, pool.latents[:, 0].abs(), n, 0, attempt) for attempt in range(6)]
    for attempt in range(1, 6):
        assert all(not (begun[attempt] == earlier).all(1).any() for earlier in begun[:attempt])
    again = torch.cat([starts_of(pool, pool.latents[:, 0].abs(), 4 * draws, seed, 1) for seed in range(20)])
    length = 0.75 * float(pool.latents.square().sum(1).mean()) + 0.25 * 3
    assert float(again.square().sum(1).mean()) == pytest.approx(length, rel=0.1)


@pytest.mark.parametrize("shape", [(8, 8), (7, 7), (6, 9), (5, 4)])
@pytest.mark.parametrize("cutoff", [0.2, 0.5, 0.8])
def test_a_low_pass_filter_is_the_sum_over_the_frequencies_it_keeps(shape: tuple[int, int], cutoff: float) -> None:
    """Written out as a discrete Fourier transform, frequency by frequency."""
    height, width = shape
    image = torch.randn(height, width, dtype=DOUBLE)
    rows, columns = np.arange(height), np.arange(width)
    half = np.hypot((height // 2) / height, (width // 2) / width)
    kept = np.zeros((height, width), dtype=complex)
    for up in range(height):
        for across in range(width):
            if np.hypot(min(up, height - up) / height, min(across, width - across) / width) > cutoff * half:
                continue
            wave = np.exp(2j * np.pi * (up * rows[:, None] / height + across * columns[None] / width))
            kept += (image.numpy() * wave.conj()).sum() * wave / (height * width)
    found = low_pass(image, cutoff)
    np.testing.assert_allclose(found, kept.real, atol=1e-12)
    np.testing.assert_allclose(low_pass(found, cutoff), found, atol=1e-12)
    assert torch.equal(low_pass(image.float(), 1.0), image.float())
    assert low_pass(image.float(), cutoff).dtype == torch.float32


def test_a_filter_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ArgumentError, match=r"above 0 to 1; got 1\.5"):
        low_pass(torch.zeros(4, 4), 1.5)


def convolution() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5))
    return layers.double().train()


def test_units_are_channels_of_convolutions_and_places_of_the_width_of_tokens() -> None:
    model, images = convolution(), torch.randn(2, 1, 4, 4, dtype=DOUBLE)
    maps = model[0](images).detach()
    np.testing.assert_allclose(neuron(model, "0", 2)(images), maps[:, 2].flatten(1))
    np.testing.assert_allclose(neuron(model, "0", 2, pooled=True)(images), maps[:, 2].mean((1, 2))[:, None])
    np.testing.assert_allclose(neuron(model, "0", pooled=True)(images), maps.mean((2, 3)))
    np.testing.assert_allclose(named_unit(model, "1.2")(images), maps.relu()[:, 2].flatten(1))
    np.testing.assert_allclose(named_unit(model, "logit.3")(images), model(images)[:, 3:4].detach())
    np.testing.assert_allclose(probabilities(model, [0, 4])(images), model(images).softmax(1)[:, [0, 4]].detach())
    np.testing.assert_allclose(named_unit(model, "probabilities")(images), model(images).softmax(1).detach())
    tokens = nn.Sequential(nn.Linear(4, 6)).double()
    words = torch.randn(2, 5, 4, dtype=DOUBLE)
    np.testing.assert_allclose(neuron(tokens, "0", 1)(words), tokens(words)[..., 1].detach())
    np.testing.assert_allclose(neuron(tokens, "0", 1, pooled=True)(words), tokens(words)[..., 1:2].mean(1).detach())
    names = [neuron(model, "0", 2).name, logits(model).name, logits(model, [1]).name, probabilities(model, [0, 4]).name]
    assert names == ["0.2", "logits", "logit 1", "probabilities 0, 4"]
    before = logits(model)(images)
    with torch.no_grad():
        model.get_parameter("3.weight").zero_()
    np.testing.assert_array_equal(logits(convolution())(images), before)  # a copy: later changes do not reach it
    assert model.training


def test_units_that_are_not_there_are_refused_with_the_names_that_are_near() -> None:
    model = nn.Sequential()
    model.add_module("hidden", nn.Linear(3, 4))
    model.add_module("output", nn.Linear(4, 2))
    with pytest.raises(LabelError, match="hidden"):
        named_unit(model, "hiden.2")
    with pytest.raises(LabelError, match=r"No unit 'logits\.1': .* names near it: logits?, .*logit\.NUMBER"):
        named_unit(model, "logits.1")
    with pytest.raises(LabelError, match=r"No unit '7': .* names near it: hidden, output\. Name LAYER"):
        named_unit(model, "7")
    with pytest.raises(LabelError, match="No unit of hidden has the index 4; there are 4, from 0 to 3"):
        named_unit(model, "hidden.4")(torch.zeros(1, 3))
    with pytest.raises(LabelError, match="No logit of Sequential has the index 7; there are 2, from 0 to 1"):
        named_unit(model, "logit.7")(torch.zeros(1, 3))
    with pytest.raises(ArgumentError, match="index is the place of a unit, from 0; got -1"):
        neuron(model, "hidden", -1)
    with pytest.raises(ArgumentError, match="indices are one or more places of outputs"):
        logits(model, [])
    with pytest.raises(ArgumentError, match=r"tolerance is a distance above 0; got 0\.0"):
        logits(model).within(0.0)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda out: {"logits": out}, r"Outputs gives a dict, which has no logit by number\. Name a layer"),
        (lambda out: out[:, 0], r"Outputs gives a tensor of shape \(2,\), which has no logit by number"),
    ],
    ids=["a dict", "one number"],
)
def test_outputs_that_have_no_numbers_are_refused(function: Callable[[Tensor], Any], message: str) -> None:
    class Outputs(nn.Module):
        def forward(self, inputs: Tensor) -> Any:
            return function(inputs)

    with pytest.raises(ArgumentError, match=message):
        logits(Outputs(), [0])(torch.zeros(2, 3))


def test_more_than_memory_holds_and_seeds_beyond_a_generator_s_are_refused() -> None:
    prior, objective = Pixels(torch.zeros(64), torch.tensor(1.0)), Objective(lambda points: points.sum(1), "sum")
    with pytest.raises(ArgumentError, match=r"1,000,000,000,000 samples do not fit into memory\. Ask for fewer"):
        invariants(objective, torch.zeros(64), prior, 10**12, pool=4)
    for many in (10**12, 10**18):
        with pytest.raises(ArgumentError, match=r"0 draws do not fit into memory\. Ask for fewer"):
            draw_pool(prior, many)
    with pytest.raises(ArgumentError, match=r"seed is a whole number below 2\^63; got 1180591620717411303424"):
        invariants(objective, torch.zeros(64), prior, 2, seed=2**70)


def test_pixels_without_a_prior_are_searched_in_the_same_way() -> None:
    prior = Pixels(torch.zeros(1, 4, 4, dtype=DOUBLE), torch.tensor(0.5, dtype=DOUBLE))
    assert invariants(logits(network()), a_query(prior), prior, 3, pool=16).solved.all()
