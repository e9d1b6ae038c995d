"""Sketches of path features keep inner products on average."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.attribution.networks import data
from tests.kernel.reference import recorded
from whence._errors import ArgumentError
from whence.gradients import Dense
from whence.kernel import path_features, path_kernel, sketch
from whence.runs import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return recorded(tmp_path_factory.mktemp("sketch"))


def test_over_seeds_products_of_sketches_are_the_kernel_within_their_variance(run: Run) -> None:
    targets, width, seeds = data("perceptron", 6, seed=1), 16, 8
    found = path_kernel(run, targets)
    exact, norms = found["kernel"].values, found["target_norm"].values
    made = [path_features(run, targets, width, seed=seed).values for seed in range(seeds)]
    products = np.stack([one @ one.T for one in made])
    bound = (norms[:, None] * norms + exact**2) / width  # of the variance of one product
    # The mean of eight is within five standard errors.
    assert (abs(products.mean(0) - exact) <= 5 * np.sqrt(bound / seeds)).all()
    assert products.std(0).min() > 0


def test_over_draws_the_variance_of_a_product_is_below_its_bound() -> None:
    generator = torch.Generator().manual_seed(0)
    both = torch.randn(2, 23, generator=generator, dtype=torch.float64)
    exact, width, found = both @ both.T, 4, []
    for seed in range(800):
        made = torch.zeros(2, width, dtype=torch.float64)
        sketch._add(made, Dense(both[:, :20]), sketch._Draw(torch.Size((20,)), width, seed, 1.0, made), 2**20)
        sketch._add(made, Dense(both[:, 20:]), sketch._Draw(torch.Size((3,)), width, seed + 9999, 1.0, made), 2**20)
        found.append(made @ made.T)
    errors = torch.stack(found) - exact
    norms = exact.diagonal()
    bound = (norms[:, None] * norms + exact**2) / width
    assert (errors.mean(0).abs() <= 5 * (bound / 800).sqrt()).all()
    assert (errors.square().mean(0) <= 1.2 * bound).all()  # a variance of 800 is known to about 5 percent


def test_averaged_over_all_signs_a_product_of_sketches_is_exact() -> None:
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    drawn = sketch._Draw(torch.Size((2, 3)), 2, 7, torch.rand(2, 3, generator=generator, dtype=torch.float64), one)
    weights = drawn.signs.abs()
    total = torch.zeros(3, 3, dtype=torch.float64)
    for number in range(2**6):
        drawn.signs = weights * torch.tensor([1.0 if number >> bit & 1 else -1.0 for bit in range(6)])
        found = torch.zeros(3, 2, dtype=torch.float64)
        sketch._add(found, Dense(one.reshape(3, 2, 3)), drawn, 1)
        total += found @ found.T
    torch.testing.assert_close(total / 2**6, one * weights**2 @ one.T, rtol=1e-12, atol=1e-14)


def test_the_error_is_the_measured_one_and_falls_with_the_width(run: Run) -> None:
    targets = data("perceptron", 20, seed=1)
    exact = path_kernel(run, targets)["kernel"].values
    errors = []
    for width in (16, 1024):
        made = path_features(run, targets, width)
        products = made.values @ made.values.T
        assert made.attrs["error"] == pytest.approx(np.linalg.norm(products - exact) / np.linalg.norm(exact))
        errors.append((made.attrs["error"], made.attrs["cosine_error"]))
    assert errors[1][0] < errors[0][0] / 2
    assert errors[1][1] < errors[0][1] / 2


def test_blocks_and_chosen_examples_give_the_same_sketches(run: Run) -> None:
    targets = data("perceptron", 20, seed=1)
    whole = path_features(run, targets, 32)
    some = path_features(run, targets, 32, ids=[3, 17], memory_budget=3_000)
    np.testing.assert_allclose(some, whole.sel(example=[3, 17]), rtol=1e-10, atol=1e-14)
    assert some.example.values.tolist() == [3, 17]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"width": 0}, "`width` is how many"),
        (
            {"width": 10**15},
            r"of width 1,000,000,000,000,000 .* 16,000,000,000,000,000 bytes, .* Give a smaller `width`",
        ),
        ({"seed": -1}, "`seed` is a"),
        ({"precision": "mixed"}, "No precision 'mixed'"),
    ],
)
def test_what_is_no_sketch_is_refused(run: Run, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        path_features(run, data("perceptron", 2), **{"width": 4, **given})
