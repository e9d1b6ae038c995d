"""The blind control knows nothing where nothing is to be known, and much where members differ in kind."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from whence._errors import ArgumentError, ShapeError
from whence.membership import blind_control


def area(pair: tuple[np.ndarray, np.ndarray]) -> float:
    """Return the share of pairs of a member and a non-member in which the member's score is higher."""
    apart = pair[0][:, None] - pair[1][None]
    return float(((apart > 0) + (apart == 0) / 2).mean())


def test_on_exchangeable_inputs_it_is_at_chance() -> None:
    rng = np.random.default_rng(0)
    found = area(blind_control(rng.normal(size=(200, 1, 4, 4)), torch.from_numpy(rng.normal(size=(200, 1, 4, 4)))))
    assert abs(found - 0.5) < 4 * math.sqrt(401 / (12 * 200 * 200))  # 4 standard errors of the rank-sum statistic


@pytest.mark.parametrize(("shift", "spread"), [(3.0, 1.0), (0.0, 4.0)])
def test_on_inputs_that_differ_in_mean_or_spread_it_is_nearly_perfect(shift: float, spread: float) -> None:
    rng = np.random.default_rng(0)
    members, others = rng.normal(size=(150, 12)), rng.normal(size=(100, 12)) * spread + shift
    found = blind_control(members, others)
    assert [one.shape for one in found] == [(150,), (100,)]
    assert area(found) > 0.9


def test_each_is_scored_by_a_classifier_that_did_not_see_it() -> None:
    rng = np.random.default_rng(0)
    members, others = rng.normal(size=(60, 3)), rng.normal(size=(60, 3))
    members[0] = 50  # alone, a classifier that saw it would know it
    before = blind_control(members, others, seed=1)
    again = blind_control(members, others, seed=1)
    for one, other in zip(before, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(before[0], blind_control(members, others, seed=2)[0])
    assert area(before) < 0.75  # boosting separates what it was fitted on


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: blind_control(np.ones((3, 2)), np.ones((9, 2))),
            ArgumentError,
            r"Members must be .* `folds`, 5; got 3",
        ),
        (
            lambda: blind_control(np.ones((9, 2)), np.ones((0, 2))),
            ArgumentError,
            r"Non-members must .* `folds`, 5; got 0",
        ),
        (lambda: blind_control(np.ones((9, 2)), np.ones((9, 3))), ShapeError, r"got \(9, 2\) and \(9, 3\)"),
        (lambda: blind_control(np.full((9, 2), np.nan), np.ones((9, 2))), ArgumentError, r"Members .* 18 are not"),
        (lambda: blind_control(np.ones((9, 2)), np.ones((9, 2)), folds=1), ArgumentError, r"at least 2; got 1"),
    ],
)
def test_what_it_cannot_learn_from_is_named(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
