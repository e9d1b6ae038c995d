"""Intervals cover what they are of, and rank correlations are scipy's; tables say what they hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from whence._errors import ArgumentError, DataError
from whence._processes import in_processes, kept_arrays
from whence._statistics import bootstrap, mean_interval, normal_interval, rank_correlations, student_interval
from whence.evaluation.table import table_of

REPEATS = 300


def test_rank_correlations_are_scipys_also_with_ties() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(4, size=(30, 5)).astype(float), rng.normal(size=(30, 5))
    expected = [spearmanr(one[:, at], other[:, at]).statistic for at in range(5)]
    np.testing.assert_allclose(rank_correlations(one, other), expected, rtol=1e-12)


def test_nothing_can_be_ranked_of_two_sets_or_of_equal_values() -> None:
    assert np.isnan(rank_correlations(np.eye(2), np.eye(2))).all()
    assert np.isnan(rank_correlations(np.ones((5, 1)), np.arange(5.0)[:, None])).all()


@pytest.mark.parametrize("interval", [mean_interval, normal_interval, student_interval])
def test_intervals_of_means_cover_the_true_mean_nearly_95_percent_of_the_time(interval: object) -> None:
    rng = np.random.default_rng(1)
    found = [interval(rng.normal(2.0, size=40)) for _ in range(REPEATS)]  # type: ignore[operator]
    covered = np.mean([one.low <= 2.0 <= one.high for one in found])
    assert 0.91 <= covered <= 0.98


def test_clusters_widen_the_interval_as_much_as_their_values_agree() -> None:
    rng = np.random.default_rng(2)
    covered = {True: 0, False: 0}
    for _ in range(REPEATS):
        means = rng.normal(size=30)
        values = np.repeat(means, 8) + 0.1 * rng.normal(size=240)
        for clustered in covered:
            found = mean_interval(values, np.repeat(np.arange(30), 8) if clustered else None, resamples=500)
            covered[clustered] += int(found.low <= 0 <= found.high)
    assert covered[True] / REPEATS > 0.9
    assert covered[False] / REPEATS < 0.7


def test_missing_values_are_left_out_and_nothing_gives_nan() -> None:
    assert mean_interval(np.array([1.0, np.nan, 3.0])).estimate == 2.0
    assert np.isnan(mean_interval(np.array([np.nan]))).all()
    assert np.isnan(bootstrap(3, lambda _: float("nan"))).all()


def test_one_value_has_no_interval() -> None:
    assert np.isnan(normal_interval(np.ones(1)).low)
    assert np.isnan(student_interval(np.ones(1)).high)
    for clusters in (None, np.zeros(1)):
        assert np.isnan(mean_interval(np.ones(1), clusters)[1:]).all()
    alone = mean_interval(np.array([1.0, 3.0]), np.zeros(2))
    assert alone.estimate == 2.0
    assert np.isnan(alone[1:]).all()


def test_a_cluster_is_named_for_each_value() -> None:
    with pytest.raises(ArgumentError, match=r"3 values and 2 clusters. Name one for each"):
        mean_interval(np.ones(3), np.arange(2))


def test_a_table_is_printed_in_markdown_and_drawn_with_its_intervals() -> None:
    found = [[mean_interval(np.array([1.0, 2.0]))], [mean_interval(np.array([np.nan]))]]
    table = table_of(
        found, ("keep", [10, 20]), ("map", ["a"]), title="T", measure="m", interval="over v", references={"ideal": 1.0}
    )
    assert str(table).splitlines()[0] == "T: m (95 % interval over v)"
    assert "| 10 | 1.500 (1.000 to 2.000) |" in str(table)
    assert "| 20 | undefined |" in str(table)
    assert str(table).endswith("For comparison: ideal 1.")
    drawn = table.figure()
    assert drawn.data[0].y.tolist()[0] == 1.5
    assert drawn.data[0].error_y.array.tolist() == [0.5, 0.0]
    assert drawn.layout.shapes[0].y0 == 1.0


def test_named_rows_are_drawn_as_bars() -> None:
    table = table_of(
        [[student_interval(np.ones(2))]], ("method", ["x"]), ("m", ["y"]), title="", measure="", interval=""
    )
    assert table.figure().data[0].type == "bar"
    assert table.value("x", "y").estimate == 1.0


@pytest.mark.parametrize("processes", [1, 2])
def test_what_is_kept_is_not_made_again(tmp_path: Path, processes: int) -> None:
    made: list[int] = []

    def make(place: int) -> np.ndarray:
        made.append(place)
        return np.array([float(place)])

    def of(keys: list[str]) -> list[float]:
        found = kept_arrays(make, keys, folder=tmp_path / "kept", processes=processes, description="")
        return [float(one[0]) for one in found]

    assert of(["k:a", "k:b"]) == [0.0, 1.0]
    made.clear()
    assert of(["k:b", "k:a", "k:c"]) == [1.0, 0.0, 2.0]
    assert made == [2]


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"half")
    with pytest.raises(DataError, match=r"a.npy holds no result of a training.*Remove it"):
        kept_arrays(lambda _: np.ones(1), ["a"], folder=tmp_path, processes=1, description="")


def test_processes_are_a_positive_number() -> None:
    with pytest.raises(ArgumentError, match=r"`processes` is a number of trainings at once, at least 1; got 0"):
        list(in_processes(lambda place: place, 3, 0))
