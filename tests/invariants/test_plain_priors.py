"""Priors without a network are the linear maps they say they are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from whence._errors import ArgumentError, DataError, ShapeError
from whence.invariants import Objective, draw_pool, invariants
from whence.invariants.asking import check_query
from whence.invariants.priors import Fourier, Pixels, Prior, draw, evaluations


def test_pixels_are_the_mean_and_deviation_of_their_data() -> None:
    images = torch.rand(200, 2, 3, 4, dtype=torch.float64) * torch.arange(1.0, 5.0, dtype=torch.float64)
    prior = Pixels.of((images, torch.zeros(200, dtype=torch.int64)))
    assert isinstance(prior, Prior)
    assert prior.latent_shape == (2, 3, 4)
    latents = draw(prior, 3, seed=1, dtype=torch.float64)
    expected = images.mean(0) + images.std(0, correction=0) * latents
    np.testing.assert_allclose(prior.decode(latents), expected, atol=1e-6)  # the prior's numbers are float32
    assert evaluations(prior) == 1


def test_pixels_that_never_change_can_be_moved_all_the_same() -> None:
    images = torch.rand(50, 1, 2, 2)
    images[:, 0, 0, 0] = 0.5
    deviation = Pixels.of((images, torch.zeros(50, dtype=torch.int64))).deviation
    assert float(deviation[0, 0, 0]) == pytest.approx(0.05 * float(deviation.max()))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 5), (1, 6)])
def test_the_fourier_priors_spectrum_falls_as_it_says(height: int, width: int) -> None:
    """The map before the sigmoid is linear: its singular values are the weights of the plane's frequencies."""
    prior = Fourier((1, height, width), bounds=(-2.0, 2.0), decay=1.3, contrast=1.5)
    basis = torch.eye(height * width, dtype=torch.float64).reshape(-1, 1, height, width) * 1e-6
    matrix = (((prior.decode(basis) + 2) / 4).logit() / 1e-6).flatten(1)
    found = torch.linalg.svdvals(matrix)
    frequencies = [
        max(math.hypot(min(row, height - row) / height, min(column, width - column) / width), 1 / max(height, width))
        for row in range(height)
        for column in range(width)
    ]
    weights = np.sort(np.array(frequencies) ** -1.3)[::-1]
    weights *= 1.5 / np.sqrt((weights**2).mean())
    np.testing.assert_allclose(found, weights, rtol=1e-6)


def test_the_fourier_priors_pixels_have_its_contrast_and_its_bounds() -> None:
    prior = Fourier((3, 8, 8), bounds=(0.0, 4.0), contrast=0.7)
    images = prior.decode(draw(prior, 500, seed=0, dtype=torch.float64))
    assert float(images.min()) > 0.0
    assert float(images.max()) < 4.0
    before = (images / 4).logit()
    # Of 96,000 numbers, correlated over less than 64 pixels: the deviation is known to 0.7 / √(2 · 1,500).
    assert float(before.std()) == pytest.approx(0.7, abs=5 * 0.7 / math.sqrt(2 * 1500))


def test_a_query_of_another_range_than_the_pixels_is_refused() -> None:
    prior = Pixels.of(torch.rand(50, 1, 4, 4))
    low, high = prior.bounds
    assert -5 < low < 0
    assert 1 < high < 5
    check_query(torch.rand(1, 4, 4), prior)
    with pytest.raises(ArgumentError, match="Scale the query as the prior's training images were"):
        check_query(255 * torch.rand(1, 4, 4), prior)


def test_what_holds_many_numbers_is_shown_in_a_line() -> None:
    prior = Pixels(torch.zeros(1, 9, 9), torch.tensor(0.5))
    pool = draw_pool(prior, 4)
    found = invariants(Objective(lambda inputs: inputs.flatten(1).sum(1), "sum"), pool.inputs[0], prior, 3, pool=pool)
    assert repr(prior) == "Pixels(inputs of shape (1, 9, 9), from -5 to 5 in ten deviations)"
    assert repr(pool) == "Pool(4 draws of inputs of shape (1, 9, 9))"
    assert repr(found) == "InvariantSet(3 of 3 solved for sum; see its summary() and certificate)"


@pytest.mark.parametrize("prior", [Pixels(torch.zeros(1, 3, 3), torch.tensor(2.0)), Fourier((1, 3, 3))])
def test_gradients_by_latents_are_central_differences(prior: Any) -> None:
    point = torch.randn(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(prior.decode, (point,), eps=1e-6, atol=1e-6)
    alone = torch.cat([prior.decode(one[None]) for one in point])
    # Each from its own latent alone; transforms of several at once may add up in another order, of 9 numbers below 4.
    torch.testing.assert_close(alone, prior.decode(point), rtol=0, atol=9 * 4 * torch.finfo(torch.float64).eps)


def test_what_is_no_prior_is_refused_in_words() -> None:
    with pytest.raises(ArgumentError, match=r"deviation is above 0 everywhere; got one of -1\."):
        Pixels(torch.zeros(1, 2, 2), torch.tensor(-1.0))
    with pytest.raises(ArgumentError, match=r"one for each of the mean's \(1, 2, 2\); got \(2, 2, 2\)"):
        Pixels(torch.zeros(1, 2, 2), torch.ones(2, 2, 2))
    with pytest.raises(DataError, match=r"floating-point tensors; these are torch\.int64"):
        Pixels.of((torch.zeros(5, 1, 2, 2, dtype=torch.int64), torch.zeros(5, dtype=torch.int64)))
    with pytest.raises(DataError, match=r"Every input of the data is the same"):
        Pixels.of((torch.zeros(5, 1, 2, 2), torch.zeros(5, dtype=torch.int64)))
    with pytest.raises(ArgumentError, match=r"most is how many examples are read, at least 1; got 0"):
        Pixels.of((torch.rand(5, 1, 2, 2), torch.zeros(5, dtype=torch.int64)), most=0)
    with pytest.raises(ArgumentError, match=r"whole numbers above 0; got \(1, 0, 8\)"):
        Fourier((1, 0, 8))
    with pytest.raises(ArgumentError, match=r"a least and a greater number; got \(1\.0, 0\.0\)"):
        Fourier((1, 8, 8), bounds=(1.0, 0.0))
    with pytest.raises(ArgumentError, match=r"decay is at least 0 and contrast above 0; got 1\.0 and 0"):
        Fourier((1, 8, 8), contrast=0)
    with pytest.raises(ShapeError, match=r"latents of shape \(n, 1, 8, 8\); got \(2, 1, 8, 9\)"):
        Fourier((1, 8, 8)).decode(torch.zeros(2, 1, 8, 9))
