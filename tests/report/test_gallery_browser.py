"""The gallery of an invariant set in a real browser: both themes, a phone, the keyboard, no errors, no requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch.nn import functional

from tests.report.making import DigitPrior
from tests.report.test_browser import Opened, browser, opened, pytestmark
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


@pytest.fixture(scope="module", params=[(1280, "light"), (360, "dark")], ids=["desktop", "phone"])
def window(browser: Any, gallery_file: Path, request: pytest.FixtureRequest) -> Iterator[Opened]:
    width, scheme = request.param
    with opened(browser, gallery_file, drawn=DRAWN, width=width, scheme=scheme) as found:
        yield found


@pytest.fixture
def page(window: Opened) -> Iterator[Any]:
    """Return the page, large and light or on a phone and dark."""
    yield from window.in_turn()


def test_every_picture_and_plot_is_drawn_in_both_themes(page: Any, window: Opened) -> None:
    images = page.locator("img")
    assert images.count() > 10 + 4 * 5
    assert images.evaluate_all("all => all.every(one => one.complete && one.naturalWidth > 0)")
    assert page.locator("#details .main-svg").count() >= 2
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(int(one) for one in paper[4:-1].split(",")) < 64) == (window.scheme == "dark")


def test_nothing_is_wider_than_the_window(page: Any, window: Opened) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= window.width


def test_no_caption_of_a_nearest_example_is_cut(page: Any) -> None:
    captions = page.locator(".beside .says")
    assert captions.count() == 4 * 5
    assert captions.evaluate_all("all => all.every(one => one.scrollWidth <= one.clientWidth)")


def test_the_keyboard_reaches_the_samples_and_the_tables(browser: Any, gallery_file: Path) -> None:
    with opened(browser, gallery_file, drawn=DRAWN) as found:
        page = found.page
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the samples"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id || location.hash.slice(1)") == "samples"
        focusable = page.locator("#certificates [tabindex='0']")
        assert focusable.get_attribute("aria-label") == "Table of values"
        assert found.troubles == []
