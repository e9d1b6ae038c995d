"""Numbers that tell gradients apart."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from whence.runs import GradientTable
from whence.runs.blobs import batches_of, encode_ids
from whence.runs.reconcile import reconcile
from whence.runs.statistics import are_measured, gradient_table, laid_in_rows, mark_rows, measure_rows


def gradients(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = {"scalar": (), "vector": (7,), "empty": (0, 3), "matrix": (50, 40), "large": (400, 400)}
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def flat(values: dict[str, Tensor]) -> list[float]:
    return [float(element) for value in values.values() for element in value.reshape(-1).double()]


@pytest.mark.parametrize("size", [1.0, 1e-25, 1e25])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_statistics_are_the_norms_and_the_sum_over_all_elements(dtype: torch.dtype, size: float) -> None:
    used = {name: value * size for name, value in gradients(dtype).items()}
    table = gradient_table(used)
    parts = {name: (table.rows[name], flat({name: used[name]})) for name in used}
    for found, elements in (*parts.values(), (table.whole, flat(used))):
        l1 = math.fsum(abs(x) for x in elements)
        assert found.l2 == pytest.approx(math.sqrt(math.fsum(x * x for x in elements)), rel=1e-6)
        assert found.linf == max((abs(x) for x in elements), default=0.0)
        assert found.l1 == pytest.approx(l1, rel=1e-12)
        assert found.total == pytest.approx(math.fsum(elements), abs=1e-6 * l1)


@pytest.mark.parametrize("size", [1.0, 1e-25, 1e25])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_laid_into_rows_as_on_a_gpu_have_the_same_statistics(dtype: torch.dtype, size: float) -> None:
    used = {name: value * size for name, value in gradients(dtype).items() if value.numel()}
    used |= {"whole": torch.full((2048,), -size, dtype=dtype), "one": torch.full((1,), size, dtype=dtype)}
    table = gradient_table(used).numbers
    rows, starts = laid_in_rows([value.reshape(-1) for value in used.values()])
    assert len(rows) == sum(-(-value.numel() // rows.shape[1]) for value in used.values())
    measured, marked = measure_rows(rows, starts), mark_rows(rows, starts)
    exact = [1, 4]  # largest entry and fingerprint
    assert np.array_equal(measured[:, exact], table[:, exact])
    assert np.array_equal(marked, measured[:, [1, 3, 4]])
    assert measured[:, [0, 2]] == pytest.approx(table[:, [0, 2]], rel=1e-6)
    assert measured[:, 3] == pytest.approx(table[:, 3], abs=1e-6 * float(table[:, 2].max()))


def test_no_gradients_have_statistics_zero() -> None:
    for values in ({}, {"empty": torch.zeros(0)}):
        assert gradient_table(values).whole.l2 == gradient_table(values).whole.l1 == 0.0


def test_what_is_not_finite_stays_so() -> None:
    for value in (math.inf, math.nan):
        used = {"vector": torch.tensor([1.0, value, -math.inf]), "other": torch.ones(2)}
        table = gradient_table(used)
        assert not math.isfinite(table.whole.linf)
        assert math.isfinite(table.rows["other"].l2)


@pytest.mark.parametrize("name", ["scalar", "vector", "matrix", "large"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_one_bit_of_one_element_changes_the_fingerprint(dtype: torch.dtype, name: str) -> None:
    used = gradients(dtype)
    before = gradient_table(used)
    used[name].view(-1)[-1:] = torch.nextafter(used[name].view(-1)[-1:], torch.zeros(1, dtype=dtype))
    after = gradient_table(used)
    assert before.same(gradient_table(gradients(dtype)))
    assert not before.same(after)
    assert before.close(after) or dtype is torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gradients_are_told_from_others_without_measuring_all(dtype: torch.dtype) -> None:
    table = gradient_table(gradients(dtype))
    assert are_measured(gradients(dtype), table)
    for name in ("scalar", "vector", "matrix", "large"):
        other = gradients(dtype)
        other[name].view(-1)[-1:] = torch.nextafter(other[name].view(-1)[-1:], torch.zeros(1, dtype=dtype))
        assert not are_measured(other, table)
    assert not are_measured({"large": gradients(dtype)["large"]}, table)


def test_turning_the_sign_of_evenly_many_elements_keeps_the_fingerprint_but_not_the_sum() -> None:
    for size in (1000, 400_000):
        used = {"one": torch.rand(size, generator=torch.Generator().manual_seed(0)) + 0.1}
        turned = {"one": -used["one"]}
        assert gradient_table(used).rows["one"].fingerprint == gradient_table(turned).rows["one"].fingerprint
        assert not are_measured(turned, gradient_table(used))


@pytest.mark.parametrize("size", [(8, 64), (1, 2**17 + 512)], ids=["small", "large"])
def test_a_doubled_gradient_that_sums_to_zero_is_another(size: tuple[int, int]) -> None:
    half = torch.randn(size[0], size[1] // 2, generator=torch.Generator().manual_seed(0))
    used = {"one": torch.cat([half, -half], 1)}
    doubled = {"one": 2 * used["one"]}
    assert gradient_table(used).rows["one"].fingerprint == gradient_table(doubled).rows["one"].fingerprint
    assert not are_measured(doubled, gradient_table(used))


def test_gradients_that_are_not_finite_are_no_measured_ones() -> None:
    used = {"one": torch.tensor([1.0, math.nan])}
    assert not are_measured(used, gradient_table(used))


def test_a_table_is_written_and_read_as_it_is() -> None:
    table = gradient_table(gradients())
    found = GradientTable.decode(table.names, table.encode())
    assert (found.names, found.rows, found.whole) == (table.names, table.rows, table.whole)


@pytest.mark.parametrize("factor", [0.37, 1 / 3, 2.0, 1e-6, 1.0])
def test_a_factor_is_found_bit_by_bit(factor: float) -> None:
    used = {name: value * factor for name, value in gradients().items()}
    found = gradients()
    scale = reconcile(found, gradient_table(used), 1)
    assert scale == pytest.approx(factor, rel=1e-6)
    assert all(torch.equal(value, used[name]) for name, value in found.items())


def test_clipping_by_value_is_found_and_given_as_a_factor_of_each_element() -> None:
    used = {name: value.clamp(-0.8, 0.8) for name, value in gradients().items()}
    found = gradients()
    scale = reconcile(found, gradient_table(used), 1)
    assert isinstance(scale, dict)
    assert all(torch.equal(value, used[name]) for name, value in found.items())
    for name, value in gradients().items():
        torch.testing.assert_close(value * scale[name], used[name])


def test_a_factor_for_each_parameter_and_a_bound_for_one_are_found_bit_by_bit() -> None:
    factors = {"scalar": 0.3, "vector": 0.3, "empty": 1.0, "matrix": 0.123456, "large": 1.0}
    used = {name: value * factors[name] for name, value in gradients().items()}
    used["matrix"].clamp_(-0.1, 0.1)
    found = gradients()
    scale = reconcile(found, gradient_table(used), 1)
    assert isinstance(scale, dict)
    assert all(torch.equal(value, used[name]) for name, value in found.items())
    assert {name: isinstance(factor, Tensor) for name, factor in scale.items()} == {n: n == "matrix" for n in used}
    for name, value in gradients().items():
        torch.testing.assert_close(value * scale[name], used[name])


def other_element(used: dict[str, Tensor]) -> None:
    used["large"][0] += 0.5


def other_small_parameter(used: dict[str, Tensor]) -> None:
    used["vector"][2] += 0.5  # less than one part in 100,000 of the whole


def negative(used: dict[str, Tensor]) -> None:
    for value in used.values():
        value.neg_()


def one_negative(used: dict[str, Tensor]) -> None:
    used["vector"].neg_()


@pytest.mark.parametrize("change", [other_element, other_small_parameter, negative, one_negative])
def test_another_gradient_is_not_taken_for_a_scaled_one(change: Callable[[dict[str, Tensor]], None]) -> None:
    used = gradients()
    change(used)
    assert reconcile(gradients(), gradient_table(used), 1) is None


def test_a_parameter_whose_gradient_is_rounding_may_differ_within_rounding_of_the_whole() -> None:
    raw, used = gradients(), gradients()
    raw["vector"] *= 1e-7
    used["vector"] = raw["vector"].roll(1) * torch.linspace(-1, 1, 7)
    assert reconcile(raw, gradient_table(used), 1) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("largest", [3, 2**32 - 1, 2**32, 2**40])
def test_ids_of_any_size_are_written_and_read_as_they_are(largest: int) -> None:
    batches = (torch.tensor([0, largest]), torch.tensor([1]))
    content, sizes = encode_ids(torch.cat(batches).numpy()), np.array([2, 1], dtype="<i8").tobytes()
    assert [ids.tolist() for ids in batches_of(content, sizes)] == [[0, largest], [1]]
    assert len(content) == 3 * (4 if largest < 2**32 else 8)
