"""The gradient tensor, and what its contractions over named dims are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from tests.attribution.networks import data
from tests.audit.training import trained
from tests.kernel.reference import agree, gradients_at, recorded
from whence._errors import ArgumentError
from whence.kernel import gradient_tensor, path_kernel, time_kernel
from whence.runs import Run

RATE = 0.05
TIMES = (3, 6, 9)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return recorded(tmp_path_factory.mktemp("tensor"), optimizer="momentum")


def test_the_tensor_is_the_rate_times_every_gradient(run: Run) -> None:
    targets = data("perceptron", 4, seed=1)
    found = gradient_tensor(run, targets)
    agree(found, RATE * torch.stack([gradients_at(run, step, targets) for step in TIMES]))
    assert found.dims == ("time", "example", "parameter")
    assert found.parameter.values[[0, -1]].tolist() == ["0.weight[0]", "2.bias[2]"]


def test_the_path_kernel_is_the_tensor_summed_over_time_and_parameter(run: Run) -> None:
    targets = data("perceptron", 4, seed=1)
    tensor = gradient_tensor(run, targets)
    ours = (tensor * tensor.rename(example="other")).sum(["time", "parameter"])
    agree(ours, RATE**2 * path_kernel(run, targets, preconditioner=False)["kernel"])


@pytest.mark.parametrize("budget", [2**29, 12_000, 6_000])
def test_the_time_kernel_is_the_tensor_summed_over_example_and_parameter(run: Run, budget: int) -> None:
    targets = data("perceptron", 7, seed=1)
    tensor = gradient_tensor(run, targets)
    ours = (tensor * tensor.rename(time="other_time")).sum(["example", "parameter"])
    found = time_kernel(run, targets, memory_budget=budget)
    agree(found, ours)
    np.testing.assert_array_equal(found, found.values.T)


def test_an_audit_like_share_is_the_tensor_summed_over_parameter(run: Run) -> None:
    train, target = data("perceptron", 4), data("perceptron", 1, seed=1)
    tensor, theirs = gradient_tensor(run, train), gradient_tensor(run, target) / RATE
    found = (tensor * theirs.isel(example=0)).sum("parameter")
    expected = [RATE * gradients_at(run, step, train) @ gradients_at(run, step, target)[0] for step in TIMES]
    agree(found, torch.stack(expected))


def test_a_tensor_that_does_not_fit_says_what_does(run: Run) -> None:
    with pytest.raises(ArgumentError, match=r"7 examples at 3 times, of 53 parameters, take 8,904 bytes.* holds 2 exa"):
        gradient_tensor(run, data("perceptron", 7), memory_budget=3_000)
    with pytest.raises(ArgumentError, match=r"budget of 600\. It holds none of these examples at these times, nor"):
        gradient_tensor(run, data("perceptron", 7), memory_budget=600)
    with pytest.raises(ArgumentError, match=r"1,272 bytes for the states .* of 4,000, which holds 2 times"):
        time_kernel(run, data("perceptron", 7), memory_budget=4_000)
    with pytest.raises(ArgumentError, match=r"which holds 0 times\. Choose `times` or `layers`"):
        time_kernel(run, data("perceptron", 7), memory_budget=1_000)


def peak_of(function: Callable[[], object]) -> int:
    """Return the most bytes of tensors that a call holds."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        function()
    events = [one for one in seen.profiler.kineto_results.events() if one.name() == "[memory]"]
    changes = [one.nbytes() for one in sorted(events, key=lambda one: one.start_ns())]
    return int(np.cumsum(changes).max())


@pytest.mark.parametrize("budget", [200_000, 450_000])
@pytest.mark.parametrize("times", [[9], [3, 6, 9], list(range(10))])
def test_the_time_kernel_holds_no_more_than_its_budget(tmp_path: Path, budget: int, times: list[int]) -> None:
    torch.manual_seed(0)
    model, examples = nn.Linear(500, 4).double(), (torch.randn(30, 500).double(), torch.arange(30) % 4)
    run = trained(tmp_path / "run", model, torch.optim.SGD(model.parameters(), RATE), examples)

    def compared() -> object:
        return time_kernel(run, examples, times=times, memory_budget=budget)

    if (budget, len(times)) == (200_000, 10):
        with pytest.raises(ArgumentError, match=r"160,320 bytes for the states and at least .* which holds 4 times"):
            compared()
        return
    compared()  # what a first call keeps is not counted
    assert peak_of(compared) <= budget + 40_000  # the run that is made again: model, gradient
