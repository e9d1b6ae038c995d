"""Pictures of what a network takes for alike: maps of examples by class, error and likeness, and their extremes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from PIL import Image

from whence._errors import ArgumentError, LabelError, ShapeError
from whence.datasets import as_examples
from whence.evaluation.provenance.sheets import Cell, Row, picture, sheet_of

_SIZE = 6  # of a point, in pixels


def class_map(places: xr.DataArray, labels: Any, *, wrong: Any = None, class_names: Sequence[str] | None = None) -> Any:
    """Draw a map of examples, a colour a class, misclassified ones crossed (PLGK, figure 5).

    Args:
        places: Of `whence.kernel.layout`.
        labels: The class of each example.
        wrong: Whether each is misclassified; None marks none.
        class_names: What each class is called.

    Returns:
        A plotly figure.

    Raises:
        ShapeError: If there is not one label, and one mark, an example.
        ArgumentError: If a label has no name among those given.
    """
    kinds = _one_each(places, labels, "labels")
    if class_names is not None and len(kinds) and not 0 <= kinds.min() <= kinds.max() < len(class_names):
        raise ArgumentError(
            f"Labels go from {kinds.min()} to {kinds.max()}, and there are {len(class_names)} class names. Give one "
            "for each class, from 0."
        )
    crossed = np.zeros(len(kinds), dtype=bool) if wrong is None else _one_each(places, wrong, "wrong").astype(bool)
    figure = _figure("Similarity, by class")
    for kind in np.unique(kinds):
        own = np.flatnonzero(kinds == kind)
        marker = {"size": _SIZE, "symbol": ["x" if crossed[one] else "circle" for one in own]}
        named = str(kind) if class_names is None else class_names[int(kind)]
        _points(figure, places, own, name=named, marker=marker)
    return figure


def error_map(places: xr.DataArray, wrong: Any) -> Any:
    """Draw a map of examples, misclassified ones standing out (PLGK, figure 5, right).

    Args:
        places: Of `whence.kernel.layout`.
        wrong: Whether each example is misclassified.

    Returns:
        A plotly figure.

    Raises:
        ShapeError: If there is not one mark an example.
    """
    marks, figure = _one_each(places, wrong, "wrong").astype(bool), _figure("Similarity, misclassified marked")
    _points(figure, places, np.flatnonzero(~marks), name="right", marker={"size": _SIZE, "color": "#cbd5e1"})
    _points(figure, places, np.flatnonzero(marks), name="wrong", marker={"size": _SIZE + 3, "color": "#c2410c"})
    return figure


def similarity_map(places: xr.DataArray, similarity: xr.DataArray, to: int, *, among: Any = None) -> Any:
    """Draw a map of examples by their similarity to one of them, which is starred (PLGK, figure 6).

    Args:
        places: Of `whence.kernel.layout`.
        similarity: Of `whence.kernel.similarity`, of the same examples among themselves.
        to: Id of the one.
        among: Whether each example is drawn, such as those of one class (figure 6, right); None draws all.

    Returns:
        A plotly figure.

    Raises:
        LabelError: If there is no such example.
        ShapeError: If there is not one mark an example.
    """
    ids = places["example"].values.tolist()
    if to not in ids:
        raise LabelError(f"No example id {to!r} in this map of {len(ids)}. See places.coords['example'].")
    shown = np.ones(len(ids), dtype=bool) if among is None else _one_each(places, among, "among").astype(bool)
    row = similarity.sel(target=to).sel(other=places["example"].values).values
    own, figure = np.flatnonzero(shown), _figure(f"Similarity to example {to}")
    marker = {
        "size": _SIZE,
        "color": row[own],
        "cmin": -1 if among is None else float(row[own].min()),
        "cmax": 1 if among is None else float(np.delete(row, ids.index(to)).max()),
        "colorscale": "RdBu" if among is None else "Viridis",
        "colorbar": {"title": "cosine"},
    }
    _points(figure, places, own, name="similarity", marker=marker)
    star = {"size": 3 * _SIZE, "symbol": "star", "color": "#111827"}
    _points(figure, places, np.array([ids.index(to)]), name=f"example {to}", marker=star)
    return figure.update_layout(showlegend=False)


def extremes_sheet(found: xr.DataArray, examples: Any, *, size: int = 48) -> Image.Image:
    """Draw the pictures at both ends of each axis of a map (PLGK, figure 7).

    Args:
        found: Of `whence.kernel.extremes`.
        examples: What its ids are of; pictures.
        size: Length of the longer side of each picture, in pixels; at least 40.

    Raises:
        ArgumentError: If examples are no pictures, or the size is too small.
        DataError: If the data is of a kind that cannot be read.
    """
    data = as_examples(examples)
    rows = []
    for axis in found["axis"].values.tolist():
        ends = found.sel(axis=axis)
        groups = [[Cell(picture(data, int(one), size), str(one)) for one in ends.sel(end=end).values] for end in _ENDS]
        rows.append(Row(f"axis {axis}", groups))
    return sheet_of(rows, tuple(f"{end} end" for end in _ENDS))


def _figure(title: str) -> Any:
    import plotly.graph_objects as go

    return go.Figure().update_layout(
        title=title, template="simple_white", xaxis_visible=False, yaxis_visible=False, yaxis_scaleanchor="x"
    )


def _points(figure: Any, places: xr.DataArray, rows: np.ndarray, *, name: str, marker: dict[str, Any]) -> None:
    ids, values = places["example"].values[rows], places.values[rows]
    text = [f"example {one}" for one in ids]
    figure.add_scatter(x=values[:, 0], y=values[:, 1], mode="markers", name=name, marker=marker, text=text)


def _one_each(places: xr.DataArray, values: Any, name: str) -> np.ndarray:
    given = np.asarray(values)
    if given.shape != (places.sizes["example"],):
        raise ShapeError(f"`{name}` needs one entry for each of {places.sizes['example']} examples; got {given.shape}.")
    return given


_ENDS = ("low", "high")
