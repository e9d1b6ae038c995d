"""Specificity is 1 for maps on their target's half, exactly 0 for maps blind to the target."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import whence
from whence._errors import ArgumentError, ShapeError
from whence.datasets import load_digits
from whence.evaluation import specificity, two_digits
from whence.evaluation.inputs import check_classes, check_pictures

INSIDE = np.broadcast_to(np.arange(8) < 4, (3, 8)).copy()
NOISE = np.random.default_rng(0).normal(size=(10, 3, 8))


def test_perfect_wrong_and_blind_maps() -> None:
    left, right = NOISE * INSIDE, NOISE * ~INSIDE
    found = specificity(
        {"perfect": left, "wrong": right, "blind": NOISE}, {"perfect": right, "wrong": left, "blind": NOISE}, INSIDE
    )
    assert found.value("perfect", "specificity") == (1, 1, 1)
    assert found.value("wrong", "specificity") == (-1, -1, -1)
    assert found.value("blind", "specificity") == (0, 0, 0)


def test_it_is_the_difference_of_shares_of_absolute_values() -> None:
    one, other = np.abs(NOISE), np.abs(NOISE[::-1])
    expected = np.mean([o[:, :4].sum() / o.sum() - t[:, :4].sum() / t.sum() for o, t in zip(one, other, strict=True)])
    found = specificity(NOISE, NOISE[::-1].copy(), np.broadcast_to(INSIDE, NOISE.shape).copy())
    assert found.value("map", "specificity").estimate == pytest.approx(expected)


def test_images_of_two_digits_show_both_and_targets_one_of_them_in_either_half() -> None:
    x, y = whence.as_examples(load_digits("train")).batch(range(300))
    made = two_digits(x, y, 40, seed=1)
    assert made.inputs.shape == (40, 1, 8, 16)
    assert (made.labels.sum(1) == 2).all()
    assert torch.equal(made.labels, made.left_labels + made.right_labels)
    assert not torch.equal(made.left, made.right)
    blank = [(made.left[..., :8] == x.min()).all((1, 2, 3)), (made.left[..., 8:] == x.min()).all((1, 2, 3))]
    assert torch.equal(blank[0], ~blank[1])
    assert 5 < int(blank[0].sum()) < 35
    digits = {tuple(one.flatten().tolist()): int(label) for one, label in zip(x, y, strict=True)}
    first = [digits[tuple(one[..., :8].flatten().tolist())] for one in made.inputs]
    assert first == made.left_labels.argmax(1).tolist()
    assert not any(torch.equal(one[..., :8], two[..., :8]) for one, two in zip(made.inputs, made.left, strict=True))
    assert made.inside[:, :8].all()
    assert not made.inside[:, 8:].any()


@pytest.mark.parametrize(
    ("one", "other", "error", "words"),
    [
        ({"a": NOISE}, {"b": NOISE}, ArgumentError, r"names of `one`, \['a'\]; it has \['b'\]"),
        (NOISE, NOISE[:2], ShapeError, r"shape \(10, 3, 8\) for one target and \(2, 3, 8\) for the other"),
        (NOISE * 0, NOISE, ArgumentError, r"Map 0 is zero everywhere.*choose another score or layer"),
        (NOISE[:, :2], NOISE[:, :2], ShapeError, r"need the maps' shape, \(2, 8\) or \(10, 2, 8\); got \(3, 8\)"),
    ],
)
def test_bad_maps_are_named(one: object, other: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        specificity(one, other, INSIDE)


def test_too_few_images_are_named() -> None:
    with pytest.raises(ShapeError, match=r"Images of shape .* are needed; these are \(4, 2\)"):
        check_pictures(torch.ones(4, 2))
    with pytest.raises(ArgumentError, match=r"whole numbers from 0, one an example, 4 of them; got torch.int64"):
        check_classes(torch.tensor([0, 0, 1]), 4)
    with pytest.raises(ArgumentError, match=r"at least two classes with at least two images each"):
        two_digits(torch.ones(3, 1, 2, 2), torch.tensor([0, 0, 1]), 2)
