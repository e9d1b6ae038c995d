"""Products in two types: what is rounded, and which type is multiplied in."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import Tensor

products = importlib.import_module("whence.audit.products")


@pytest.fixture
def factors() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(5, 300, generator=generator) for _ in range(2))
    return left, right.bfloat16()


@pytest.mark.parametrize("fast", [True, False])
def test_factor_of_the_higher_type_is_rounded_only_where_the_lower_type_is_fast(
    fast: bool, factors: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_no_slower", lambda low, high: fast)
    left, right = factors
    total = torch.ones(5, 5)
    products.add_product(total, left, right, 0.5)
    used = left.bfloat16() if fast else left
    expected = 1.0 + 0.5 * used.double() @ right.double().T
    sizes = used.double().abs() @ right.double().abs().T
    rounding = 2.0**-8 * expected.abs().max() if fast else 0.0  # a product of bfloat16 factors is rounded to bfloat16
    assert bool(((total - expected).abs() <= 300 * 2.0**-24 * sizes + rounding).all())


def test_the_lower_type_is_used_only_where_it_is_measured_to_be_no_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {torch.bfloat16: 2.0, torch.float32: 1.0}
    monkeypatch.setattr(products, "_seconds", seconds.__getitem__)
    products._no_slower.cache_clear()
    assert not products._no_slower(torch.bfloat16, torch.float32)
    products._no_slower.cache_clear()
    seconds[torch.bfloat16] = 1.0
    assert products._no_slower(torch.bfloat16, torch.float32)
    products._no_slower.cache_clear()
