"""The compiled step of a walk against its formula in float64."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from whence._errors import ShapeError
from whence.compiled import Carried, Factors, Transpose, has_kernels, walk

DTYPES = (torch.float32, torch.float64)
needs_compiler = pytest.mark.skipif(not has_kernels(torch.zeros(1)), reason="there is no C compiler here")


@dataclass
class Case:
    """A step: what the kernel is given."""

    targets: Factors
    batch: Factors
    transpose: Transpose
    blocks: list[Carried]

    def copy(self) -> list[Carried]:
        return [Carried(one.rows, _copy(one.buffers), _copy(one.weights)) for one in self.blocks]


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()


def case(
    dtype: torch.dtype,
    *,
    targets: int = 7,
    examples: int = 5,
    rows: tuple[int, ...] = (2, 1),
    columns: int = 3,
    positions: int = 2,
    buffers: bool = True,
    weights: bool = True,
    whole: bool = True,
) -> Case:
    """Return a step of random numbers; ``whole``: coefficients differ from entry to entry."""

    def one(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype)

    height = sum(rows)
    kappa, sigma, gamma = (one(height, columns) if whole else float(one(1)) for _ in range(3))
    return Case(
        Factors(one(targets, positions, height), one(targets, positions, columns)),
        Factors(one(examples, 1, height), one(examples, 1, columns)),
        Transpose(kappa, sigma, gamma, pending=0.25, keep=0.75, coupled=0.5),
        [
            Carried(
                count,
                one(targets, count * columns) if buffers else None,
                one(targets, count * columns) if weights else None,
            )
            for count in rows
        ],
    )


def written(factors: Factors) -> Tensor:
    """Return gradients written out in float64, one flat row each."""
    return torch.einsum("npr,npc->nrc", factors.rows.double(), factors.columns.double()).flatten(1)


def flat(value: float | Tensor) -> float | Tensor:
    return value.double().reshape(-1) if isinstance(value, Tensor) else value


def joined(tensors: list[Tensor | None], like: Tensor) -> Tensor:
    """Return what all blocks carry, side by side; zeros where nothing is."""
    known = [one.double() for one in tensors if one is not None]
    return torch.cat(known, 1) if known else torch.zeros_like(like)


def reference(given: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return u, b, p by the formula, and the sum of the sizes of what is added up to u·g, in float64."""
    how, h = given.transpose, written(given.targets)
    b = joined([one.buffers for one in given.blocks], h)
    p = joined([one.weights for one in given.blocks], h)
    m = p + h
    if given.blocks[0].buffers is not None:
        b = b - flat(how.sigma) * m / how.pending
    u = flat(how.kappa) * how.pending * b - flat(how.gamma) * m
    return u, b, how.keep * m + how.coupled * u - h, h


def check(given: Case, dtype: torch.dtype) -> None:
    u, b, p, _ = reference(given)
    g = written(given.batch)
    before = torch.randn(len(u), len(g) + 2, dtype=dtype)
    around, found = before.clone(), before.clone()
    blocks = given.copy()
    walk(blocks, given.targets, given.batch, given.transpose, found[:, 1:-1])
    eps = torch.finfo(dtype).eps
    count = u.shape[1]
    # every number is a sum of products of at most `count` + 8 roundings, in numbers below 40 in these cases
    bound = (count + 8) * eps * (u.abs() @ g.abs().T + 40.0 * g.abs().sum(1) + before[:, 1:-1].double().abs())
    assert bool(((found[:, 1:-1].double() - before[:, 1:-1].double() - u @ g.T).abs() <= bound).all())
    torch.testing.assert_close(found[:, [0, -1]], around[:, [0, -1]], rtol=0.0, atol=0.0)
    for name, expected in (("buffers", b), ("weights", p)):
        carried = [getattr(one, name) for one in blocks]
        if carried[0] is not None:
            torch.testing.assert_close(joined(carried, expected), expected, rtol=0.0, atol=400.0 * eps)


