"""The shortcut test on small pictures: a map of the patch reaches the maximum."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whence._errors import ArgumentError, ShapeError
from whence.attribution import GradCos, GradDot, Trained, attribute, harmful
from whence.evaluation import Patch, ShortcutSizes, Tables, shortcut, square_patch
from whence.regions import Gradient, Recipe, region_map

PATCH = square_patch(6, 6, 2, [6.0], on=0, probe=1)
CONTROL = "saliency, blind to the target"


def pictures(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Class 0 is bright above, class 1 below; noise everywhere."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    images = 1.5 * torch.randn(count, 1, 6, 6, generator=generator)
    images[:, :, :3] += (labels == 0).reshape(-1, 1, 1, 1) * 1.0
    images[:, :, 3:] += (labels == 1).reshape(-1, 1, 1, 1) * 1.0
    return images, labels


def train(images: Tensor, labels: Tensor, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model


def on_patch(trained: Trained, targets: tuple[Tensor, Tensor], pairs: list[tuple[int, int]]) -> np.ndarray:
    return np.broadcast_to(PATCH.inside.astype(float), (len(pairs), 6, 6)).copy()


def off_patch(trained: Trained, targets: tuple[Tensor, Tensor], pairs: list[tuple[int, int]]) -> np.ndarray:
    return 1 - on_patch(trained, targets, pairs)


def by_hand(trained: Trained, targets: tuple[Tensor, Tensor], pairs: list[tuple[int, int]]) -> np.ndarray:
    found: np.ndarray = region_map(trained, targets, pairs, recipe=RECIPE).values
    return found


RECIPE = Recipe(GradDot(), Gradient(), signed=False)
SMALL = ShortcutSizes(fractions=(0.0, 1.0), probes=4, harmful=3)


def test_a_network_falls_for_the_patch_and_maps_are_measured_against_what_is_attainable() -> None:
    found = shortcut(
        train,
        pictures(80, 0),
        pictures(200, 1),
        PATCH,
        {"on": on_patch, "off": off_patch, "recipe": RECIPE, "same": by_hand},
        loss=F.cross_entropy,
        sizes=SMALL,
    )
    accuracy, patch = found["accuracy"], found["patch"]
    clean, fell = (accuracy.value(fraction, "probe class, patched").estimate for fraction in (0.0, 1.0))
    assert clean > fell + 0.3
    assert accuracy.value(1.0, "all").estimate > 0.6
    assert patch.value(1.0, "on") == (1, 1, 1)
    assert patch.value(1.0, "off") == (0, 0, 0)
    assert dict(patch.references) == {"attainable": 1.0}
    assert patch.value(1.0, "recipe") == patch.value(1.0, "same")
    assert patch.value(1.0, CONTROL).estimate > patch.value(0.0, CONTROL).estimate
    assert len(found.figure().data) == 8


def test_an_interrupted_test_goes_on_where_it_stopped_and_more_fractions_use_what_is_there(tmp_path: Path) -> None:
    def counted(images: Tensor, labels: Tensor, seed: int) -> nn.Module:
        with (tmp_path / "calls").open("a") as file:
            file.write(".")
        return train(images, labels, seed)

    def call(fractions: tuple[float, ...], percent: float = 10) -> Tables:
        sizes = replace(SMALL, fractions=fractions, percent=percent)
        data, test, kept = pictures(80, 0), pictures(200, 1), tmp_path / "kept"
        maps = {"on": on_patch, "by hand": by_hand}
        return shortcut(counted, data, test, PATCH, maps, loss=F.cross_entropy, sizes=sizes, path=kept)

    alone, both = call((1.0,)), call((0.0, 1.0))
    assert (tmp_path / "calls").read_text() == ".."
    assert all(both[name].data.sel({"fraction with the patch": [1.0]}).equals(alone[name].data) for name in both.parts)
    call((1.0,), percent=20)  # another question
    assert (tmp_path / "calls").read_text() == "..."


def test_what_is_attainable_is_the_patch_over_the_top_pixels() -> None:
    how = ShortcutSizes(fractions=(1.0,), probes=2, harmful=2, percent=50)
    found = shortcut(train, pictures(40, 0), pictures(40, 1), PATCH, on_patch, loss=F.cross_entropy, sizes=how)
    assert found["patch"].references[0][1] == pytest.approx(4 / 18)
    assert found["patch"].value(1.0, "map").estimate == pytest.approx(4 / 18)


def test_a_map_that_says_the_patch_pulls_the_score_down_points_at_it() -> None:
    how = ShortcutSizes(fractions=(1.0,), probes=2, harmful=2)

    def pulls(trained: Trained, targets: tuple[Tensor, Tensor], pairs: list[tuple[int, int]]) -> np.ndarray:
        return -on_patch(trained, targets, pairs)

    found = shortcut(train, pictures(40, 0), pictures(40, 1), PATCH, pulls, loss=F.cross_entropy, sizes=how)
    assert found["patch"].value(1.0, "map").estimate == 1


def test_the_patch_is_put_on_exactly_the_fraction_of_the_class_and_larger_fractions_hold_smaller_ones() -> None:
    seen: list[set[int]] = []

    def watched(images: Tensor, labels: Tensor, seed: int) -> nn.Module:
        patched = (images[:, 0, -2:, -2:] == 6.0).all((1, 2))
        assert not patched[labels == 1].any()
        seen.append(set(patched.nonzero().flatten().tolist()))
        return train(images, labels, seed)

    how = ShortcutSizes(fractions=(0, 0.25, 0.5), probes=1, harmful=1)
    data, tests = pictures(40, 0), pictures(10, 1)
    shortcut(watched, data, tests, PATCH, on_patch, loss=F.cross_entropy, sizes=how, processes=1)
    assert [len(one) for one in seen] == [0, 5, 10]
    assert seen[1] < seen[2]


def test_the_papers_fractions_are_17() -> None:
    assert len(ShortcutSizes().fractions) == 17
    assert (ShortcutSizes().fractions[0], ShortcutSizes().fractions[-1]) == (0, 1)


@pytest.mark.parametrize(
    ("patch", "change", "error", "words"),
    [
        (square_patch(5, 5, 2, [3.0], on=0, probe=1), {}, ShapeError, r"for images of \(5, 5\); the data has \(6, 6\)"),
        (Patch(PATCH.put, PATCH.inside, 7, 1), {}, ArgumentError, r"class on=7 has no training images"),
        (
            PATCH,
            {"sizes": ShortcutSizes(fractions=(2.0,))},
            ArgumentError,
            r"`fractions` must be .* got \[2.0\]",
        ),
        (PATCH, {"sizes": ShortcutSizes(percent=0)}, ArgumentError, r"`percent` is a share of the pixels.*got 0"),
        (PATCH, {"sizes": ShortcutSizes(seed=-1)}, ArgumentError, r"`seed` is a whole number, at least 0; got -1"),
        (
            square_patch(6, 6, 2, [3.0, 1.0], on=0, probe=1),
            {},
            ShapeError,
            r"colour has 2 numbers, and the images 1 channels",
        ),
        (PATCH, {"maps": {CONTROL: on_patch}}, ArgumentError, r"is the name of the control"),
    ],
)
def test_bad_arguments_are_named(patch: Patch, change: dict[str, object], error: type[Exception], words: str) -> None:
    given = {"maps": on_patch, "loss": F.cross_entropy, **change}
    with pytest.raises(error, match=words):
        shortcut(train, pictures(8, 0), pictures(8, 1), patch, **given)  # type: ignore[arg-type]


def test_a_patch_that_does_not_fit_is_named() -> None:
    with pytest.raises(ArgumentError, match=r"A patch of 7 pixels does not fit into images of 6 × 6"):
        square_patch(6, 6, 7, [1.0], on=0, probe=1)


def test_maps_are_of_the_most_harmful_training_images_of_patched_probes() -> None:
    seen: list[tuple[int, int]] = []

    def watched(trained: Trained, targets: tuple[Tensor, Tensor], pairs: list[tuple[int, int]]) -> np.ndarray:
        scores = attribute(GradCos(), trained, targets)
        for target in range(2):
            expected = harmful(scores, target, 3)["train"].values.tolist()
            assert [one for of, one in pairs if of == target] == expected
        assert (targets[0][:, 0, -2:, -2:] == 6.0).all()
        assert (targets[1] == 1).all()
        seen.extend(pairs)
        return on_patch(trained, targets, pairs)

    how = ShortcutSizes(fractions=(0.5,), probes=2, harmful=3)
    shortcut(train, pictures(40, 0), pictures(40, 1), PATCH, watched, loss=F.cross_entropy, sizes=how)
    assert len(seen) == 6
