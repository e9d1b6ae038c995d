"""A page in HTML: the template, its style and script, and plotly.js, all in one file."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from whence.report.gallery import Gallery
from whence.report.page import Page


def render(page: Page) -> str:
    """Return the page about an audit as one HTML document that loads nothing from anywhere."""
    figures = {figure.key: figure.drawing for figure in page.figures}
    return _document("page.html.j2", figures, _pictures(page), page=page)


def render_gallery(page: Gallery) -> str:
    """Return the page about an invariant set as one HTML document that loads nothing from anywhere."""
    figures = {figure.key: figure.drawing for figure in page.figures}
    looks = page.train_looks or {}
    train = {f"train-{index}": shown.picture for index, shown in looks.items() if shown.picture is not None}
    return _document("gallery.html.j2", figures, {**page.panel.pictures, **train}, page=page)


def _document(template: str, drawings: dict[str, Any], pictures: dict[str, str], **context: Any) -> str:
    """Fill a template.

    Text is escaped by the template engine; on top of that the document's own content security policy names the two
    scripts by their checksum, so that no other script can run and nothing can be fetched.
    """
    scripts = {"plotly": get_plotlyjs(), "script": _asset("page.js")}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("whence.report", "assets"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src {' '.join(_checksum(one) for one in scripts.values())}"
    )
    return environment.get_template(template).render(
        policy=policy,
        style=Markup(_asset("page.css")),
        drawings=drawings,
        pictures_data=pictures,
        **context,
        **{name: Markup(source) for name, source in scripts.items()},
    )


def _pictures(page: Page) -> dict[str, str]:
    """Return every picture once, by the key that its <img> elements name."""
    beside = ({}, {}) if page.alike is None else (page.alike.target_looks, page.alike.train_looks)
    targets = {f"target-{index}": shown.picture for index, shown in {**beside[0], **page.target_looks}.items()}
    train = {f"train-{index}": shown.picture for index, shown in {**beside[1], **page.train_looks}.items()}
    mapped: dict[str, str | None] = {}
    for one in page.explanations:
        for each in one.mapped:
            mapped |= {f"{one.key}-map-{each.index}": each.picture, f"own-{each.index}": each.control}
        mapped |= {f"{one.key}-seen-{place}": picture for place, (_, picture) in enumerate(one.seen)}
    slides = () if page.recognition is None else page.recognition.slides
    changed = {f"{one.key}-{place}": step.picture for one in slides for place, step in enumerate(one.steps)}
    studied = () if page.attacked is None else (one for row in page.attacked.rows for one in row)
    groups = {one.key: one.picture for one in studied}
    panels = (one.indistinct for one in page.explanations)
    unseen = {key: picture for one in panels if one is not None for key, picture in one.pictures.items()}
    every: dict[str, str | None] = {**targets, **train, **mapped, **changed, **groups, **unseen}
    return {key: picture for key, picture in every.items() if picture is not None}


def _asset(name: str) -> str:
    return (resources.files("whence.report") / "assets" / name).read_text("utf-8")


def _checksum(script: str) -> str:
    digest: Any = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
