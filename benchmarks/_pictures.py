"""Pictures of tables, drawn by a browser without a window."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from playwright.sync_api import sync_playwright

from whence.evaluation import Table, Tables
from whence.report.figures import FIRST, GRID, HARMED, HELPED, INK, MUTED, SECOND, Figure

_FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
_WIDTH, _HEIGHT = 900, 560
_PALETTE = {
    INK: "#1c2024",
    MUTED: "#565d66",
    GRID: "#dedbd3",
    HELPED: "#1764a3",
    HARMED: "#b3470a",
    FIRST: "#1764a3",
    SECOND: "#b3470a",
}


def save_picture(table: Table | Tables, path: Path, title: str, *, wide: float = 1) -> None:
    """Write the plot of a table as a PNG.

    Args:
        table: What to draw.
        path: The file.
        title: Above it.
        wide: How much wider than usual.
    """
    save_figure(table.figure().update_layout(title=title), path, width=round(_WIDTH * wide))


def save_figure(figure: Any, path: Path, *, width: int = _WIDTH, height: int = _HEIGHT) -> None:
    """Write a plotly figure as a PNG.

    Args:
        figure: What to draw.
        path: The file.
        width, height: Of the picture, in pixels.
    """
    figure = figure.update_layout(width=width, height=height)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page_file = Path(folder) / "figure.html"
        figure.write_html(page_file, include_plotlyjs=True, config={"displayModeBar": False})
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(_FLAGS))
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(300_000)
        page.goto(page_file.as_uri())
        page.wait_for_selector(".main-svg", timeout=120_000)
        page.screenshot(path=path)
        browser.close()


def save_drawing(drawn: Figure, path: Path) -> None:
    """Write a plot of the report as a PNG, in the colours of its light theme.

    Args:
        drawn: The plot.
        path: The file.
    """
    figure = go.Figure([_coloured(one) for one in drawn.traces], _coloured(drawn.layout))
    save_figure(figure.update_layout(title=drawn.title, template="plotly_white"), path, width=640, height=400)


def _coloured(value: Any) -> Any:
    """Put in the colours that the page's style sheet gives to names."""
    if isinstance(value, str):
        return _PALETTE.get(value, value)
    if isinstance(value, dict):
        return {key: _coloured(one) for key, one in value.items()}
    return [_coloured(one) for one in value] if isinstance(value, list) else value
