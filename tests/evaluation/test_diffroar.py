"""DiffROAR on blocks built from digits: maps of the digit gain, maps of the null block lose, random ones do neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import whence
from whence._errors import ArgumentError, ShapeError
from whence.datasets import load_digits
from whence.evaluation import block_digits, diffroar


def digits(split: str, count: int) -> tuple[Tensor, Tensor]:
    x, y = whence.as_examples(load_digits(split)).batch(range(count))  # type: ignore[arg-type]
    return x, y


def train(images: Tensor, labels: Tensor, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(15):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model


def test_blocks_hold_the_digit_in_a_random_half_and_the_same_null_block_in_the_other() -> None:
    x, y = digits("train", 60)
    made = block_digits(x, y, seed=2)
    assert made.inputs.shape == (60, 1, 16, 8)
    assert made.inside.sum((1, 2)).tolist() == [64] * 60
    inside = torch.from_numpy(made.inside)
    assert torch.equal(made.inputs[:, 0][inside].reshape(60, 8, 8), x[:, 0])
    nulls = made.inputs[:, 0][~inside].reshape(60, 8, 8)
    assert (nulls == nulls[0]).all()
    assert 10 < int(made.inside[:, 0, 0].sum()) < 50
    assert (block_digits(x, y, seed=2).inside == made.inside).all()


def test_maps_of_the_digit_gain_and_maps_of_the_null_block_lose() -> None:
    ours, theirs = (block_digits(*digits(split, count), seed=1) for split, count in (("train", 200), ("test", 150)))
    maps = {
        "digit": (ours.inside.astype(float), theirs.inside.astype(float)),
        "null": (-ours.inside.astype(float), -theirs.inside.astype(float)),
    }
    found = diffroar(train, (ours.inputs, ours.labels), (theirs.inputs, theirs.labels), maps, keep=[50], seeds=2)
    assert found.value(50, "digit").estimate > 0.3
    assert found.value(50, "null").estimate == pytest.approx(-found.value(50, "digit").estimate, abs=0.05)
    assert abs(found.value(50, "random pixels").estimate) < 0.15


def test_all_pixels_kept_differ_by_exactly_0_and_results_are_kept(tmp_path: Path) -> None:
    data, test = digits("train", 50), digits("test", 30)
    maps = {"mine": (data[0][:, 0].numpy(), test[0][:, 0].numpy())}
    found = diffroar(train, data, test, maps, keep=[100], seeds=1, path=tmp_path)
    assert found.value(100, "mine").estimate == 0.0
    assert len(list(tmp_path.glob("*.npy"))) == 4
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.npy")}
    again = diffroar(train, data, test, maps, keep=[100], seeds=1, path=tmp_path)
    assert again.value(100, "mine").estimate == 0.0
    assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.npy")} == before


@pytest.mark.parametrize(
    ("maps", "error", "words"),
    [
        ({"a": np.ones((4, 8, 8))}, ArgumentError, r"Maps 'a' must be two arrays: of all training images, and of all"),
        ({"a": (np.ones((3, 8, 8)), np.ones((4, 8, 8)))}, ShapeError, r"need shape \(4, 8, 8\).*got \(3, 8, 8\)"),
        ({"random pixels": (np.ones(1), np.ones(1))}, ArgumentError, r"'random pixels' is the name of the control"),
    ],
)
def test_bad_maps_are_named(maps: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        diffroar(train, digits("train", 4), digits("test", 4), maps)


def test_percentages_and_images_that_are_none_are_named() -> None:
    data = digits("train", 4), digits("test", 4)
    with pytest.raises(ArgumentError, match=r"`keep` are shares of the pixels, at least one.*got \[\]"):
        diffroar(train, *data, {"a": (np.ones((4, 8, 8)), np.ones((4, 8, 8)))}, keep=[])
    with pytest.raises(ShapeError, match=r"Images of shape .* are needed; these are \(0, 1, 8, 8\)"):
        block_digits(torch.ones(0, 1, 8, 8), torch.ones(0, dtype=torch.long))
