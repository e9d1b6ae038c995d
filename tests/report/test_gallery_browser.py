"""The gallery of an invariant set in a real browser: both themes, a phone, the keyboard, no errors, no requests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch.nn import functional

from tests.report.making import DigitPrior
from tests.report.test_browser import browser, opened, pytestmark
from whence.attribution import as_trained
from whence.datasets import load_digits
from whence.invariants import invariants, logits
from whence.report import write_gallery
from whence.report.demo import small_network

__all__ = ["browser", "pytestmark"]
DRAWN = "#details .main-svg"


@pytest.fixture(scope="module")
def gallery_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    trained = as_trained(small_network(), load_digits("train"), loss=functional.cross_entropy)
    objective = logits(trained.model, [3])
    found = invariants(objective, load_digits("test")[17][0], DigitPrior(), 10, pool=64)
    return write_gallery(found, objective, trained, tmp_path_factory.mktemp("gallery") / "page.html", telling=3)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_picture_and_plot_is_drawn_in_both_themes(browser: Any, gallery_file: Path, scheme: str) -> None:
    with opened(browser, gallery_file, drawn=DRAWN, color_scheme=scheme) as page:
        images = page.locator("img")
        assert images.count() > 10 + 4 * 5
        assert images.evaluate_all("all => all.every(one => one.complete && one.naturalWidth > 0)")
        assert page.locator("#details .main-svg").count() >= 2
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (max(int(one) for one in paper[4:-1].split(",")) < 64) == (scheme == "dark")


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_window(browser: Any, gallery_file: Path, width: int) -> None:
    with opened(browser, gallery_file, drawn=DRAWN, width=width) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [360, 1280])
def test_no_caption_of_a_nearest_example_is_cut(browser: Any, gallery_file: Path, width: int) -> None:
    with opened(browser, gallery_file, drawn=DRAWN, width=width) as page:
        captions = page.locator(".beside .says")
        assert captions.count() == 4 * 5
        assert captions.evaluate_all("all => all.every(one => one.scrollWidth <= one.clientWidth)")


def test_the_keyboard_reaches_the_samples_and_the_tables(browser: Any, gallery_file: Path) -> None:
    with opened(browser, gallery_file, drawn=DRAWN) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the samples"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id || location.hash.slice(1)") == "samples"
        focusable = page.locator("#certificates [tabindex='0']")
        assert focusable.get_attribute("aria-label") == "Table of values"
