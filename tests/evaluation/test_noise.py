"""Label noise is exactly as much as asked for, and found perfectly by what knows it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from whence._errors import ArgumentError, ShapeError
from whence.evaluation import add_label_noise, label_noise
from whence.evaluation.inputs import check_classes

LABELS = torch.arange(200) % 10


def test_exactly_the_share_asked_for_gets_another_label_and_a_seed_decides_which() -> None:
    noisy = add_label_noise(LABELS, 0.1, classes=10, seed=3)
    assert int(noisy.changed.sum()) == 20
    assert torch.equal(noisy.labels != LABELS, noisy.changed)
    assert 0 <= int(noisy.labels.min()) <= int(noisy.labels.max()) < 10
    assert torch.equal(add_label_noise(LABELS, 0.1, classes=10, seed=3).labels, noisy.labels)
    assert not torch.equal(add_label_noise(LABELS, 0.1, classes=10, seed=4).changed, noisy.changed)


def test_what_knows_the_noise_is_perfect_and_its_negative_the_worst() -> None:
    changed = add_label_noise(LABELS, 0.1, classes=10).changed
    found = label_noise({"knows": changed.double(), "lies": -changed.double()}, changed)
    assert [found.value("knows", one).estimate for one in ("AUROC", "average precision", "miss rate")] == [1, 1, 0]
    assert found.value("lies", "AUROC").estimate == 0.0
    assert found.value("lies", "miss rate").estimate == 1.0


def test_measures_are_scikit_learns_and_the_interval_holds_them() -> None:
    rng = np.random.default_rng(0)
    changed = rng.random(200) < 0.2
    values = changed + rng.normal(size=200)
    found = label_noise(values, changed)
    assert found.value("score", "AUROC").estimate == pytest.approx(roc_auc_score(changed, values), rel=1e-12)
    expected = average_precision_score(changed, values)
    assert found.value("score", "average precision").estimate == pytest.approx(expected, rel=1e-12)
    flagged = np.argsort(-values)[: changed.sum()]
    assert found.value("score", "miss rate").estimate == pytest.approx(1 - changed[flagged].mean())
    for measure in ("AUROC", "average precision", "miss rate"):
        estimate, low, high = found.value("score", measure)
        assert low < estimate < high


def test_ties_are_counted_as_scikit_learn_counts_them() -> None:
    rng = np.random.default_rng(1)
    changed, values = rng.random(100) < 0.3, rng.integers(4, size=100).astype(float)
    found = label_noise(values, changed)
    assert found.value("score", "AUROC").estimate == pytest.approx(roc_auc_score(changed, values), rel=1e-12)
    expected = average_precision_score(changed, values)
    assert found.value("score", "average precision").estimate == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("values", "changed", "error", "words"),
    [
        (
            np.ones(3),
            np.array([True, False]),
            ShapeError,
            r"'score' needs one number for each of 2 examples; got \(3,\)",
        ),
        (np.array([1, np.nan]), np.array([True, False]), ArgumentError, r"must be finite numbers; 1 are not"),
        (np.ones(3), np.array([2, 0, 1]), ArgumentError, r"got shape \(3,\) of int64, not bool"),
        (np.ones(2), np.array([True, True]), ArgumentError, r"some of either kind; got shape \(2,\) with 2 wrong"),
    ],
)
def test_bad_scores_are_named(values: np.ndarray, changed: np.ndarray, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        label_noise(values, changed)


def test_bad_noise_is_named() -> None:
    with pytest.raises(ArgumentError, match=r"`share` must be a share between 0 and 1; got 0"):
        add_label_noise(LABELS, 0, classes=10)
    with pytest.raises(ArgumentError, match=r"`seed` is a whole number, at least 0; got -1"):
        add_label_noise(LABELS, 0.1, classes=10, seed=-1)
    for given in (LABELS[:0], LABELS.double(), LABELS - 1, LABELS.numpy()):
        with pytest.raises(ArgumentError, match=r"Classes are a tensor of whole numbers from 0, one an example; got"):
            check_classes(given)
    with pytest.raises(ArgumentError, match=r"Labels must be 0 to 4, as `classes` is 5"):
        add_label_noise(LABELS, 0.1, classes=5)
