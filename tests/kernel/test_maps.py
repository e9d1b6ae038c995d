"""Maps put alike examples side by side."""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from whence._errors import ArgumentError, MissingExtraError, ShapeError
from whence.kernel import extremes, layout


def _groups(count: int = 12) -> xr.DataArray:
    """Return cosines of three groups of directions, nearly the same within a group and orthogonal between."""
    generator = torch.Generator().manual_seed(0)
    points = torch.eye(3, dtype=torch.float64).repeat_interleave(count, 0)
    points = points + 0.1 * torch.randn(points.shape, generator=generator, dtype=torch.float64)
    points = points / points.norm(dim=1, keepdim=True)
    ids = np.arange(3 * count) + 100
    return xr.DataArray((points @ points.T).numpy(), {"target": ids, "other": ids}, ("target", "other"))


def test_groups_stay_together_and_the_seed_fixes_the_map() -> None:
    found = layout(_groups())
    assert found.dims == ("example", "axis")
    assert found.example.values[0] == 100
    apart = np.linalg.norm(found.values[:, None] - found.values[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    groups = np.repeat(np.arange(3), 12)
    assert (groups[apart.argmin(1)] == groups).all()
    np.testing.assert_array_equal(layout(_groups()), found)


def test_umap_is_given_the_angles(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stub:
        """Stands for the library, which takes a minute to import."""

        def __init__(self, **options: Any) -> None:
            assert options["metric"] == "precomputed"
            assert options["random_state"] == 5

        def fit_transform(self, distances: np.ndarray) -> np.ndarray:
            return distances[:, :2]

    library = types.ModuleType("umap")
    library.UMAP = Stub  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "umap", library)
    expected = np.arccos(_groups().values.clip(-1, 1))
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(layout(_groups(), method="umap", seed=5), expected[:, :2], atol=1e-12)


def test_umap_is_asked_for_by_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(MissingExtraError, match=r'This needs umap, .* pip install "whence\[umap\]"'):
        layout(_groups(), method="umap")


def test_extremes_are_the_outermost_of_a_class_along_each_axis() -> None:
    values = np.array([[0.0, 5.0], [1.0, 4.0], [2.0, 3.0], [9.0, 9.0]])
    places = xr.DataArray(values, {"example": [10, 11, 12, 13], "axis": ["x", "y"]}, ("example", "axis"))
    found = extremes(places, [7, 7, 7, 1], 7, count=2)
    assert found.sel(axis="x", end="low").values.tolist() == [10, 11]
    assert found.sel(axis="x", end="high").values.tolist() == [12, 11]
    assert found.sel(axis="y", end="low").values.tolist() == [12, 11]
    assert extremes(places, [7, 7, 7, 1], 1).sizes["rank"] == 1


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"method": "pca"}, ArgumentError, r"`method` is 'tsne' or 'umap'; got 'pca'"),
        ({"seed": -1}, ArgumentError, "`seed` is a whole number"),
        ({"kernel": _groups()[:, :5]}, ShapeError, "examples among themselves"),
        ({"kernel": 2 * _groups()}, ArgumentError, "A map is of cosines, .* a diagonal from 2 to 2"),
        ({"kernel": _groups().where(_groups() < 1)}, ArgumentError, "none of them nan"),
    ],
)
def test_what_is_no_map_is_refused(given: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        layout(**{"kernel": _groups(), **given})


def test_extremes_of_no_class_are_refused() -> None:
    places = layout(_groups(2))
    with pytest.raises(ArgumentError, match=r"No example of this map is of class 9: its classes are 0\."):
        extremes(places, np.zeros(6), 9)
    with pytest.raises(ShapeError, match="`labels` needs one class for each of 6"):
        extremes(places, np.zeros(5), 9)
