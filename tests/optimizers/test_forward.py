"""Shares of the parameters, stepped forwards, are shares of what torch's optimizers really do."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from tests.optimizers.strategies import options, seeds
from tests.optimizers.walks import (
    EXAMPLES,
    OPTIMIZERS,
    STEPS,
    Walk,
    fresh_parameters,
    groups_of,
    one_cycle,
    random_gradients,
    rounding,
    shares,
    train,
)
from whence.optimizers import SUPPORTED, initial_buffer, linear_step

Make = Callable[[list[dict[str, object]]], Optimizer]


def assert_shares_sum_to_torch(walk: Walk) -> None:
    for t, (share, buffer, gross, gross_buffer) in enumerate(shares(walk)):
        for name in share:
            off = (share[name].sum(0) - walk.parameters[t][name]).abs()
            assert (off <= rounding(gross[name].sum(0), t)).all(), (t, name, off)
            off = (buffer[name].sum(0) - walk.buffers[t][name]).abs()
            assert (off <= rounding(gross_buffer[name].sum(0), t)).all(), (t, name, off)


def run(make: Make, seed: int, *, scheduled: bool, skip: bool = True) -> Walk:
    parameters = fresh_parameters(seed)
    optimizer = make(groups_of(parameters))
    between = one_cycle(optimizer) if scheduled else lambda step: None
    return train(optimizer, parameters, random_gradients(seed, skip=skip), between)


def skips(name: str) -> bool:
    """torch's fused SGD cannot begin the buffers of some parameters later than those of others."""
    return name != "SGD fused"


