"""Labelled scores and their top lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from whence._errors import ArgumentError, LabelError, ShapeError
from whence.attribution import harmful, helpful, label, save_scores
from whence.attribution.scores import check_scores
from whence.audit.storage import check_array


def scores(helps: int = 1) -> xr.DataArray:
    values = np.array([[0.0, 5.0, -2.0, 3.0], [1.0, 2.0, 3.0, 4.0]])
    return label(values, [4, 9], range(4), attributor="mine", unit="points", helps=helps)


def test_the_most_helpful_come_first_whichever_sign_helps() -> None:
    assert helpful(scores(), 4, k=3).train.values.tolist() == [1, 3, 0]
    assert harmful(scores(), 4, k=2).train.values.tolist() == [2, 0]
    assert helpful(scores(-1), 4, k=2).train.values.tolist() == [2, 0]
    assert harmful(scores(-1), 9, k=9).train.values.tolist() == [3, 2, 1, 0]


def test_scores_say_what_they_are() -> None:
    assert scores(-1).attrs == {
        "attributor": "mine",
        "unit": "points",
        "helps": -1,
        "sign": "negative = the example helped the target",
    }


def test_a_target_that_was_not_scored_is_named_with_those_near_it() -> None:
    with pytest.raises(LabelError, match=r"No target id '44' among the 2 scored \(similar: 4\)"):
        helpful(scores(), "44")


def test_scores_that_lost_their_sign_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"no scores of an attributor: .* got dims \('target', 'train'\) and None"):
        helpful(scores().drop_attrs(), 4)
    with pytest.raises(ArgumentError, match=r"`k` must be a whole number, at least 1, .*; got 0"):
        harmful(scores(), 4, k=0)


def test_one_id_a_row_and_column_is_needed() -> None:
    with pytest.raises(ShapeError, match=r"Scores need shape \(1, 4\), one row a target; got \(2, 4\)"):
        label(np.zeros((2, 4)), [1], range(4), attributor="mine", unit="points", helps=1)


@pytest.mark.parametrize("given", [None, np.zeros((2, 4)), "scores.zarr"])
def test_what_are_no_labelled_scores_is_refused_in_words(given: object) -> None:
    name = type(given).__name__
    with pytest.raises(ArgumentError, match=rf"no scores of an attributor: .* got {name}\. Take them from"):
        check_scores(given)
    with pytest.raises(ArgumentError, match=rf"A labelled array \(xarray.DataArray\) can be kept; got {name}"):
        check_array(given)


def test_a_sign_is_one_or_minus_one() -> None:
    with pytest.raises(ArgumentError, match=r"`helps` is the sign of a score that helps, 1 or -1; got 0"):
        label(np.zeros((1, 4)), [1], range(4), attributor="mine", unit="points", helps=0)


def test_scores_below_a_file_are_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArgumentError, match=r"file cannot be a folder: a file stands there\. Choose another path"):
        save_scores(scores(), tmp_path / "file" / "kept")