SHAPES = st.fixed_dictionaries(
    {
        "targets": st.integers(1, 26),
        "examples": st.integers(1, 40),
        "rows": st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple),
        "columns": st.integers(1, 9),
        "positions": st.integers(1, 3),
        "buffers": st.booleans(),
        "weights": st.booleans(),
        "whole": st.booleans(),
    }
)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@given(shapes=SHAPES)
def test_walk_is_the_transpose_of_the_step_and_a_product_for_all_shapes(
    dtype: torch.dtype, shapes: dict[str, Any]
) -> None:
    check(case(dtype, **shapes), dtype)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
def test_walk_of_more_columns_than_are_multiplied_at_once(dtype: torch.dtype) -> None:
    check(case(dtype, targets=13, examples=17, columns=1100), dtype)


@needs_compiler
def test_walk_gives_the_same_bits_on_any_number_of_threads() -> None:
    given, threads = case(torch.float32, targets=20, examples=33, columns=20), torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3):  # with three, a thread walks one tile of targets at a time, else two
            torch.set_num_threads(count)
            total = torch.zeros(20, 33)
            walk(given.copy(), given.targets, given.batch, given.transpose, total)
            found.append(total)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@needs_compiler
def test_factors_of_a_lower_type_are_read_as_the_numbers_they_are() -> None:
    given = case(torch.float32)
    low = Factors(given.batch.rows.bfloat16(), given.batch.columns.bfloat16())
    as_they_are = Factors(low.rows.float(), low.columns.float())
    first, second = torch.zeros(7, 5), torch.zeros(7, 5)
    walk(given.copy(), given.targets, low, given.transpose, first)
    walk(given.copy(), given.targets, as_they_are, given.transpose, second)
    assert torch.equal(first, second)


@needs_compiler
def test_negated_views_are_read_as_the_numbers_they_are() -> None:
    given = case(torch.float32)
    found = []
    for columns in (torch._neg_view(given.batch.columns), -given.batch.columns):
        found.append(torch.zeros(7, 5))
        walk(given.copy(), given.targets, Factors(given.batch.rows, columns), given.transpose, found[-1])
    assert torch.equal(*found)


def unfit(given: Case) -> dict[str, tuple[list[Carried], Factors, Factors, Transpose, Tensor]]:
    """Return steps that do not fit together, by what is wrong with them."""
    blocks, targets, batch, how, found = given.blocks, given.targets, given.batch, given.transpose, torch.zeros(7, 5)
    held = blocks[0].buffers
    assert held is not None
    second = Factors(torch.cat([batch.rows] * 2, 1), torch.cat([batch.columns] * 2, 1))
    short = replace(how, sigma=torch.zeros(2, 3))
    return {
        "a second position": (blocks, targets, second, how, found),
        "rows missing": (blocks[:1], targets, batch, how, found),
        "another type": ([replace(blocks[0], buffers=held.double()), blocks[1]], targets, batch, how, found),
        "turned": ([replace(blocks[0], buffers=held.T.contiguous().T), blocks[1]], targets, batch, how, found),
        "found turned": (blocks, targets, batch, how, torch.zeros(5, 7).T),
        "found too small": (blocks, targets, batch, how, torch.zeros(7, 4)),
        "a short coefficient": (blocks, targets, batch, short, found),
    }


@needs_compiler
@pytest.mark.parametrize("wrong", unfit(case(torch.float32)))
def test_what_does_not_fit_together_is_refused_before_anything_is_changed(wrong: str) -> None:
    blocks, targets, batch, how, found = unfit(case(torch.float32))[wrong]
    before = [_copy(one.buffers) for one in blocks]
    with pytest.raises(ShapeError, match=r"These do not make a step of a walk: .*'found'"):
        walk(blocks, targets, batch, how, found)
    assert not found.any()
    for old, one in zip(before, blocks, strict=True):
        torch.testing.assert_close(one.buffers, old, rtol=0.0, atol=0.0)


def test_there_are_no_kernels_for_numbers_of_16_bits() -> None:
    assert not has_kernels(torch.zeros(1, dtype=torch.bfloat16))
    assert not has_kernels(torch.zeros(1, dtype=torch.float16))
