"""Four numbers that tell gradients apart."""

import math

import pytest
import torch
from torch import Tensor

from whence.runs.reconcile import reconcile
from whence.runs.statistics import gradient_statistics


def gradients(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = {"scalar": (), "vector": (7,), "empty": (0, 3), "large": (400, 400)}
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_statistics_are_the_norms_and_the_sum_over_all_elements(dtype: torch.dtype) -> None:
    found = gradient_statistics(gradients(dtype).values())
    flat = [float(element) for value in gradients(dtype).values() for element in value.reshape(-1).double()]
    assert found.l2 == pytest.approx(math.sqrt(math.fsum(x * x for x in flat)), rel=1e-12)
    assert found.linf == max(abs(x) for x in flat)
    assert found.l1 == pytest.approx(math.fsum(abs(x) for x in flat), rel=1e-12)
    assert found.total == pytest.approx(math.fsum(flat), rel=1e-9)


def test_no_gradients_have_statistics_zero() -> None:
    assert gradient_statistics([]).l2 == gradient_statistics([torch.zeros(0)]).l1 == 0.0


@pytest.mark.parametrize("factor", [0.37, 1 / 3, 2.0, 1e-6, 1.0])
def test_a_factor_is_found_bit_by_bit(factor: float) -> None:
    used = {name: value * factor for name, value in gradients().items()}
    found = gradients()
    scale = reconcile(found, gradient_statistics(used.values()), 1)
    assert scale == pytest.approx(factor, rel=1e-6)
    assert all(torch.equal(value, used[name]) for name, value in found.items())


def test_clipping_by_value_is_found_and_given_as_a_factor_of_each_element() -> None:
    used = {name: value.clamp(-0.8, 0.8) for name, value in gradients().items()}
    found = gradients()
    scale = reconcile(found, gradient_statistics(used.values()), 1)
    assert isinstance(scale, dict)
    assert all(torch.equal(value, used[name]) for name, value in found.items())
    for name, value in gradients().items():
        torch.testing.assert_close(value * scale[name], used[name])


def test_another_gradient_is_not_taken_for_a_scaled_one() -> None:
    used = gradients()
    used["large"][0] += 0.5
    assert reconcile(gradients(), gradient_statistics(used.values()), 1) is None
    negative = {name: -value for name, value in gradients().items()}
    assert reconcile(gradients(), gradient_statistics(negative.values()), 1) is None
