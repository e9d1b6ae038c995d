"""The table of membership against counting by hand; it never says nan, and says when there is nothing to see."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from whence._errors import ArgumentError, ShapeError
from whence._statistics import share_interval
from whence.evaluation import load_table, membership_table

Pair = tuple[np.ndarray, np.ndarray]


def normal(members: int, others: int, apart: float = 0.0, seed: int = 0) -> Pair:
    rng = np.random.default_rng(seed)
    return rng.normal(size=members) + apart, rng.normal(size=others)


def by_hand(pair: Pair, share: float) -> float:
    """Return the most true positives of any threshold whose false positives keep to a share."""
    members, others = pair
    best = 0.0
    for threshold in [*np.concatenate(pair), math.inf]:
        if sum(one >= threshold for one in others) <= share * len(others):
            best = max(best, sum(one >= threshold for one in members) / len(members))
    return best


few = st.lists(st.integers(0, 6), min_size=2, max_size=30)


@settings(max_examples=20)  # each with a bootstrap
@given(few, few, st.sampled_from([0.01, 0.1, 0.2, 0.5]))
def test_areas_and_rates_are_those_of_all_pairs_and_all_thresholds_also_with_ties(
    members: list[int], others: list[int], share: float
) -> None:
    pair = np.array(members, dtype=float), np.array(others, dtype=float)
    found = membership_table(pair, fpr=[share])
    pairs = [(one > other) + (one == other) / 2 for one in members for other in others]
    auc = found.value("score", "AUC")
    assert auc.estimate == pytest.approx(sum(pairs) / len(pairs), rel=1e-12)
    assert auc.low <= auc.high
    rate = found.value("score", f"TPR at {100 * share:g} % FPR")
    assert rate.estimate == by_hand(pair, share)
    assert rate.low <= rate.estimate <= rate.high


def test_saturated_scores_find_nobody_rather_than_everybody() -> None:
    pair = np.ones(100), np.ones(100)
    found = membership_table({"saturated": pair})
    assert found.value("saturated", "AUC").estimate == 0.5
    assert found.value("saturated", "TPR at 1 % FPR").estimate == 0.0


@pytest.mark.parametrize("apart", [0.0, 0.5, 2.0])
def test_normal_scores_have_their_known_area_and_rate(apart: float) -> None:
    many = 4000
    found = membership_table(normal(many, many, apart), fpr=[0.1])
    auc = found.value("score", "AUC")
    error = math.sqrt((2 * many + 1) / (12 * many * many))  # the largest is that without a difference, about
    assert auc.estimate == pytest.approx(norm.cdf(apart / math.sqrt(2)), abs=4 * error)
    assert auc.high - auc.low == pytest.approx(2 * 1.96 * error, rel=0.15 if apart == 0 else 1)
    expected = norm.sf(norm.isf(0.1) - apart)
    moved = norm.pdf(norm.isf(0.1) - apart) / norm.pdf(norm.isf(0.1)) * math.sqrt(0.09 / many)  # the threshold's error
    error = math.sqrt(expected * (1 - expected) / many + moved**2)
    assert found.value("score", "TPR at 10 % FPR").estimate == pytest.approx(expected, abs=4 * error)


@pytest.mark.parametrize(("count", "of"), [(0, 10), (1, 10), (5, 5000), (9, 10), (10, 10)])
def test_the_interval_of_a_share_inverts_the_binomial(count: int, of: int) -> None:
    share, low, high = share_interval(count, of)
    assert share == count / of
    assert low == 0 if count == 0 else binom.sf(count - 1, of, low) == pytest.approx(0.025, rel=1e-6)
    assert high == 1 if count == of else binom.cdf(count, of, high) == pytest.approx(0.025, rel=1e-6)


def test_predictive_values_are_bayes_rule_and_never_nan() -> None:
    found = membership_table({"good": normal(500, 500, 3), "bad": normal(500, 500, -9)}, fpr=[0.1], priors=[0.01, 0.5])
    rate = found.value("good", "TPR at 10 % FPR")
    value = found.value("good", "PPV at 10 % FPR, prior 1 %")
    assert value.estimate == pytest.approx(0.01 * rate.estimate / (0.01 * rate.estimate + 0.99 * 0.1), rel=1e-12)
    assert value.low < value.estimate < value.high
    assert found.value("bad", "PPV at 10 % FPR, prior 50 %").estimate == 0.0
    assert not np.isnan(found.data.to_array().values).any()


def test_a_score_that_does_not_beat_the_inputs_is_said_to_show_nothing() -> None:
    shifted, better = normal(400, 400, 1.0), normal(400, 400, 3.0, seed=1)
    scores = {"same": shifted, "better": better, "chance": normal(400, 400, seed=2)}
    found = membership_table(scores, blind=normal(400, 400, 1.0, seed=3))
    assert found.data.attrs["evidence"] == ["better"]
    words = "no evidence of membership beyond what the inputs alone say."
    assert f"same: {words}" in str(found)
    assert f"chance: {words}" in str(found)
    assert f"better: {words}" not in str(found)
    assert list(found.data["score"].values) == ["same", "better", "chance", "blind control"]


def test_a_few_certain_members_are_evidence_although_the_area_is_at_chance() -> None:
    members, others = normal(2000, 2000)
    members[:100] += 100
    members[100:300] -= 100
    found = membership_table({"some": (members, others)}, blind=normal(2000, 2000, seed=1))
    assert found.value("some", "AUC").high < 0.5
    assert found.data.attrs["evidence"] == ["some"]


def test_at_chance_evidence_is_rarely_seen() -> None:
    seen = 0
    for seed in range(12):
        control = normal(100, 100, seed=1000 + seed)
        found = membership_table({"chance": normal(100, 100, seed=seed)}, blind=control, fpr=[0.1])
        seen += bool(found.data.attrs["evidence"])
    assert seen <= 3  # 2.5 % each of two tests at most: more than three of twelve by chance once in 400


def test_without_a_control_it_says_so_and_few_false_positives_are_named(tmp_path: Path) -> None:
    found = membership_table({"one": normal(5000, 5000, 1)})
    assert "There is no blind control" in str(found)
    assert "0.1 % of 5,000 non-members allow 5 false positives" in str(found)
    assert "10,000 non-members would allow 10" in str(found)
    assert "\n1 % of 5,000" not in str(found)
    assert "no evidence of membership, not above chance" in str(membership_table(normal(50, 50)))
    found.save(tmp_path / "table.json")
    assert str(load_table(tmp_path / "table.json")) == str(found)


def test_a_seed_decides_the_intervals_and_tensors_are_read() -> None:
    pair = tuple(torch.from_numpy(one) for one in normal(60, 80, 1))
    first, again, other = (membership_table(pair, seed=seed) for seed in (0, 0, 1))
    assert first.data.equals(again.data)
    assert not first.data.equals(other.data)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: membership_table({}), ArgumentError, "nothing to evaluate"),
        (lambda: membership_table({"x": np.ones(3)}), ShapeError, r"'x' must be a pair.*; got ndarray"),
        (lambda: membership_table({"x": (np.ones(3),)}), ShapeError, r"'x' must be a pair.*; got 1 of them"),
        (
            lambda: membership_table((np.ones((3, 1)), np.ones(3))),
            ShapeError,
            r"each of the members; got shape \(3, 1\)",
        ),
        (lambda: membership_table((np.ones(3), np.ones(0))), ArgumentError, r"at least two non-members; got 0"),
        (
            lambda: membership_table((np.array([1, np.nan]), np.ones(3))),
            ArgumentError,
            r"members must be finite; 1 are",
        ),
        (lambda: membership_table((np.ones(3), np.ones(3)), fpr=[0]), ArgumentError, r"`fpr` must be a share"),
        (lambda: membership_table((np.ones(3), np.ones(3)), priors=[1]), ArgumentError, r"`priors` must be a share"),
        (
            lambda: membership_table({"blind control": normal(3, 3)}, blind=normal(3, 3)),
            ArgumentError,
            r"A score is called 'blind control'",
        ),
    ],
)
def test_what_cannot_be_measured_is_named(call: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()
