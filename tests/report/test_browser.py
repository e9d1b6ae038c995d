"""The page in a real browser: choosing by mouse and keyboard, both themes, a phone, no errors, no requests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.report.making import picture_case
from whence.attribution import GradDot
from whence.provenance import ProvenanceNetwork, small_backbone
from whence.report import MapSettings, write_report

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    case = picture_case(folder, ("top", "<b>middle</b>", "bottom"))
    torch.manual_seed(0)
    network = ProvenanceNetwork(small_backbone(case.run.examples), case.run.examples).eval()
    asked: dict[str, Any] = {"methods": (GradDot(),), "provenance": network, "alike": MapSettings(k=4, times=3)}
    return write_report(case.run, case.audit, case.targets, folder / "page.html", k=6, **asked)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield started
        started.close()


class Opened:
    """A page that is open, and what went wrong on it or was asked for."""

    def __init__(self, browser: Any, file: Path, *, fragment: str, width: int, drawn: str, scheme: str) -> None:
        self.width, self.scheme = width, scheme
        self.context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        self.context.set_default_timeout(120_000)
        self.page = self.context.new_page()
        self.troubles: list[str] = []
        self.page.on("console", lambda message: self.troubles.append(message.text))
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("request", self._asked)
        self.page.goto(file.as_uri() + fragment)
        self.page.wait_for_selector(drawn)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith(("file:", "data:")):
            self.troubles.append(request.url)

    def in_turn(self) -> Iterator[Any]:
        """Lend the page to one test: in its own theme and size; at the end, nothing may have gone wrong."""
        self.page.emulate_media(color_scheme=self.scheme, media="screen")
        self.page.set_viewport_size({"width": self.width, "height": 800})
        self.page.mouse.move(1, 1)
        yield self.page
        assert self.troubles == []


@contextmanager
def opened(
    browser: Any,
    file: Path,
    *,
    fragment: str = "",
    width: int = 1280,
    drawn: str = "#proof .main-svg",
    scheme: str = "light",
) -> Iterator[Opened]:
    """Open the page, for several tests in turn: to draw it takes seconds."""
    found = Opened(browser, file, fragment=fragment, width=width, drawn=drawn, scheme=scheme)
    try:
        yield found
    finally:
        found.context.close()


@pytest.fixture(scope="module")
def wide(browser: Any, page_file: Path) -> Iterator[Opened]:
    with opened(browser, page_file) as found:
        yield found


@pytest.fixture(scope="module")
def small(browser: Any, page_file: Path) -> Iterator[Opened]:
    with opened(browser, page_file, width=360, scheme="dark") as found:
        yield found


@pytest.fixture
def desktop(wide: Opened) -> Iterator[Any]:
    """Return the page in a large window, in the light theme."""
    yield from wide.in_turn()


@pytest.fixture
def phone(small: Opened) -> Iterator[Any]:
    """Return the page on a phone, in the dark theme."""
    yield from small.in_turn()


@pytest.fixture
def fresh(browser: Any, page_file: Path) -> Iterator[Any]:
    """Return the page as nobody has used it yet."""
    with opened(browser, page_file) as found:
        yield from found.in_turn()


def heading(page: Any) -> str:
    """Return the heading of the one panel that is shown."""
    shown = page.locator("article.panel:visible")
    assert shown.count() == 1
    return str(shown.locator("h3").inner_text())


def test_a_click_shows_the_target_with_its_pictures_and_plots(desktop: Any) -> None:
    page = desktop
    before, buttons = heading(page), page.locator("button[data-panel]")
    buttons.nth(2).click()
    assert heading(page) != before
    assert buttons.nth(2).get_attribute("aria-current") == "true"
    assert page.locator("[aria-current]").count() == 1
    assert heading(page) in page.locator("#announced").inner_text()
    panel = page.locator("article.panel:visible")
    assert panel.locator(".main-svg").count() >= 3
    loaded = "images => images.every(image => image.complete && image.naturalWidth > 0)"
    assert panel.locator("img:visible").evaluate_all(loaded)
    assert panel.locator("img").count() > 10


def test_the_keyboard_alone_reaches_and_changes_the_target(fresh: Any) -> None:
    page = fresh
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.panel") == "t" + panel_number(page, 0)
    before = heading(page)
    page.keyboard.press("ArrowRight")
    after = heading(page)
    assert after != before
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Home")
    assert heading(page) == before
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert heading(page) == after


def test_a_switch_changes_the_method_whose_lists_are_shown(desktop: Any) -> None:
    page = desktop
    panel = page.locator("article.panel:not([hidden])")
    audit, other = panel.locator("button[data-method]").all()
    lists = [panel.locator(f"#{one.get_attribute('data-method')}") for one in (audit, other)]
    assert [one.is_visible() for one in lists] == [True, False]
    other.click()
    assert [one.is_visible() for one in lists] == [False, True]
    assert [one.get_attribute("aria-pressed") for one in (audit, other)] == ["false", "true"]
    pictures = lists[1].locator("img").all()
    assert pictures
    assert all(one.get_attribute("src").startswith("data:image/png") for one in pictures)
    audit.press("Enter")
    assert [one.is_visible() for one in lists] == [True, False]


def test_a_slider_shows_the_image_as_distorted_as_it_says_by_keyboard_too(desktop: Any) -> None:
    page = desktop
    slider, steps = page.locator("input[data-slide='slide-rotation']"), page.locator("#slide-rotation")
    assert steps.locator("[data-step]:visible").count() == 1
    assert steps.inner_text().startswith("0°: ")
    first = steps.locator("img:visible").first.get_attribute("src")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert steps.locator("[data-step]:visible").get_attribute("data-step") == "1"
    assert steps.inner_text().startswith("7.5°: ")
    assert slider.get_attribute("aria-valuetext") == steps.locator("p:visible").inner_text()
    shown = steps.locator("img:visible")
    assert shown.count() == 2
    assert shown.evaluate_all("images => images.every(image => image.complete && image.naturalWidth > 0)")
    assert shown.first.get_attribute("src") != first
    page.keyboard.press("End")
    assert steps.locator("[data-step]:visible").get_attribute("data-step") == "8"


def drawn_points(page: Any) -> Any:
    """Return the points of the map, which stands still in the window."""
    canvas = page.locator("[data-figure='alike-map']")
    canvas.evaluate("one => one.scrollIntoView({ behavior: 'instant', block: 'center' })")
    return canvas.locator(".scatterlayer .trace:not(:last-child) .point")


def middle_of(point: Any) -> tuple[float, float]:
    """Return where to point to meet a point of a plot."""
    box = point.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


@pytest.mark.parametrize("window", ["desktop", "phone"])
def test_a_pointer_over_the_map_shows_the_image_and_a_click_its_nearest(
    window: str, request: pytest.FixtureRequest
) -> None:
    page = request.getfixturevalue(window)
    card, title = page.locator("#alike-card"), page.locator("#alike-title")
    points, before = drawn_points(page), title.inner_text()
    assert points.count() >= 20
    assert card.is_hidden()
    for position in (4, 11):
        page.mouse.move(*middle_of(points.nth(position)))  # at once: nothing is met on the way
        page.locator("#alike-card b").filter(has_not_text=before).wait_for()
        before = card.locator("b").inner_text()
        assert card.locator("img").evaluate("image => image.complete && image.naturalWidth > 0")
        assert "class margin" in card.inner_text()
    box = card.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= page.viewport_size["width"]
    page.mouse.click(*middle_of(points.nth(11)))
    assert title.inner_text() == before
    assert f"Showing {before}" in page.locator("#alike-announced").inner_text()
    nearest = page.locator("#alike-nearest img")
    assert nearest.count() == page.locator("#alike-unlike img").count() == 4
    assert nearest.evaluate_all("images => images.every(image => image.complete && image.naturalWidth > 0)")
    assert all("similarity" in one.get_attribute("alt") for one in nearest.all())
    page.mouse.move(1, 1)
    assert card.is_hidden()


def test_the_keyboard_chooses_on_the_map_and_the_ring_follows_also_in_another_theme(
    desktop: Any,
) -> None:
    ring = "[data-figure='alike-map'] .scatterlayer .trace:last-child .point"
    page = desktop
    choice, title = page.locator("#alike-choice"), page.locator("#alike-title")
    choice.focus()
    page.keyboard.press("Home")
    before, place = title.inner_text(), page.locator(ring).bounding_box()
    listed = page.locator("#alike-nearest").inner_text()
    page.keyboard.press("ArrowDown")
    assert title.inner_text() != before
    assert page.locator("#alike-nearest").inner_text() != listed
    assert page.locator(ring).bounding_box() != place
    fill = "getComputedStyle(document.querySelector('.xtick text')).fill"
    light = page.evaluate(fill)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"before => {fill} !== before", arg=light)
    points = drawn_points(page)
    page.mouse.move(*middle_of(points.first), steps=3)
    page.wait_for_selector("#alike-card:visible")
    assert page.locator(ring).count() == 1


def panel_number(page: Any, position: int) -> str:
    """Return which row of the audit a button of the gallery is about."""
    return str(page.locator("button[data-panel]").nth(position).get_attribute("data-panel")).removeprefix("t")


def test_a_link_to_a_target_opens_it(browser: Any, page_file: Path, desktop: Any) -> None:
    desktop.locator("button[data-panel]").nth(3).click()
    wanted, fragment = heading(desktop), desktop.evaluate("location.hash")
    with opened(browser, page_file, fragment=fragment) as found:
        assert heading(found.page) == wanted
        assert found.troubles == []


@pytest.mark.parametrize(("window", "width"), [("phone", 360), ("desktop", 768), ("desktop", 1280)])
def test_nothing_sticks_out_sideways(window: str, width: int, request: pytest.FixtureRequest) -> None:
    page = request.getfixturevalue(window)
    page.set_viewport_size({"width": width, "height": 800})
    page.locator("details").evaluate_all("all => all.forEach(one => { one.open = true; })")
    page.wait_for_timeout(200)
    assert page.evaluate("innerWidth") == width
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("window", ["desktop", "phone"])
def test_text_stands_out_from_its_background_in_both_themes(window: str, request: pytest.FixtureRequest) -> None:
    page = request.getfixturevalue(window)
    colours = """() => Object.fromEntries(['paper', 'surface', 'ink', 'muted', 'helped', 'harmed'].map(name =>
        [name, getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim()]))"""
    found = page.evaluate(colours)
    for ground in ("paper", "surface"):
        for text in ("ink", "muted", "helped", "harmed"):
            assert contrast(found[ground], found[text]) >= 4.5, (ground, text)
    ticks = f"rgb{channels(found['muted'])}"
    page.wait_for_function(f"getComputedStyle(document.querySelector('.xtick text')).fill === '{ticks}'")
    assert (contrast(found["paper"], "#ffffff") > 10) == (window == "phone")  # which is dark


def test_plots_follow_the_theme_when_it_changes(desktop: Any) -> None:
    fill = "getComputedStyle(document.querySelector('.xtick text')).fill"
    light = desktop.evaluate(fill)
    desktop.emulate_media(color_scheme="dark")
    desktop.wait_for_function(f"before => {fill} !== before", arg=light)
    dark = desktop.evaluate(fill)
    desktop.emulate_media(color_scheme="dark", media="print")
    desktop.wait_for_function(f"before => {fill} !== before", arg=dark)
    assert desktop.evaluate(fill) == light  # on paper, always the light theme


def channels(colour: str) -> tuple[int, ...]:
    """Return red, green and blue of ``#rrggbb``."""
    return tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))


def contrast(first: str, second: str) -> float:
    """Return the contrast ratio of two colours (WCAG 2.2)."""
    lights = []
    for colour in (first, second):
        linear = [
            (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4) for c in (v / 255 for v in channels(colour))
        ]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)
