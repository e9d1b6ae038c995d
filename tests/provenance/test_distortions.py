"""Each distortion against a slow one written out by hand, picture by picture in float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from whence._errors import ArgumentError, DataError, ShapeError
from whence.provenance import (
    CONDITIONS,
    DISTORT,
    Blur,
    Distortion,
    GaussianNoise,
    Mixture,
    MotionBlur,
    NoDistortion,
    Occlusion,
    Rotation,
    SaltAndPepper,
    Scaling,
    Translation,
    conditions,
)
from whence.provenance.pixels import gaussian, noised, occluded, smoothed, speckled, warped

ALL = {**CONDITIONS, "mixture": DISTORT}
SHAPES = ((3, 1, 9, 9), (2, 3, 8, 11))


def pictures(shape: tuple[int, ...] = (3, 1, 9, 9), seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rolled(picture: np.ndarray, down: int, across: int, low: float) -> np.ndarray:
    """Move a (channels, height, width) picture by whole pixels: roll it, and fill what came round."""
    found = np.roll(picture, (down, across), axis=(1, 2))
    found[:, slice(None, down) if down > 0 else slice(down or picture.shape[1], None)] = low
    found[:, :, slice(None, across) if across > 0 else slice(across or picture.shape[2], None)] = low
    return found


def mapped(picture: np.ndarray, degrees: float, scale: float, across: float, down: float, low: float) -> np.ndarray:
    """Look up, for each pixel, the four around where it comes from."""
    channels, height, width = picture.shape
    found = np.full_like(picture, low)
    turn = math.radians(degrees)
    for row, column in itertools.product(range(height), range(width)):
        x, y = column - (width - 1) / 2 - across, row - (height - 1) / 2 - down
        x, y = (math.cos(turn) * x - math.sin(turn) * y) / scale, (math.sin(turn) * x + math.cos(turn) * y) / scale
        there_x, there_y = x + (width - 1) / 2, y + (height - 1) / 2
        left, top = math.floor(there_x), math.floor(there_y)
        total = np.zeros(channels)
        for i, j in itertools.product((top, top + 1), (left, left + 1)):
            inside = 0 <= i < height and 0 <= j < width
            total += (1 - abs(there_y - i)) * (1 - abs(there_x - j)) * (picture[:, i, j] if inside else low)
        found[:, row, column] = total
    return found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("low", [0.0, -1.0])
def test_translation_is_a_roll_with_one_of_four_signs_filled_from_beyond(shape: tuple[int, ...], low: float) -> None:
    given = pictures((40, *shape[1:]))
    found = Translation(3, low=low)(given, seeded())
    seen = set()
    for before, after in zip(given.numpy(), found.numpy(), strict=True):
        fits = [
            pair
            for pair in itertools.product((3, -3), (3, -3))
            if np.allclose(rolled(before, *pair, low), after, rtol=0, atol=1e-12)
        ]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) == 4


@pytest.mark.parametrize("shape", SHAPES)
def test_any_affine_map_is_the_lookup_written_out(shape: tuple[int, ...]) -> None:
    given = pictures(shape)
    degrees, scales, across, down = (
        torch.tensor(one, dtype=torch.float64)[: shape[0]]
        for one in ([30.0, -90.0, 7.0], [0.8, 1.0, 1.2], [0.0, 1.5, -2.0], [3.0, 0.25, -1.0])
    )
    found = warped(given, degrees, scales, across, down, -0.5)
    for one in range(shape[0]):
        turn, scale, right, below = (float(part[one]) for part in (degrees, scales, across, down))
        expected = mapped(given[one].numpy(), turn, scale, right, below, -0.5)
        np.testing.assert_allclose(found[one].numpy(), expected, atol=1e-12)


def test_rotation_by_a_right_angle_moves_whole_pixels_either_way() -> None:
    given = pictures((20, 2, 9, 9))
    found, seen = Rotation(90)(given, seeded()), set()
    for before, after in zip(given.numpy(), found.numpy(), strict=True):
        turns = [k for k in (1, -1) if np.allclose(np.rot90(before, k, axes=(1, 2)), after, atol=1e-12)]
        assert len(turns) == 1
        seen.add(turns[0])
    assert seen == {1, -1}


def test_the_uniform_reading_stays_within_the_hard_one() -> None:
    point = torch.zeros(500, 1, 15, 15, dtype=torch.float64)
    point[:, :, 7, 7] = 1
    places = torch.arange(15, dtype=torch.float64) - 7
    moved = Translation(3, uniform=True)(point, seeded())
    across = (moved.sum(2) * places).sum(2)[:, 0]  # of a point that stays inside, its middle
    assert float(across.abs().max()) <= 3
    assert float(across.std()) == pytest.approx(math.sqrt(3), rel=0.1)  # 6/sqrt(12); 0.1 is 3 standard errors and more
    given = pictures((50, 1, 9, 9))
    assert not torch.allclose(Rotation(30, uniform=True)(given, seeded()), Rotation(30)(given, seeded()))


def test_scaling_by_one_factor_is_the_lookup() -> None:
    given = pictures((2, 3, 8, 11))
    found = Scaling(0.8, 0.8)(given, seeded())
    for before, after in zip(given.numpy(), found.numpy(), strict=True):
        np.testing.assert_allclose(after, mapped(before, 0, 0.8, 0, 0, 0.0), atol=1e-7)


def test_scaling_draws_factors_between_its_ends() -> None:
    found = Scaling(0.5, 2.0)(torch.ones(300, 1, 64, 64, dtype=torch.float64), seeded()).sum((1, 2, 3)).sqrt() / 64
    assert 0.5 <= float(found.min()) < 0.55
    assert float(found.max()) == pytest.approx(1, abs=1e-6)  # larger ones leave the canvas
    assert float((found > 0.999).double().mean()) == pytest.approx(2 / 3, abs=0.09)  # 3.3 standard errors


@pytest.mark.parametrize("sigma", [0.0, 0.7, 1, 2])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("low", [0.0, -1.0])
def test_blur_is_scipys(sigma: float, shape: tuple[int, ...], low: float) -> None:
    given = pictures(shape)
    expected = [
        [ndimage.gaussian_filter(one, sigma, mode="constant", cval=low, truncate=4.0) for one in channels]
        for channels in given.numpy()
    ]
    np.testing.assert_allclose(Blur(sigma, low)(given, seeded()).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_motion_blur_is_the_mean_of_five_pixels_in_a_row(shape: tuple[int, ...]) -> None:
    given = pictures(shape)
    expected = ndimage.uniform_filter1d(given.numpy(), 5, axis=3, mode="constant", cval=-1)
    np.testing.assert_allclose(MotionBlur(5, low=-1)(given, seeded()).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(400, 1, 9, 9), (400, 3, 8, 11)])
def test_occlusion_covers_one_square_anywhere_inside(shape: tuple[int, ...]) -> None:
    given = pictures(shape) + 1
    found = Occlusion(4, low=-2)(given, seeded())
    corners = set()
    for before, after in zip(given.numpy(), found.numpy(), strict=True):
        top, left = np.argwhere((after == -2).all(0)).min(0)
        expected = before.copy()
        expected[:, top : top + 4, left : left + 4] = -2
        np.testing.assert_array_equal(after, expected)
        corners.add((int(top), int(left)))
    assert corners == set(itertools.product(range(shape[2] - 3), range(shape[3] - 3)))


def test_an_occlusion_as_large_as_the_picture_covers_all_of_it() -> None:
    assert not Occlusion(9)(pictures() + 1, seeded()).any()


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 3.0)])
def test_salt_and_pepper_changes_whole_pixels_one_half_to_each_end(low: float, high: float) -> None:
    given = pictures((50, 3, 28, 28)) * 0.9 + 0.05
    found = SaltAndPepper(0.2, low, high)(given, seeded())
    changed = (found != given).any(1)
    assert set(found[(found != given)].tolist()) == {low, high}
    assert torch.equal(changed, (found != given).all(1))  # a pixel with all its channels
    error = 4 * math.sqrt(0.2 * 0.8 / changed.numel())
    assert float(changed.double().mean()) == pytest.approx(0.2, abs=error)
    assert float((found[:, 0] == high).double().mean()) == pytest.approx(0.1, abs=error)
    assert torch.equal(SaltAndPepper(0.0)(given, seeded()), given)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 3.0)])
def test_gaussian_noise_is_normal_in_shares_of_the_range_and_clamped(low: float, high: float) -> None:
    middle = torch.full((30, 1, 28, 28), (low + high) / 2, dtype=torch.float64)
    noise = (GaussianNoise(0.1, low, high)(middle, seeded()) - middle) / (high - low)
    many = noise.numel()
    assert float(noise.std()) == pytest.approx(0.1, abs=4 * 0.1 / math.sqrt(2 * many))
    assert float(noise.mean()) == pytest.approx(0, abs=4 * 0.1 / math.sqrt(many))
    assert float((noise.abs() < 0.1).double().mean()) == pytest.approx(0.6827, abs=4 * math.sqrt(0.22 / many))
    end = GaussianNoise(0.1, low, high)(torch.full_like(middle, high), seeded())
    torch.testing.assert_close(end, (high + noise * (high - low)).clamp(low, high), rtol=0, atol=1e-12)


def test_the_paper_has_fifteen_conditions_in_this_order() -> None:
    assert list(CONDITIONS) == [
        "no distortion",
        *("salt-and-pepper p=0.1", "salt-and-pepper p=0.2", "Gaussian noise σ=0.1", "Gaussian noise σ=0.2"),
        *("occlusion 4×4", "occlusion 6×6", "translation ±3 px", "translation ±4 px", "rotation ±30°", "rotation ±40°"),
        *("scaling 0.8-1.2×", "Gaussian blur σ=1", "Gaussian blur σ=2", "motion blur 5 px"),
    ]
    assert CONDITIONS["translation ±3 px"] == Translation(3)
    assert conditions(-1, 1)["Gaussian noise σ=0.2"] == GaussianNoise(0.2, -1, 1)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_shape_type_and_range_are_kept_and_the_generator_decides_alone(name: str, dtype: torch.dtype) -> None:
    given, distortion = pictures((16, 3, 28, 28)).to(dtype), ALL[name]
    before, kept = torch.random.get_rng_state(), given.clone()
    found = distortion(given, seeded(1))
    assert (found.shape, found.dtype) == (given.shape, given.dtype)
    slack = 4 * torch.finfo(dtype).eps  # of weights that sum to one
    assert -slack <= float(found.min()) <= float(found.max()) <= 1 + slack
    assert torch.equal(found, distortion(given, seeded(1)))
    assert torch.equal(given, kept)
    torch.random.manual_seed(5)
    assert torch.equal(found, distortion(given, seeded(1)))  # the global state decides nothing
    torch.random.set_rng_state(before)
    distortion(given, seeded(1))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", ALL)
def test_precisions_agree_and_a_batch_may_be_empty(name: str) -> None:
    given = pictures((8, 1, 28, 28))
    single, double = ALL[name](given.float(), seeded()), ALL[name](given, seeded())
    torch.testing.assert_close(single.double(), double, rtol=0, atol=2e-5)
    assert ALL[name](given[:0], seeded()).shape == (0, 1, 28, 28)


DRAWING = [name for name in ALL if not any(word in name for word in ("blur", "no distortion"))]


@pytest.mark.parametrize("name", DRAWING)
def test_another_seed_gives_another_result_and_each_picture_its_own(name: str) -> None:
    given = pictures((1, 1, 28, 28)).expand(16, -1, -1, -1)
    found = ALL[name](given, seeded(1))
    assert not torch.equal(found, ALL[name](given, seeded(2)))
    assert len({one.numpy().tobytes() for one in found}) > 1


def test_no_distortion_is_none() -> None:
    assert torch.equal(NoDistortion()(pictures(), seeded()), pictures())


def part(**settings: float | tuple[float, float]) -> Mixture:
    """Return a mixture with all parts off but those named."""
    off = {"rotation": 0.0, "shift": 0.0, "scale": 0.0, "noise": 0.0, "occlusion": 0, "blur": (0.0, 0.0), "speckles": 0}
    return Mixture(**(off | settings))  # type: ignore[arg-type]  # each its own type


def test_a_mixture_with_all_parts_off_leaves_pictures_as_they_are() -> None:
    given = pictures((50, 1, 28, 28))
    torch.testing.assert_close(part()(given, seeded()), given, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "settings",
    [{"noise": 0.2}, {"occlusion": 6}, {"blur": (0.5, 1.3)}, {"speckles": 0.5}],
    ids=lambda one: next(iter(one)),
)
def test_a_mixture_changes_a_fifth_of_the_pictures_in_each_way(settings: dict[str, float]) -> None:
    given = pictures((1000, 1, 12, 12))
    changed = ((part(**settings)(given, seeded()) - given).abs() > 1e-9).any(3).any(2).any(1)
    assert float(changed.double().mean()) == pytest.approx(0.2, abs=4 * math.sqrt(0.16 / 1000))


@pytest.mark.parametrize(
    ("settings", "share"), [({"rotation": 40.0}, 0.6), ({"shift": 4.0}, 0.84), ({"scale": 0.2}, 0.3)]
)
def test_a_mixture_maps_pictures_with_its_chances(settings: dict[str, float], share: float) -> None:
    given = pictures((1000, 1, 12, 12))
    changed = ((part(**settings)(given, seeded()) - given).abs() > 1e-6).any(3).any(2).any(1)
    assert float(changed.double().mean()) == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 1000))


def test_strengths_of_zero_change_nothing_beside_pictures_that_change() -> None:
    given, some = pictures((4, 2, 9, 9)) * 2, torch.tensor([0, 1, 0, 1], dtype=torch.float64)
    ways: list[Callable[[], Tensor]] = [
        lambda: noised(given, some, seeded(), 0, 1),
        lambda: speckled(given, some / 2, seeded(), -1, 3),
        lambda: occluded(given, 3 * some.long(), seeded(), -1),
        lambda: smoothed(given, gaussian(some, 4), 3, 0.0),
    ]
    for way in ways:
        found = way()
        assert torch.equal(found[::2], given[::2])
        assert not torch.isclose(found[1::2], given[1::2]).all(3).all(2).all(1).any()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SaltAndPepper(1.5), r"`p` must be a number at least 0, at most 1; got 1.5"),
        (lambda: SaltAndPepper(0.1, 1, 0), r"`low` and `high`.* must be low < high; got 1, 0"),
        (lambda: GaussianNoise(-0.1), r"`sigma` must be a number at least 0; got -0.1"),
        (lambda: GaussianNoise(math.nan), r"`sigma` must be a number at least 0; got nan"),
        (lambda: Occlusion(0), r"`size` must be a whole number of pixels, at least 1; got 0"),
        (lambda: Translation(-3), r"`pixels` must be a number at least 0; got -3"),
        (lambda: Rotation(200), r"`degrees` must be a number at least 0, at most 180; got 200"),
        (lambda: Scaling(0, 1), r"`smallest` must be a number above 0; got 0"),
        (lambda: Scaling(1.2, 0.8), r"`largest` must be a number at least 1.2; got 0.8"),
        (lambda: Blur(-1), r"`sigma` must be a number at least 0; got -1"),
        (lambda: MotionBlur(4), r"`pixels` must be odd, so that the line has a middle; got 4"),
        (lambda: Mixture(scale=1), r"`scale` must be below 1"),
        (lambda: Mixture(turned=2), r"`turned` must be a number at least 0, at most 1; got 2"),
        (lambda: Mixture(blur=(2, 1)), r"`blur\[1\]` must be a number at least 2; got 1"),
    ],
)
def test_bad_strengths_are_named(make: Callable[[], Distortion], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        make()


@pytest.mark.parametrize("name", ALL)
def test_what_is_no_batch_of_pictures_is_named(name: str) -> None:
    with pytest.raises(ShapeError, match=r"shape \(batch, channels, height, width\); got \(28, 28\)"):
        ALL[name](torch.zeros(28, 28), seeded())
    with pytest.raises(DataError, match=r"floating-point numbers; got torch.uint8"):
        ALL[name](torch.zeros(1, 1, 28, 28, dtype=torch.uint8), seeded())


def test_a_square_that_does_not_fit_is_named() -> None:
    for distortion in (Occlusion(6), DISTORT):
        with pytest.raises(ArgumentError, match="square of 6 pixels a side does not fit into pictures of 5×9"):
            distortion(pictures((1, 1, 5, 9)), seeded())