@pytest.mark.parametrize("scheduled", [False, True], ids=["constant", "one cycle"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_shares_of_start_and_examples_sum_to_torchs_parameters_and_buffers(name: str, scheduled: bool) -> None:
    walk = run(OPTIMIZERS[name], 0, scheduled=scheduled, skip=skips(name))
    assert all((walk.parameters[-1][key] != walk.parameters[0][key]).all() for key in walk.parameters[0])
    assert_shares_sum_to_torch(walk)


@pytest.mark.parametrize("kind", SUPPORTED, ids=lambda kind: kind.__name__)
def test_shares_sum_to_torchs_parameters_for_random_options(kind: type[Optimizer]) -> None:
    @settings(derandomize=True, max_examples=25, deadline=None, database=None)
    @given(chosen=options[kind], seed=seeds, scheduled=st.booleans())
    def check(chosen: dict[str, Any], seed: int, scheduled: bool) -> None:
        assert_shares_sum_to_torch(run(lambda groups: kind(groups, **chosen), seed, scheduled=scheduled))

    check()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_shares_sum_to_torchs_parameters_after_a_warm_start(name: str) -> None:
    parameters = fresh_parameters(3)
    optimizer = OPTIMIZERS[name](groups_of(parameters))
    train(optimizer, parameters, random_gradients(5, skip=False))
    walk = train(optimizer, parameters, random_gradients(9))
    assert_shares_sum_to_torch(walk)


def test_a_buffer_waits_while_the_momentum_is_zero() -> None:
    parameters = fresh_parameters(1)
    optimizer = SGD(parameters.values(), lr=0.1, momentum=0.9, dampening=0.2, weight_decay=0.1)

    def pause(step: int) -> None:
        optimizer.param_groups[0]["momentum"] = 0.0 if step in {1, 2, 3} else 0.9

    walk = train(optimizer, parameters, random_gradients(1), pause)
    assert not walk.steps[3]["weight"].buffered
    assert (walk.buffers[4]["weight"] != 0).all()
    assert_shares_sum_to_torch(walk)


def test_a_buffer_may_begin_in_the_middle_of_a_run() -> None:
    parameters = fresh_parameters(1)
    optimizer = SGD(parameters.values(), lr=0.1, momentum=0.0, dampening=0.5)

    def begin(step: int) -> None:
        optimizer.param_groups[0]["momentum"] = 0.9 if step >= 3 else 0.0

    assert_shares_sum_to_torch(train(optimizer, parameters, random_gradients(1), begin))


@pytest.mark.parametrize("left_out", range(EXAMPLES))
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name.startswith("SGD")])
def test_sgd_share_of_an_example_is_what_training_without_its_gradients_lacks(name: str, left_out: int) -> None:
    parameters, without = fresh_parameters(0), fresh_parameters(0)
    gradients = random_gradients(0, skip=skips(name))
    others = [{key: value.clone() for key, value in step.items()} for step in gradients]
    for step in others:
        for value in step.values():
            value[left_out] = 0
    walk = train(OPTIMIZERS[name](groups_of(parameters)), parameters, gradients)
    rest = train(OPTIMIZERS[name](groups_of(without)), without, others)
    share, _, gross, _ = shares(walk)[-1]
    for key, value in share.items():
        lacking = walk.parameters[-1][key] - rest.parameters[-1][key]
        bound = rounding(2 * gross[key].sum(0), STEPS)
        assert ((value[1 + left_out] - lacking).abs() <= bound).all()


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("kind", [Adam, AdamW, RMSprop])
def test_shares_sum_to_torchs_parameters_when_capturable(
    kind: Callable[..., Optimizer], foreach: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch allows capturable on accelerators only, but its arithmetic is the same here.

    It computes the step size in the type of the step counter, float32, by up to four operations; with shares that
    start at zero the relative error is theirs (a step size from exact counters is off by 1e-5 at the first step).
    """
    for module in ("adam", "rmsprop"):
        implementation = import_module(f"torch.optim.{module}")
        monkeypatch.setattr(implementation, "_get_capturable_supported_devices", lambda **_: ["cpu"])
    parameters = {name: torch.nn.Parameter(value.detach() * 0) for name, value in fresh_parameters(0).items()}
    optimizer = kind(groups_of(parameters), lr=0.1, capturable=True, foreach=foreach)
    walk = train(optimizer, parameters, random_gradients(0))
    for t, (share, _, gross, _) in enumerate(shares(walk)):
        for name, value in share.items():
            off = (value.sum(0) - walk.parameters[t][name]).abs()
            assert (off <= 4 * torch.finfo(torch.float32).eps * gross[name].sum(0)).all(), (t, name, off)


def test_a_sparse_momentum_buffer_is_returned_dense() -> None:
    table = torch.nn.Embedding(4, 2, sparse=True)
    optimizer = SGD(table.parameters(), lr=0.1, momentum=0.9)
    table(torch.tensor([1, 1, 3])).sum().backward()
    optimizer.step()
    buffer = initial_buffer(optimizer, table.weight)
    assert buffer is not None
    assert buffer.tolist() == [[0, 0], [2, 2], [0, 0], [1, 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_coefficients_have_the_parameters_shape_and_type(name: str, dtype: torch.dtype) -> None:
    weight = torch.nn.Parameter(torch.ones(2, 3, dtype=dtype))
    optimizer = OPTIMIZERS[name]([{"params": [weight]}])
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    step = linear_step(optimizer, weight, first=True)
    found = [value for value in (step.kappa, step.sigma, step.gamma) if isinstance(value, torch.Tensor)]
    assert len(found) == (0 if isinstance(optimizer, SGD) else 1)
    assert all(value.shape == weight.shape and value.dtype == dtype for value in found)
    assert isinstance(step.to(torch.float64).sigma, torch.Tensor) == isinstance(step.sigma, torch.Tensor)
    assert all(value.to(torch.float64).dtype == torch.float64 for value in found)


def test_reading_a_step_changes_nothing_in_the_optimizer() -> None:
    parameters = fresh_parameters(0)
    optimizer = RMSprop(parameters.values(), centered=True, momentum=0.5)
    train(optimizer, parameters, random_gradients(0, skip=False))
    weight = parameters["weight"]
    before = {key: value.clone() for key, value in optimizer.state[weight].items()}
    linear_step(optimizer, weight)
    buffer = initial_buffer(optimizer, weight)
    assert buffer is not None
    buffer.zero_()
    assert all(torch.equal(optimizer.state[weight][key], value) for key, value in before.items())
