"""Pictures of tables, drawn by a browser without a window."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from whence.evaluation import Table, Tables

_FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
_WIDTH, _HEIGHT = 900, 560


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
        page.goto(page_file.as_uri())
        page.wait_for_selector(".main-svg", timeout=120_000)
        page.screenshot(path=path)
        browser.close()
