"""Scores of membership against what they are by definition, in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from whence._errors import ArgumentError, ShapeError
from whence.membership import confidence, entropy, log_margin, nearest_distance

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(20, 5)) * 3
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)


@pytest.mark.parametrize("make", [np.asarray, torch.tensor])
def test_scores_of_outputs_are_what_they_are_called(make: Any) -> None:
    logs = make(np.log(PROBABILITIES))
    np.testing.assert_allclose(confidence(logs).numpy(), np.log(PROBABILITIES.max(1)), rtol=1e-12)
    written_out = [sum(p * math.log(p) for p in row) for row in PROBABILITIES]
    np.testing.assert_allclose(entropy(logs).numpy(), written_out, rtol=1e-12)
    labels = RNG.integers(5, size=20)
    p = PROBABILITIES[np.arange(20), labels]
    np.testing.assert_allclose(log_margin(make(LOGITS), labels).numpy(), np.log(p / (1 - p)), rtol=1e-9)
    best = PROBABILITIES.max(1)
    np.testing.assert_allclose(log_margin(make(LOGITS)).numpy(), np.log(best / (1 - best)), rtol=1e-9)


def test_a_margin_orders_what_float32_probabilities_cannot() -> None:
    logits = torch.tensor([[40.0, 0.0, 1.0], [60.0, 0.0, 1.0]])
    assert torch.log_softmax(logits, 1).max(1).values.unique().numel() == 1
    margins = log_margin(logits, [0, 0])
    assert margins[1] - margins[0] == pytest.approx(20)


def test_outputs_without_a_chance_add_nothing() -> None:
    masked = torch.log_softmax(torch.tensor([[0.0, 0.0, -math.inf]]), 1)
    assert entropy(masked).tolist() == pytest.approx([-math.log(2)])
    assert confidence(masked).tolist() == pytest.approx([-math.log(2)])


def test_sure_answers_score_higher_by_every_score() -> None:
    logits = torch.tensor([[5.0, 0.0], [1.0, 0.0]])
    logs = torch.log_softmax(logits, 1)
    for found in (confidence(logs), entropy(logs), log_margin(logits, [0, 0])):
        assert found[0] > found[1]


@pytest.mark.parametrize("k", [1, 2, 7])
@pytest.mark.parametrize("memory_budget", [2**29, 2**12])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_nearest_distance_is_that_of_brute_force(k: int, memory_budget: int, dtype: type) -> None:
    bank: np.ndarray = RNG.normal(size=(70, 1, 3, 4)).astype(dtype)
    queries: np.ndarray = RNG.normal(size=(9, 1, 3, 4)).astype(dtype)
    expected = [
        -sorted(math.sqrt(((one.astype(float) - other) ** 2).sum()) for other in bank.astype(float))[k - 1]
        for one in queries
    ]
    found = nearest_distance(queries, torch.from_numpy(bank), k=k, memory_budget=memory_budget)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6 if dtype is np.float32 else 1e-12)


def test_a_copy_is_at_no_distance_and_the_second_neighbour_is_another() -> None:
    bank = torch.from_numpy(RNG.normal(size=(50, 8)) + 100).float()
    assert nearest_distance(bank, bank).tolist() == [0.0] * 50
    second = nearest_distance(bank, bank, k=2)
    for row, one in enumerate(bank):
        apart = [float((one.double() - other.double()).norm()) for place, other in enumerate(bank) if place != row]
        assert float(second[row]) == pytest.approx(-min(apart), rel=1e-6)


def test_beyond_ten_million_pairs_it_is_still_exact() -> None:
    bank = torch.from_numpy(RNG.normal(size=(5000, 4))).float()
    queries = torch.from_numpy(RNG.normal(size=(2100, 4))).float()
    found = nearest_distance(queries, bank)
    for row in range(0, 2100, 100):
        apart = (queries[row].double() - bank.double()).square().sum(1).sqrt()
        assert float(found[row]) == pytest.approx(-float(apart.min()), rel=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: confidence(LOGITS), ArgumentError, r"must sum to 1; it fails for 20 of 20 .* first of them 0,"),
        (lambda: entropy([[math.nan, 0.0]]), ArgumentError, r"must sum to 1; it fails for 1 of 1"),
        (lambda: confidence([0.0]), ShapeError, r"Log-probabilities need shape \(examples, outputs\); got \(1,\)"),
        (lambda: log_margin([[1.0]], [0]), ShapeError, r"at least two outputs.*; got \(1, 1\)"),
        (lambda: log_margin(LOGITS, [0]), ShapeError, r"One whole number a label for each of 20 rows"),
        (lambda: log_margin(LOGITS[:1], [5]), ArgumentError, r"Labels must be 0 to 4, as there are 5 outputs"),
        (lambda: log_margin([[0.0, math.nan]], [0]), ArgumentError, r"margin must be a finite number; it fails for 1"),
        (
            lambda: nearest_distance([], [[1.0]]),
            ShapeError,
            r"Queries must hold at least one example; got shape \(0,\)",
        ),
        (lambda: nearest_distance([[1.0]], [[1.0, 2.0]]), ShapeError, r"agree after the first axis; got \(1, 1\) and"),
        (
            lambda: nearest_distance([[1.0]], [[math.inf]]),
            ArgumentError,
            r"The bank must hold finite numbers; it fails",
        ),
        (lambda: nearest_distance([[1.0]], [[1.0]], k=2), ArgumentError, r"1 to the 1 examples of the bank; got 2"),
    ],
)
def test_what_cannot_be_scored_is_named(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_no_query_of_a_margin_is_no_error() -> None:
    assert log_margin(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)).shape == (0,)
    assert confidence(torch.zeros(0, 3)).shape == (0,)
