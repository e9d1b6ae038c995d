"""What a plot is: its traces for plotly, and the same said in one sentence and in one table.

Colours are names of the page's own palette, such as ``"$helped"``: the page puts in the values of the light or the dark
theme when it draws.
"""

import html
from dataclasses import dataclass
from typing import Any, final

Traces = tuple[dict[str, Any], ...]
Rows = tuple[tuple[str, ...], ...]

INK, MUTED, GRID, HELPED, HARMED, FIRST, SECOND = "$ink", "$muted", "$line", "$helped", "$harmed", "$first", "$second"
DIVERGING = ([0, HELPED], [0.5, "$neutral"], [1, HARMED])


@final
@dataclass(frozen=True)
class Figure:
    """One plot of the page.

    Attributes:
        key: Its name in the page, unique.
        title: A few words above it.
        summary: What it shows, in a sentence or two: its text alternative and its caption.
        traces: For plotly, colours by name.
        layout: For plotly, colours by name; the page adds fonts, margins and background.
        columns: Head of the table of values.
        rows: The table of values: the plot's numbers, or the few that say the same.
        wide: Whether it takes the whole width of the page.
    """

    key: str
    title: str
    summary: str
    traces: Traces
    layout: dict[str, Any]
    columns: tuple[str, ...]
    rows: Rows
    wide: bool = False

    @property
    def drawing(self) -> dict[str, Any]:
        """What the page's script needs to draw it."""
        return {"traces": list(self.traces), "layout": self.layout}


def axis(title: str, **more: Any) -> dict[str, Any]:
    """Return one axis of a layout, with the grid of the page."""
    return {
        "title": {"text": title, "standoff": 8},
        "automargin": True,
        "zerolinecolor": GRID,
        "gridcolor": GRID,
        **more,
    }


def layout(x: dict[str, Any], y: dict[str, Any], *, height: int = 280, **more: Any) -> dict[str, Any]:
    """Return the layout of a plot with two axes."""
    return {"xaxis": x, "yaxis": y, "height": height, **more}


def plain(text: str) -> str:
    """Return a text for plotly that it shows letter by letter: it would read ``<b>`` and ``&amp;`` as markup."""
    return html.escape(text, quote=False)


def compact(values: Any, digits: int = 5) -> list[Any]:
    """Round an array's values to a few significant digits, so that the page stays small; nan becomes None."""
    if getattr(values, "ndim", 0) > 1:
        return [compact(row, digits) for row in values]
    return [None if value != value else float(f"{float(value):.{digits}g}") for value in values]  # noqa: PLR0124 - nan
