"""Points in the plane, told apart by symbol as well as by colour."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from whence.report.figures import INK, Traces, compact, layout, plain

_SYMBOLS = (
    *("circle", "square", "triangle-up", "diamond", "triangle-down"),
    *("cross", "star", "hexagon2", "triangle-left", "bowtie"),
)
_COLOURS = tuple(f"$class-{number}" for number in range(10))
_NAMED = 20  # classes that a legend still tells apart
_SIZE, _HEIGHT = 9, 520  # of a symbol and the plot, in pixels
_EDGE = 0.05  # of the plot around the points, as a share of their range


def plane(
    places: Float[np.ndarray, "points 2"],
    kinds: Int[np.ndarray, " points"],
    crossed: Bool[np.ndarray, " points"],
    called: Callable[[int], str],
) -> tuple[Traces, dict[str, Any]]:
    """Return traces and layout of a map: one trace a class, the crosses, and an empty one to ring a chosen point.

    Each point carries its position among ``places``: the page's script tells of it what there is to tell.

    Args:
        places: Where each point is.
        kinds: The class of each.
        crossed: Whether each is crossed.
        called: What a class is called.
    """
    present = np.unique(kinds).tolist()
    traces = [_points(places, np.flatnonzero(kinds == kind), called(kind), _symbol(kind)) for kind in present]
    if crossed.any():
        traces.append(_points(places, np.flatnonzero(crossed), "answered wrongly", _outline("x-thin", _SIZE + 4, 1.8)))
    ring = _points(places, np.array([], dtype=np.int64), "chosen", _outline("circle-open", _SIZE + 11, 2.5))
    traces.append({**ring, "showlegend": False, "hoverinfo": "skip"})
    # below the plot, and no switch: a class that is hidden could not be chosen
    legend = {"orientation": "h", "x": 0, "y": -0.02, "yanchor": "top", "itemclick": False, "itemdoubleclick": False}
    shown = {"showlegend": len(present) <= _NAMED, "legend": legend, "hovermode": "closest", "hoverdistance": 12}
    return tuple(traces), layout(_axis(places[:, 0]), _axis(places[:, 1]), height=_HEIGHT, **shown)


def _symbol(kind: int) -> dict[str, Any]:
    """Return the marker of a class: no two of a hundred share both symbol and colour."""
    symbol, colour = _SYMBOLS[kind % 10], _COLOURS[(kind + kind // 10) % 10]
    return {"symbol": symbol, "color": colour, "size": _SIZE, "line": {"color": "$paper", "width": 0.7}}


def _outline(symbol: str, size: int, width: float) -> dict[str, Any]:
    return {"symbol": symbol, "size": size, "color": INK, "line": {"color": INK, "width": width}}


def _points(places: NDArray[np.float64], rows: NDArray[Any], name: str, marker: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plain(name),
        "marker": marker,
        "x": compact(places[rows, 0]),
        "y": compact(places[rows, 1]),
        "customdata": rows.tolist(),
        "hoverinfo": "none",  # the page shows a card with the picture
    }


def _axis(values: NDArray[np.float64]) -> dict[str, Any]:
    """Return an axis without numbers, as they mean nothing, that holds all points."""
    low, high = float(values.min()), float(values.max())
    edge = _EDGE * (high - low) or 1.0
    return {"visible": False, "range": compact(np.array([low - edge, high + edge]))}
