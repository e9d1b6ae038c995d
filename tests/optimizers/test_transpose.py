"""The walk backwards: transposes of single steps, and the audit's recursion over a run."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.optimizers.strategies import seeds
from tests.optimizers.walks import (
    EPS,
    EXAMPLES,
    OPERATIONS,
    OPTIMIZERS,
    STEPS,
    Walk,
    fresh_parameters,
    groups_of,
    one_cycle,
    positive,
    random_gradients,
    rounding,
    shares,
    train,
)
from whence.optimizers import LinearStep

TARGETS = 3
number = st.floats(-2, 2)
settled = settings(derandomize=True, max_examples=60, deadline=None, database=None)


def per_entry(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows(values: Tensor) -> Tensor:
    """One row per example or target."""
    return values.reshape(len(values), -1)


@st.composite
def linear_steps(draw: st.DrawFn, shape: tuple[int, ...]) -> LinearStep:
    coefficient = st.one_of(st.sampled_from([0.0, 1.0]), number, seeds.map(lambda seed: per_entry(seed, shape)))
    plain = st.one_of(st.sampled_from([0.0, 1.0]), number)
    sign = draw(st.sampled_from([1.0, -1.0]))
    return LinearStep(
        sign, draw(plain), draw(plain), draw(coefficient), draw(coefficient), draw(coefficient), draw(plain)
    )


def inner(x: tuple[Tensor, ...], y: tuple[Tensor, ...]) -> float:
    return sum(float((one * other).sum()) for one, other in zip(x, y, strict=True))


@pytest.mark.parametrize("leading", [(), (5,), (2, 3)], ids=str)
@pytest.mark.parametrize("shape", [(), (4,), (3, 2)], ids=str)
def test_transpose_is_the_adjoint_of_forward(shape: tuple[int, ...], leading: tuple[int, ...]) -> None:
    @settled
    @given(step=linear_steps(shape), seed=seeds)
    def check(step: LinearStep, seed: int) -> None:
        share, buffer, gradient, p, b = per_entry(seed, (5, *leading, *shape))
        forward = step.forward(share, buffer, gradient)
        p_before, b_before, u = step.transpose(p, b)
        gross_forward = positive(step).forward(share.abs(), buffer.abs(), gradient.abs())
        gross = inner(gross_forward, (p.abs(), b.abs()))
        off = inner(forward, (p, b)) - inner((share, buffer, gradient), (p_before, b_before, u))
        assert abs(off) <= (OPERATIONS + p.numel()) * EPS * gross

    check()


def test_forward_is_the_equation() -> None:
    share, buffer, gradient, kappa, sigma, gamma = per_entry(0, (6, 4))
    step = LinearStep(-1.0, 0.3, 0.7, kappa, sigma, gamma, 0.1)
    g = -gradient + 0.3 * share
    new_buffer = 0.7 * buffer + kappa * g
    new_share = (1 - 0.1) * share - sigma * new_buffer - gamma * g
    torch.testing.assert_close(step.forward(share, buffer, gradient), (new_share, new_buffer), rtol=1e-14, atol=1e-14)


def test_a_step_with_only_zeros_forgets_everything() -> None:
    one = torch.ones(2)
    share, buffer = LinearStep(sign=1.0, decay=1.0).forward(one, one, one)
    assert share.tolist() == buffer.tolist() == [0, 0]


def walk_of(name: str, scheduled: bool, warm: bool) -> Walk:
    skip = name != "SGD fused"  # torch's fused SGD wants all buffers to begin at once
    parameters = fresh_parameters(0)
    optimizer = OPTIMIZERS[name](groups_of(parameters))
    between = one_cycle(optimizer) if scheduled else lambda step: None
    if warm:
        train(optimizer, parameters, random_gradients(4, skip=False))
    return train(optimizer, parameters, random_gradients(0, skip=skip), between)


def sources(walk: Walk) -> list[dict[str, Tensor]]:
    """Random h̄ of every step: (TARGETS, *shape) per parameter."""
    start = walk.parameters[0]
    return [
        {name: per_entry(100 * t + index, (TARGETS, *value.shape)) for index, (name, value) in enumerate(start.items())}
        for t in range(STEPS)
    ]


def backwards(walk: Walk, h: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """Influences (EXAMPLES, TARGETS) and residuals (TARGETS,) by the reverse recursion of the audit."""
    influence = torch.zeros(EXAMPLES, TARGETS, dtype=torch.float64)
    p = {name: torch.zeros_like(value) for name, value in h[0].items()}
    b = {name: torch.zeros_like(value) for name, value in h[0].items()}
    for t in reversed(range(STEPS)):
        for name, step in walk.steps[t].items():
            p_before, b[name], u = step.transpose(p[name] + h[t][name], b[name])
            p[name] = p_before - h[t][name]
            influence += rows(walk.gradients[t][name]) @ rows(u).T
    start, warm = walk.parameters[0], walk.buffers[0]
    kept = [rows(p[name] * start[name]) + rows(b[name] * warm[name]) for name in start]
    return influence, torch.cat(kept, 1).sum(1)


def forwards(walk: Walk, h: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """Row 0: what the start's own share did; rows 1..: each example's. And the gross of each entry."""
    states = shares(walk)
    table = torch.zeros(1 + EXAMPLES, TARGETS, dtype=torch.float64)
    gross = torch.zeros_like(table)
    for t in range(STEPS):
        for name in h[t]:
            change = states[t + 1][0][name] - states[t][0][name]
            size = states[t + 1][2][name] + states[t][2][name]
            table += rows(change) @ rows(h[t][name]).T
            gross += rows(size) @ rows(h[t][name].abs()).T
    return table, gross


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("scheduled", [False, True], ids=["constant", "one cycle"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_walk_backwards_gives_the_influences_of_explicit_shares(name: str, scheduled: bool, warm: bool) -> None:
    walk = walk_of(name, scheduled, warm)
    h = sources(walk)
    influence, residual = backwards(walk, h)
    table, gross = forwards(walk, h)
    bound = rounding(gross, 2 * STEPS)
    assert ((influence - table[1:]).abs() <= bound[1:]).all()
    assert ((residual - table[0]).abs() <= bound[0]).all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_influences_and_residual_sum_to_the_real_change_along_the_sources(name: str) -> None:
    walk = walk_of(name, scheduled=True, warm=False)
    h = sources(walk)
    influence, residual = backwards(walk, h)
    true = torch.zeros(TARGETS, dtype=torch.float64)
    for t in range(STEPS):
        for key, value in h[t].items():
            true += rows(value * (walk.parameters[t + 1][key] - walk.parameters[t][key])).sum(1)
    _, gross = forwards(walk, h)
    assert ((influence.sum(0) + residual - true).abs() <= rounding(gross.sum(0), 2 * STEPS)).all()


@pytest.mark.parametrize("name", ["SGD momentum", "Adam", "Adagrad tensor"])
def test_without_any_decay_no_sensitivity_and_no_residual_is_left(name: str) -> None:
    parameters = fresh_parameters(0)
    optimizer = OPTIMIZERS[name]([{"params": list(parameters.values())}])
    walk = train(optimizer, parameters, random_gradients(0))
    _, residual = backwards(walk, sources(walk))
    assert residual.abs().max() <= STEPS * OPERATIONS * EPS * 10
