"""What proves samples: numbers with known answers, and those of a slow reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.invariants.making import plain
from whence._errors import ArgumentError, ShapeError
from whence.evaluation.invariance import (
    Standard,
    kernel_distance,
    mean_pairwise_distance,
    rejected_from,
    spectral_deviation,
    spectral_slope,
    spectrum_beside,
    vendi_score,
)
from whence.invariants import Objective, invariants, low_pass
from whence.invariants.realism import precision, recall


def test_the_vendi_score_counts_directions_that_differ() -> None:
    """Two groups at right angles, of shares p and 1 - p: exp of their entropy."""
    points = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 5.0]], dtype=torch.float64)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert vendi_score(points) == pytest.approx(math.exp(entropy), abs=1e-9)
    assert vendi_score(points[:3]) == pytest.approx(1.0, abs=1e-9)


def test_the_mean_distance_is_over_all_pairs() -> None:
    assert mean_pairwise_distance(torch.tensor([[0.0], [1.0], [3.0]])) == pytest.approx(2.0)
    with pytest.raises(ArgumentError, match="between samples needs two or more"):
        mean_pairwise_distance(torch.zeros(1, 2))


def power_law(slope: float, height: int, width: int, seed: int = 0) -> Tensor:
    """Return an image whose power is ring^slope, with phases at random."""
    noise = np.random.default_rng(seed).normal(size=(height, width))
    spectrum, side = np.fft.fft2(noise), min(height, width)
    ring = np.rint(np.hypot(*np.meshgrid(np.fft.fftfreq(height) * side, np.fft.fftfreq(width) * side, indexing="ij")))
    amplitude = np.where(ring > 0, np.maximum(ring, 1) ** (slope / 2), 7.0)
    return torch.from_numpy(np.fft.ifft2(spectrum / np.abs(spectrum) * amplitude).real)[None, None]


@pytest.mark.parametrize(("height", "width"), [(16, 16), (15, 15), (16, 24)])
@pytest.mark.parametrize("slope", [-2.0, 0.0, -3.5])
def test_the_spectral_slope_is_the_power_laws(slope: float, height: int, width: int) -> None:
    images = torch.cat([power_law(slope, height, width), power_law(slope - 1, height, width)])
    np.testing.assert_allclose(spectral_slope(images), [slope, slope - 1], atol=1e-9)
    assert spectrum_beside(images[:1], images[1:]) == pytest.approx(1.0)


def test_images_too_small_for_a_slope_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"images of 8 x 8 or more; got shape \(1, 1, 7, 9\)"):
        spectral_slope(torch.zeros(1, 1, 7, 9))


def test_the_kernel_distance_is_the_sum_over_pairs_and_unbiased() -> None:
    rng = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn(count, 3, generator=rng, dtype=torch.float64) for count in (5, 7))

    def kernel(one: Tensor, other: Tensor) -> float:
        return (float(one @ other) / 3 + 1) ** 3

    within = [
        np.mean([kernel(one, other) for a, one in enumerate(points) for b, other in enumerate(points) if a != b])
        for points in (ours, theirs)
    ]
    between = np.mean([kernel(one, other) for one in ours for other in theirs])
    assert kernel_distance(ours, theirs) == pytest.approx(sum(within) - 2 * between, abs=1e-12)
    many = [kernel_distance(*torch.randn(2, 8, 3, generator=rng, dtype=torch.float64).unbind()) for _ in range(400)]
    assert abs(np.mean(many)) < 4 * np.std(many) / 20  # in the mean 0, for a few samples of one law
    with pytest.raises(ArgumentError, match="two or more points on both sides"):
        kernel_distance(ours[:1], theirs)


def brightness() -> Objective:
    return Objective(lambda images: images.square().mean((1, 2, 3)), "power", tolerance=1e-3)


def test_the_spectral_deviation_is_the_distance_of_filtered_values_from_the_unfiltered_querys() -> None:
    objective, query = brightness(), torch.randn(1, 8, 8, dtype=torch.float64)
    found = invariants(objective, query, plain(1, 8, 8), 2, pool=0)
    told = spectral_deviation(objective, found, (0.3, 1.0))
    assert told.dims == ("input", "cutoff")
    assert told.input.values.tolist() == ["query", "sample 0", "sample 1"]
    goal = float(query.square().mean())
    for name, image in zip(told.input.values, [query, *found.inputs], strict=True):
        expected = abs(float(low_pass(image, 0.3).square().mean()) - goal)
        assert float(told.sel(input=name, cutoff=0.3)) == pytest.approx(expected, abs=1e-12)
    assert float(told.sel(input="query", cutoff=1.0)) == 0.0
    assert float(told.sel(cutoff=1.0).max()) <= 1e-3
    assert float(told.sel(cutoff=0.3).min()) > 0.1


def test_the_priors_own_invariants_are_its_draws_within_the_distance() -> None:
    objective = Objective(lambda points: points[:, 0], "first")
    goal = torch.tensor([0.5], dtype=torch.float64)
    pool = rejected_from(objective, goal, plain(2), within=0.05, wanted=10**6, draws=9000, seed=3)
    assert float((pool.inputs[:, 0] - 0.5).abs().max()) <= 0.05
    share = 0.1 * math.exp(-0.125) / math.sqrt(2 * math.pi)
    assert len(pool) == pytest.approx(9000 * share, abs=5 * math.sqrt(9000 * share))
    assert len(pool.inputs.unique(dim=0)) == len(pool)
    assert len(rejected_from(objective, goal, plain(2), within=0.05, wanted=7, draws=9000)) == 7
    with pytest.raises(ArgumentError, match=r"None of 50 draws came within 1e-09 of the value of first; the nearest"):
        rejected_from(objective, goal, plain(2), within=1e-9, wanted=1, draws=50)


def test_a_standard_holds_samples_against_real_inputs_the_prior_and_its_own_invariants() -> None:
    rng = torch.Generator().manual_seed(0)
    ours, real, drawn, rejected = (torch.randn(count, 3, generator=rng) for count in (12, 40, 50, 9))

    def features(inputs: Tensor) -> Tensor:
        return 2 * inputs + 1

    told = Standard(features, real, drawn, rejected).of(ours)
    o, r, d, k = map(features, (ours, real, drawn, rejected))
    assert told == pytest.approx(
        {
            "precision": float(precision(o, r)),
            "prior_precision": float(precision(d, r)),
            "diversity": mean_pairwise_distance(o) / mean_pairwise_distance(d[:12]),
            "vendi": vendi_score(o) / vendi_score(d[:12]),
            "rejected_precision": float(precision(o, k)),
            "rejected_recall": float(recall(o, k)),
            "rejected_diversity": mean_pairwise_distance(o) / mean_pairwise_distance(k),
            "kernel_distance": kernel_distance(o, k),
            "prior_kernel_distance": kernel_distance(d[:12], k),
        }
    )
    assert set(Standard(features, real, drawn).of(ours)) == {"precision", "prior_precision", "diversity", "vendi"}
    # Two samples have no manifold of nearest neighbours.
    assert set(Standard(features, real, drawn, rejected).of(ours[:2])) == {
        "precision",
        "prior_precision",
        "diversity",
        "vendi",
    }
    with pytest.raises(ArgumentError, match=r"held against as many draws of the prior, .*; got 12 inputs and 5 draws"):
        Standard(features, real, drawn[:5]).of(ours)
    with pytest.raises(ArgumentError, match="need to be two or more; got 1 inputs and 50 draws"):
        Standard(features, real, drawn).of(ours[:1])
