"""The map names the training examples that are really nearest, stands on the page, and refuses what it cannot show."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import whence
from tests.report.making import Case, Reader, columns_case, picture_case, pictures, read, table_case, trained
from whence._errors import ArgumentError, DataError, WhenceError
from whence.kernel import answers, class_margin
from whence.report import LikenessMap, MapSettings, likeness_map, write_report
from whence.report.plane import plane
from whence.report.words import number

SETTINGS = MapSettings(limit=12, k=4, times=3)
EVIL = "</script><b>"


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    torch.manual_seed(0)  # a single epoch leaves wrong answers
    names, folder = ("top", "middle", "bottom"), tmp_path_factory.mktemp("pictures")
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 3))
    run = trained(folder / "run", model, pictures(40, names, 0), functional.cross_entropy, epochs=1)
    targets = whence.as_examples(pictures(20, names, 1))
    return Case(run, whence.audit(run, targets), targets)


@pytest.fixture(scope="module")
def mapped(case: Case) -> LikenessMap:
    return likeness_map(case.run, case.targets, settings=SETTINGS)


@pytest.fixture(scope="module")
def page(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    place = tmp_path_factory.mktemp("page") / "p.html"
    return read(write_report(case.run, case.audit, case.targets, place, k=3, alike=SETTINGS))


def written(page: Reader, name: str) -> Any:
    """Return the data that a page holds under a name."""
    return json.loads(next(one.text for one in page.of("script") if one.attributes.get("id") == name))


def test_the_nearest_and_the_least_alike_are_those_of_the_whole_matrix(case: Case, mapped: LikenessMap) -> None:
    kernel = whence.path_kernel(case.run, case.targets, case.run.examples, times=3)
    labels, own = case.run.examples.labels.tolist(), case.targets.labels.tolist()
    assert len(mapped.points) == 12
    for point in mapped.points:
        row = kernel.sel(target=point.index)
        norm = float(row["target_norm"])
        cosines = [
            float(product) / np.sqrt(norm * float(other))
            for product, other in zip(row["kernel"].values, row["other_norm"].values, strict=True)
        ]
        ranked = sorted(range(len(labels)), key=lambda one: -cosines[one])
        of_its_class = [one for one in ranked if labels[one] == own[point.index]]
        assert [one.index for one in point.nearest] == ranked[:4]
        assert [one.index for one in point.unlike] == of_its_class[::-1][:4]
        assert [one.said for one in point.nearest] == [number(cosines[one], 2) for one in ranked[:4]]
        names = case.targets.class_names or ()
        assert [one.label for one in point.nearest] == [names[labels[one]] for one in ranked[:4]]


def test_what_is_told_of_a_point_is_what_the_kernel_package_measures(case: Case, mapped: LikenessMap) -> None:
    ids = [point.index for point in mapped.points]
    assert ids == sorted({int(one) for one in np.linspace(0, 19, 12)})
    found = answers(case.run, case.targets, ids=ids)
    alike = whence.similarity(whence.path_kernel(case.run, case.targets, case.run.examples, ids=ids, times=3))
    margin = class_margin(alike, case.run.examples.labels, found["predicted"])
    np.testing.assert_allclose([point.margin for point in mapped.points], margin.values, rtol=1e-6)
    own = case.targets.labels[ids].numpy()
    assert [point.wrong for point in mapped.points] == (found["predicted"].values != own).tolist()
    assert [point.loss for point in mapped.points] == [number(float(loss)) for loss in found["loss"]]


def test_every_point_is_drawn_once_in_its_class_and_once_more_if_it_is_wrong(mapped: LikenessMap) -> None:
    *classes, crosses, ring = mapped.figure.traces
    drawn = [position for trace in classes for position in trace["customdata"]]
    assert sorted(drawn) == list(range(12))
    for trace in classes:
        assert {mapped.points[position].label for position in trace["customdata"]} == {trace["name"]}
    assert crosses["name"] == "answered wrongly"
    assert crosses["customdata"] == [place for place, point in enumerate(mapped.points) if point.wrong]
    assert (ring["name"], ring["x"]) == ("chosen", [])
    assert len(mapped.figure.rows) == 12


def test_no_two_of_a_hundred_classes_look_the_same_and_ten_differ_without_colour() -> None:
    places = np.random.default_rng(0).normal(size=(100, 2))
    traces, drawn = plane(places, np.arange(100), np.zeros(100, dtype=bool), str)
    looks = [(one["marker"]["symbol"], one["marker"]["color"]) for one in traces[:100]]
    assert len(set(looks)) == 100
    assert len({symbol for symbol, _ in looks[:10]}) == 10
    assert len({colour for _, colour in looks[:10]}) == 10
    assert not drawn["showlegend"]
    assert len(traces) == 101  # without crosses


def test_the_page_has_the_map_in_its_order_with_a_choice_for_the_keyboard(page: Reader) -> None:
    assert (page.wrong, page.open) == ([], [])
    assert "#alike" in [one.attributes.get("href") for one in page.of("a")]
    levels = [int(one.tag[1]) for one in page.of("h1", "h2", "h3", "h4", "h5", "h6")]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert all(one.text.strip() for one in page.of("h1", "h2", "h3", "h4", "h5", "h6"))
    ids = [one.attributes["id"] for one in page.elements if "id" in one.attributes]
    assert len(ids) == len(set(ids))
    for name in ("aria-labelledby", "aria-controls", "for"):
        assert {one.attributes[name] for one in page.elements if name in one.attributes} <= set(ids)
    assert sorted(int(one.attributes["value"] or -1) for one in page.of("option")) == list(range(12))
    groups = [one.attributes["label"] for one in page.of("optgroup")]
    assert groups == ["Answered wrongly", "Answered rightly"]


def test_the_page_holds_every_picture_and_number_that_a_click_shows(page: Reader, mapped: LikenessMap) -> None:
    told, pictures, drawings = (written(page, name) for name in ("alike-points", "pictures", "drawings"))
    assert [one["index"] for one in told["points"]] == [point.index for point in mapped.points]
    for one, point in zip(told["points"], mapped.points, strict=True):
        assert one["nearest"] == [[each.index, each.label, each.said] for each in point.nearest]
        keys = [f"target-{one['index']}", *(f"train-{each[0]}" for each in (*one["nearest"], *one["unlike"]))]
        assert all(pictures[key].startswith("data:image/png;base64,") for key in keys)
    assert "alike-map" in drawings
    (table,) = (one for one in page.of("table") if "nearest training examples" in one.text)
    assert all(f"#{point.index}" in table.text for point in mapped.points)


def test_a_page_without_a_map_has_nothing_of_it(case: Case, tmp_path: Path) -> None:
    text = write_report(case.run, case.audit, case.targets, tmp_path / "p.html", chosen=[0], k=1).read_text()
    assert 'id="alike' not in text
    assert "#alike" not in text.replace("#alike-", "")


def test_class_names_with_markup_are_text_on_the_map(tmp_path: Path) -> None:
    case = picture_case(tmp_path, (EVIL, "a", "b"))
    page = read(write_report(case.run, case.audit, case.targets, tmp_path / "p.html", k=1, alike=SETTINGS))
    assert page.wrong == []
    assert len(page.of("script")) == 5
    assert any(EVIL in one.text for one in page.of("option"))
    assert any(EVIL in one["title"] for one in written(page, "alike-points")["points"])


def test_rows_of_numbers_are_told_by_their_values(tmp_path: Path) -> None:
    case = columns_case(tmp_path)
    page = read(write_report(case.run, case.audit, case.targets, tmp_path / "p.html", k=2, alike=True))
    told = written(page, "alike-points")
    assert [name for name, _ in told["features"]["target-0"]] == [f"value[{place}]" for place in range(4)]
    assert len(told["points"]) == 8


def test_targets_without_classes_or_too_few_of_them_are_refused(case: Case, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"A map is of at least 4 targets; got 3\. Give more targets, or leave"):
        likeness_map(case.run, case.targets, [0, 1, 2])
    numbers = table_case(tmp_path)
    with pytest.raises(ArgumentError, match=r"these targets have none as labels: it is for classifiers\. Leave the"):
        write_report(numbers.run, numbers.audit, numbers.targets, tmp_path / "p.html", alike=True)
    assert not (tmp_path / "p.html").exists()
    inputs, labels = case.targets.batch(range(8))
    with pytest.raises(ArgumentError, match=r"these targets have none as labels"):
        likeness_map(case.run, (inputs, labels.float()))
    with pytest.raises(DataError, match="label"):
        likeness_map(case.run, torch.zeros(8, 1, 6, 6))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limit": 3}, "`limit` of a map is a whole number, at least 4; got 3."),
        ({"k": 0}, "`k` of a map is a whole number, at least 1; got 0."),
        ({"times": 0}, "`times` of a map is a whole number, at least 1; got 0."),
        ({"method": "pca"}, "`method` is 'tsne' or 'umap'; got 'pca'."),
    ],
)
def test_settings_that_make_no_map_are_refused(case: Case, change: dict[str, Any], message: str) -> None:
    with pytest.raises(WhenceError) as caught:
        likeness_map(case.run, case.targets, settings=replace(SETTINGS, **change))
    assert str(caught.value) == message
