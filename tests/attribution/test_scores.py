"""Labelled scores and their top lists."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from whence._errors import ArgumentError, LabelError, ShapeError
from whence.attribution import harmful, helpful, label


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
