"""Pictures of maps show each example where it stands, as what it is."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from whence._errors import ArgumentError, LabelError, ShapeError
from whence.datasets import load_digits
from whence.kernel import extremes
from whence.report import class_map, error_map, extremes_sheet, similarity_map

LABELS = np.array([3, 3, 5, 5])
PLACES = xr.DataArray(
    np.array([[0.0, 1.0], [1.0, 0.0], [4.0, 4.0], [5.0, 6.0]]),
    {"example": [10, 11, 12, 13], "axis": ["x", "y"]},
    ("example", "axis"),
)


def test_a_map_by_class_has_a_colour_a_class_and_crosses_errors() -> None:
    figure = class_map(PLACES, LABELS, wrong=[False, True, False, False])
    assert [one.name for one in figure.data] == ["3", "5"]
    assert list(figure.data[0].marker.symbol) == ["circle", "x"]
    assert list(figure.data[1].x) == [4, 5]


def test_a_map_of_errors_draws_them_last() -> None:
    figure = error_map(PLACES, LABELS == 5)
    assert [list(one.text) for one in figure.data] == [["example 10", "example 11"], ["example 12", "example 13"]]


def test_a_map_of_similarities_is_coloured_by_them_and_stars_the_one() -> None:
    ids = PLACES.example.values
    cosines = xr.DataArray(np.linspace(-1, 1, 16).reshape(4, 4), {"target": ids, "other": ids}, ("target", "other"))
    figure = similarity_map(PLACES, cosines, 11)
    np.testing.assert_allclose(figure.data[0].marker.color, cosines.values[1])
    assert list(figure.data[1].x) == [1.0]
    assert len(similarity_map(PLACES, cosines, 11, among=LABELS == 3).data[0].x) == 2
    with pytest.raises(LabelError, match="No example id 9 in this map of 4"):
        similarity_map(PLACES, cosines, 9)
    with pytest.raises(ShapeError, match="`labels` needs one entry for each of 4"):
        class_map(PLACES, [1])
    with pytest.raises(ArgumentError, match=r"Labels go from 3 to 5, and there are 2 class names"):
        class_map(PLACES, LABELS, class_names=["zero", "one"])


def test_a_sheet_of_extremes_has_a_row_an_axis() -> None:
    sheet = extremes_sheet(extremes(PLACES, LABELS, 3, count=2), load_digits("test"))
    assert sheet.width > 4 * 40
    assert sheet.height > 2 * 40
