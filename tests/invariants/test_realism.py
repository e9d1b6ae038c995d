"""Precision and recall are the shares that a search through all pairs finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from whence._errors import ArgumentError, ShapeError
from whence.invariants.realism import PixelComponents, precision, realism, recall


def share_within(points: np.ndarray, reference: np.ndarray, k: int) -> float:
    """Return the share of points within the k-th nearest neighbour's distance of some reference point, pair by pair."""
    inside = 0
    for point in points:
        for place, centre in enumerate(reference):
            others = sorted(
                float(np.linalg.norm(centre - one)) for other, one in enumerate(reference) if other != place
            )
            if float(np.linalg.norm(point - centre)) <= others[k - 1]:
                inside += 1
                break
    return inside / len(points)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_precision_and_recall_are_those_of_a_search_through_all_pairs(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    points, reference = rng.normal(0.5, 1.5, (40, 3)), rng.normal(size=(31, 3))
    one, two = torch.from_numpy(points), torch.from_numpy(reference)
    assert float(precision(one, two, k)) == share_within(points, reference, k)
    assert float(recall(one, two, k)) == share_within(reference, points, k)
    assert 0 < float(precision(one, two, k)) < 1


def test_float32_points_far_from_zero_keep_their_small_distances() -> None:
    points = torch.tensor([[1000.0], [1000.5], [1002.0], [1004.0]])
    assert float(precision(points[:1] + 0.25, points, 1)) == 1.0
    assert float(precision(points[:1] - 0.75, points, 1)) == 0.0


def test_copies_are_precise_and_images_of_one_class_are_not_punished_by_precision() -> None:
    rng = torch.Generator().manual_seed(0)
    real = torch.rand(60, 1, 4, 4, generator=rng)
    real[:30] += 5  # two classes
    made = real[:30] + 0.01 * torch.rand(30, 1, 4, 4, generator=rng)
    found = realism(made, real[::2], real)
    assert found.precision == 1.0
    assert found.recall <= 0.5
    noise = realism(torch.rand(30, 1, 4, 4, generator=rng) * 100, real[::2], real)
    assert noise.precision == 0.0


def test_another_space_of_features_decides() -> None:
    rng = torch.Generator().manual_seed(0)
    made, real = torch.rand(30, 1, 4, 4, generator=rng) + 9, torch.rand(60, 1, 4, 4, generator=rng)
    assert realism(made, real[:30], real[30:]).precision == 0.0
    assert realism(made, real[:30], real[30:], lambda images: images.flatten(1)[:, :2] % 1).precision > 0.7


def test_components_of_pixels_keep_the_distances_of_what_they_span() -> None:
    basis = torch.randn(3, 16, dtype=torch.float64)
    images = (torch.randn(50, 3, dtype=torch.float64) @ basis).reshape(50, 1, 4, 4)
    found = PixelComponents(images)(images)
    np.testing.assert_allclose(
        (found[:, None] - found).norm(dim=2), (images.flatten(1)[:, None] - images.flatten(1)).norm(dim=2), atol=1e-8
    )


def test_what_cannot_be_compared_is_refused_in_words() -> None:
    with pytest.raises(ShapeError, match=r"as many features; got \(3, 2\) and \(4, 3\)"):
        precision(torch.zeros(3, 2), torch.zeros(4, 3))
    with pytest.raises(ArgumentError, match=r"k is 1 to 3, one less than the reference has points; got 4"):
        precision(torch.zeros(3, 2), torch.zeros(4, 2), 4)
