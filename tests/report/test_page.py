"""The page holds what it must, says it in words too, escapes everything, and loads nothing."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.nn import functional

import whence
from tests.report.making import Case, Reader, columns_case, picture_case, pictures, read, table_case, trained
from whence._errors import ArgumentError, AuditError, LabelError
from whence._statistics import Interval
from whence.attribution import Attributor, GradDot, TracIn, attribute, harmful, helpful
from whence.evaluation import Table, compare_attributors, linear_datamodeling_score, removal_losses
from whence.evaluation.table import table_of
from whence.regions import integrated_gradients, overlay, region_map
from whence.report import curves, write_report
from whence.report.beside import has_convolution
from whence.report.page import make_page
from whence.report.pictures import png
from whence.report.trust import trust
from whence.report.words import number

HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return picture_case(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def page(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return read(write_report(case.run, case.audit, case.targets, tmp_path_factory.mktemp("page") / "p.html", k=5))


def test_every_element_is_closed_and_the_language_is_said(page: Reader) -> None:
    assert page.wrong == []
    assert page.open == []
    assert page.of("html")[0].attributes["lang"] == "en"


def test_headings_go_down_one_level_at_a_time_from_a_single_h1(page: Reader) -> None:
    levels = [int(element.tag[1]) for element in page.of(*HEADINGS)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert all(element.text.strip() for element in page.of(*HEADINGS))


def test_landmarks_and_a_skip_link_lead_through_the_page(page: Reader) -> None:
    for landmark in ("header", "nav", "main", "footer"):
        assert len([one for one in page.of(landmark) if "article" not in one.inside]) == 1, landmark
    ids = {element.attributes.get("id") for element in page.elements}
    links = [element.attributes["href"] or "" for element in page.of("a")]
    assert links[0] == "#predictions"
    assert all(link.startswith("#") and link[1:] in ids for link in links)


def test_ids_are_unique_and_what_refers_to_them_finds_them(page: Reader) -> None:
    ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    for name in ("aria-labelledby", "aria-controls"):
        assert {element.attributes[name] for element in page.elements if name in element.attributes} <= set(ids)


def test_every_picture_says_what_it_is_and_has_its_data(page: Reader) -> None:
    data = json.loads(next(one.text for one in page.of("script") if one.attributes.get("id") == "pictures"))
    images = page.of("img")
    assert len(images) > 40
    training = re.compile(r"training image \d+, label (top|middle|bottom), influence [+−][\d.]+(×10\S+)? nats")
    for image in images:
        alt, key = image.attributes["alt"] or "", image.attributes["data-picture"] or ""
        assert training.fullmatch(alt) if key.startswith("train-") else alt.startswith("target image "), alt
        assert data[key].startswith("data:image/png;base64,")
    assert set(data) == {image.attributes["data-picture"] for image in images}


def test_every_plot_is_told_in_a_sentence_and_in_a_table(page: Reader) -> None:
    drawings = json.loads(next(one.text for one in page.of("script") if one.attributes.get("id") == "drawings"))
    canvases = [element for element in page.elements if "data-figure" in element.attributes]
    assert {canvas.attributes["data-figure"] for canvas in canvases} == set(drawings)
    assert all(canvas.attributes["role"] == "img" for canvas in canvases)
    assert all(len((canvas.attributes["aria-label"] or "").split()) > 8 for canvas in canvases)
    assert len(page.of("details")) == len(canvases) == len(page.of("figcaption"))
    tables = [table for table in page.of("table") if "details" in table.inside]
    assert len(tables) == len(canvases)
    assert all(any(letter.isdigit() for letter in table.text) for table in tables)


def test_nothing_is_loaded_from_anywhere(page: Reader) -> None:
    policy = next(one.attributes["content"] or "" for one in page.of("meta") if "http-equiv" in one.attributes)
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert policy.count("'sha256-") == 2
    assert page.of("link", "iframe", "object", "embed", "video", "audio", "source") == []
    assert all(not one.attributes.get("src") for one in page.of("script"))
    assert {image.attributes["src"] for image in page.of("img")} == {"data:,"}
    assert not re.search(r"url\(|@import", page.of("style")[0].text)
    assert all("srcset" not in element.attributes for element in page.elements)
    assert all(not name.startswith("on") for element in page.elements for name in element.attributes)


def test_the_page_stays_far_below_8_megabytes(case: Case, tmp_path: Path) -> None:
    path = write_report(case.run, case.audit, case.targets, tmp_path / "p.html")
    assert 4_000_000 < path.stat().st_size < 6_000_000  # plotly.js is 4.8 of them


def test_the_certificate_is_the_audits_own(case: Case) -> None:
    found = make_page(case.run, case.audit, case.targets, k=2).proof
    assert dict(found.facts)["mean error"] == f"{number(case.audit.completeness.mean_error)} nats"
    assert dict(found.facts)["correlation"].startswith("0.99")
    assert found.residuals[0][0] == "the initial parameters, through weight decay"
    assert found.residuals[0][2] == number(float(abs(case.audit.data["residual"][:, 0]).mean()))


def test_the_targets_shown_are_the_wrong_answers_by_loss_then_some_right_ones(case: Case) -> None:
    shown = make_page(case.run, case.audit, case.targets, k=2).explanations
    data = case.audit.data
    wrong = set(np.flatnonzero((data["prediction"] != data["target_label"]).values).tolist())
    assert {one.index for one in shown if one.wrong} == wrong
    assert [one.wrong for one in shown] == sorted((one.wrong for one in shown), reverse=True)
    assert sum(not one.wrong for one in shown) == 6
    final = data["course"].values[:, -1]
    losses = [final[one.index] for one in shown if one.wrong]
    assert losses == sorted(losses, reverse=True)


def test_the_lists_are_the_audits_most_helpful_and_most_harmful(case: Case) -> None:
    (one,) = make_page(case.run, case.audit, case.targets, chosen=[3], k=4).explanations
    helpful, harmful, of_class, _ = one.rankings
    assert [listed.index for listed in helpful.listed] == case.audit.helpful(3, 4).coords["train"].values.tolist()
    assert [listed.index for listed in harmful.listed] == case.audit.harmful(3, 4).coords["train"].values.tolist()
    assert {listed.label for listed in of_class.listed} == {one.predicted}
    assert all(listed.influence.startswith("−") for listed in helpful.listed)


def test_layers_are_shown_with_the_class_of_their_module(case: Case) -> None:
    (one,) = make_page(case.run, case.audit, case.targets, chosen=[0]).explanations
    heat = next(figure for figure in one.figures if figure.key.endswith("-profile"))
    assert heat.traces[0]["y"] == ["1 Linear", "3 Linear"]
    assert [row[0] for row in heat.rows] == ["1 Linear", "3 Linear"]


def test_the_share_by_class_adds_up_to_the_change_that_examples_made(case: Case) -> None:
    (one,) = make_page(case.run, case.audit, case.targets, chosen=[0]).explanations
    shares = next(figure for figure in one.figures if figure.key.endswith("-class"))
    drawn = sum(value for trace in shares.traces for value in trace["y"])
    assert drawn == pytest.approx(float(case.audit.total(0).sum()), rel=1e-3)


def test_a_class_name_with_markup_is_text_and_cannot_run(tmp_path: Path) -> None:
    case = picture_case(tmp_path, (EVIL, '"><img src=x onerror=alert(1)>', "</script><b>"))
    page = read(write_report(case.run, case.audit, case.targets, tmp_path / "p.html", k=3))
    assert page.wrong == []
    assert len(page.of("script")) == 4
    assert not [one for one in page.elements if "onerror" in one.attributes]
    assert EVIL in page.of("main")[0].text
    drawings = json.loads(next(one.text for one in page.of("script") if one.attributes.get("id") == "drawings"))
    assert EVIL not in (tmp_path / "p.html").read_text()
    labels = [str(label) for drawing in drawings.values() for trace in drawing["traces"] for label in trace["x"]]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in labels
    assert not any("<" in label for label in labels)


def test_rows_of_numbers_are_shown_as_tables_not_pictures(tmp_path: Path) -> None:
    case = columns_case(tmp_path)
    page = read(write_report(case.run, case.audit, case.targets, tmp_path / "p.html", k=3))
    assert page.of("img") == []
    features = [one for one in page.of("dl") if one.attributes.get("class") == "features"]
    assert features
    assert all(name in features[0].text for name in ("value[0]", "value[3]"))
    heads = [one.text for one in page.of("thead")]
    assert any("value[3]" in head and "influence" in head for head in heads)


def test_a_regression_has_no_classes_and_lists_its_targets_by_loss(tmp_path: Path) -> None:
    case = table_case(tmp_path)
    made = make_page(case.run, case.audit, case.targets, k=3)
    assert made.confusion is None
    assert [figure.key for figure in made.training] == ["training-loss"]
    assert len(made.explanations) == 6
    page = read(write_report(case.run, case.audit, case.targets, tmp_path / "p.html", k=3))
    assert "3 more" in page.of("main")[0].text  # of 15 values, 12 are shown
    assert page.wrong == []


@pytest.mark.parametrize("options", [{"by": ("layer", "epoch")}, {"by": "label"}, {"quantity": "probability"}])
def test_every_kind_of_audit_has_its_page(tmp_path: Path, options: dict[str, Any]) -> None:
    case = picture_case(tmp_path, **options)
    page = read(write_report(case.run, case.audit, case.targets, tmp_path / "p.html", k=3))
    assert page.wrong == []
    text = page.of("main")[0].text
    assert ("single ones cannot be listed" in text) == (options.get("by") == "label")
    assert ("A positive influence helped" in text) == ("quantity" in options)


def test_an_audit_of_several_classes_finds_the_example_of_each_row(tmp_path: Path) -> None:
    case = picture_case(tmp_path, quantity="logit", classes=[0, 2], ids=[4, 7])
    (one,) = make_page(case.run, case.audit, case.targets, chosen=["7:2"]).explanations
    assert (one.name, one.index) == ("7:2", 7)


def test_targets_in_any_form_give_the_same_page_and_missing_folders_are_made(case: Case, tmp_path: Path) -> None:
    raw = case.targets.source
    assert not isinstance(raw, whence.Examples)
    place = write_report(case.run, case.audit, raw, tmp_path / "new" / "folder" / "p.html", chosen=[0], k=1)
    assert (
        place.read_text()
        == write_report(case.run, case.audit, case.targets, tmp_path / "p.html", chosen=[0], k=1).read_text()
    )
    assert curves(case.run, raw) == curves(case.run, case.targets)


def test_a_page_that_is_there_is_replaced(case: Case, tmp_path: Path) -> None:
    place = tmp_path / "p.html"
    place.write_text("old")
    assert write_report(case.run, case.audit, case.targets, place, chosen=[0], k=1) == place
    assert "Whence" in place.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["p.html"]


def test_unknown_targets_and_other_targets_are_refused_by_name(case: Case, tmp_path: Path) -> None:
    place = tmp_path / "p.html"
    with pytest.raises(LabelError, match=r"No target id 99 among the 20 audited\. See audit\.influence"):
        write_report(case.run, case.audit, case.targets, place, chosen=[99])
    few = whence.as_examples(case.targets.batch(range(5)))
    with pytest.raises(ArgumentError, match="about targets 0 to 19, but 5 targets were given"):
        write_report(case.run, case.audit, few, place)
    with pytest.raises(ArgumentError, match="`k` must be at least 1 to list training examples, got 0"):
        write_report(case.run, case.audit, case.targets, place, k=0)
    with pytest.raises(ArgumentError, match=r"is a folder; give the path of a file"):
        write_report(case.run, case.audit, case.targets, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ArgumentError, match=r"file cannot be a folder: a file stands there\."):
        write_report(case.run, case.audit, case.targets, tmp_path / "file" / "p.html")
    assert not place.exists()


def test_a_wrong_answer_says_what_to_remove_and_what_training_again_gives(tmp_path: Path) -> None:
    torch.manual_seed(0)
    names = ("top", "middle", "bottom")
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 3))
    run = trained(tmp_path / "run", model, pictures(40, names, 0), functional.cross_entropy, epochs=1)
    targets = whence.as_examples(pictures(20, names, 1))
    case = Case(run, whence.audit(run, targets), targets)
    page = make_page(case.run, case.audit, case.targets, k=2, remove=3, retrain=1)
    wrong = [one for one in page.explanations if one.wrong]
    assert len(wrong) >= 2
    for place, one in enumerate(wrong):
        ranking = one.rankings[-1]
        assert ranking.title == "Examples to remove"
        assert len(ranking.listed) == 3
        sentence = next(line for line in one.story if line.startswith("Its margin, the logit of "))
        assert ("after training again without them it is" in sentence) == (place == 0)
        expected = "The smallest set predicted to turn the answer right has ", "No set of up to half of the training"
        assert any(line.startswith(expected) for line in one.story)
    right = [one for one in page.explanations if not one.wrong]
    assert all("Examples to remove" not in [each.title for each in one.rankings] for one in right)
    path = write_report(case.run, case.audit, case.targets, tmp_path / "p.html", k=2, remove=3)
    assert path.read_text().count(">Examples to remove<") == len(wrong)


def test_other_methods_have_their_lists_beside_the_audits(case: Case, tmp_path: Path) -> None:
    methods: tuple[Attributor, ...] = (GradDot(), TracIn(2))
    page = make_page(case.run, case.audit, case.targets, k=4, methods=methods)
    for method, place in zip(methods, range(2), strict=True):
        scores = attribute(method, case.run, case.targets)
        for one in page.explanations:
            shown = one.others[place]
            assert shown.name == scores.attrs["attributor"]
            assert scores.attrs["unit"] in shown.note
            for ranking, ranked in zip(shown.rankings, (helpful, harmful), strict=True):
                expected = ranked(scores, one.index, 4)
                assert [each.index for each in ranking.listed] == expected.train.values.tolist()
            common = {each.index for each in one.rankings[0].listed} & {each.index for each in shown.rankings[0].listed}
            assert shown.rankings[0].note == f"{len(common)} of 4 are on the audit's list."
    reader = read(write_report(case.run, case.audit, case.targets, tmp_path / "p.html", k=4, methods=methods))
    buttons = [one for one in reader.of("button") if "data-method" in one.attributes]
    assert len(buttons) == 3 * len(page.explanations)
    assert [one.attributes["aria-pressed"] for one in buttons[:3]] == ["true", "false", "false"]


def test_images_at_both_ends_are_shown_with_the_parts_that_mattered_and_the_control(case: Case, tmp_path: Path) -> None:
    page = make_page(case.run, case.audit, case.targets, k=4, regions=2)
    for one in page.explanations:
        ends = [listed for ranking in one.rankings[:2] for listed in ranking.listed[:2]]
        assert [each.index for each in one.mapped] == [listed.index for listed in ends]
        assert [each.helped for each in one.mapped] == [listed.helped for listed in ends]
    one = page.explanations[0]
    maps = region_map(case.run, case.targets, [(one.index, each.index) for each in one.mapped])
    picture = case.run.examples.picture(one.mapped[0].index)
    assert picture is not None
    assert one.mapped[0].picture == png(np.asarray(overlay(picture, -maps[0], size=6)))
    assert len({each.picture for each in one.mapped}) > 1
    reader = read(write_report(case.run, case.audit, case.targets, tmp_path / "p.html", k=4, regions=2))
    shown = [each.attributes["data-picture"] for each in reader.of("img")]
    assert f"{one.key}-map-{one.mapped[0].index}" in shown
    assert f"own-{one.mapped[0].index}" in shown


def test_beside_region_maps_stands_what_the_logit_rests_on_in_the_target_itself(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("captum")
    page = make_page(case.run, case.audit, case.targets, k=4, regions=1)
    one = page.explanations[0]
    names = ["Grad-CAM"] if has_convolution(case.run.model) else []
    assert [name for name, _ in one.seen] == [*names, "Integrated Gradients"]
    picture = case.targets.picture(one.index)
    assert picture is not None
    whole = integrated_gradients(case.run, case.targets, [one.index])
    assert one.seen[-1][1] == png(np.asarray(overlay(picture, -whole[0], size=6)))
    reader = read(write_report(case.run, case.audit, case.targets, tmp_path / "p.html", k=4, regions=1))
    shown = [each.attributes["data-picture"] for each in reader.of("img")]
    assert f"{one.key}-seen-{len(names)}" in shown
    monkeypatch.setattr("whence.report.mapped.installed", lambda _: False)
    assert not make_page(case.run, case.audit, case.targets, k=4, regions=1).explanations[0].seen


def test_region_maps_of_what_is_no_image_are_refused(tmp_path: Path, case: Case) -> None:
    inputs = torch.randn(30, 3)
    run = trained(tmp_path / "run", nn.Linear(3, 2), (inputs, (inputs[:, 0] > 0).long()), functional.cross_entropy)
    targets = (inputs[:4], (inputs[:4, 0] > 0).long())
    with pytest.raises(ArgumentError, match=r"these training examples are none\. Leave `regions` out"):
        make_page(run, whence.audit(run, targets), whence.as_examples(targets), regions=1)
    with pytest.raises(ArgumentError, match=r"`regions` is how many images to map at each end, at least 0; got -1"):
        make_page(case.run, case.audit, case.targets, regions=-1)


def test_the_audit_of_another_run_is_refused_by_the_names_of_both(case: Case, tmp_path: Path) -> None:
    other = picture_case(tmp_path / "other")
    message = (
        rf"is of another run: run \({case.run.identity}\), not .*run \({other.run.identity}\)\. Give the run of the"
    )
    with pytest.raises(AuditError, match=message):
        write_report(other.run, case.audit, case.targets, tmp_path / "p.html")
    assert not (tmp_path / "p.html").exists()


def test_the_audit_of_a_run_that_has_gone_on_since_is_refused(case: Case, tmp_path: Path) -> None:
    earlier = whence.Audit(case.audit.data.assign_attrs(steps=case.run.steps - 1))
    message = rf"covers the first {case.run.steps - 1} steps of .*run, which has gone on to {case.run.steps} since"
    with pytest.raises(AuditError, match=message):
        write_report(case.run, earlier, case.targets, tmp_path / "p.html")
    assert not (tmp_path / "p.html").exists()


def test_as_many_other_targets_are_refused_also_after_saving(case: Case, tmp_path: Path) -> None:
    case.audit.save(tmp_path / "a.zarr")
    others = pictures(20, ("top", "middle", "bottom"), 2)
    message = (
        r"not the audited ones \(fingerprint blake2b:\w+, audited blake2b:\w+\)\. Give the examples that were audited"
    )
    for audit in (case.audit, whence.load_audit(tmp_path / "a.zarr")):
        with pytest.raises(ArgumentError, match=message):
            write_report(case.run, audit, others, tmp_path / "p.html")
    assert not (tmp_path / "p.html").exists()


def test_which_method_to_trust_is_said_in_a_sentence_a_table_and_a_plot(case: Case, tmp_path: Path) -> None:
    truth = removal_losses(case.run, case.targets, sets=4, share=0.2)
    same = attribute(GradDot(), case.run, case.targets)
    methods: dict[str, Attributor | xr.DataArray] = {
        "<b>dot</b>": same,
        "the same": GradDot(),
        "opposite": same.copy(data=-same.values),
    }
    table = compare_attributors(case.run, case.targets, methods, sets=4, share=0.2)
    assert np.allclose(
        table.data["estimate"], linear_datamodeling_score(truth, same).data["estimate"] * [[1], [1], [-1]]
    )
    page = make_page(case.run, case.audit, case.targets, methods=(GradDot(),), evaluation=table)
    assert page.trust is not None
    names = sorted(methods, key=lambda name: -table.value(name, "score").estimate)
    assert [row[0] for row in page.trust.rows] == names
    shown = read(write_report(case.run, case.audit, case.targets, tmp_path / "p.html", evaluation=table, k=1))
    (section,) = (one for one in shown.of("section") if one.attributes.get("id") == "trust")
    assert "<b>dot</b>" in section.text
    assert "4 trainings (without 8 of 40 examples" in section.text
    assert "#trust" in [one.attributes.get("href") for one in shown.of("a")]


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ([(0.8, 0.7, 0.9), (0.1, 0.0, 0.2)], "a ranked the trainings best: 0.80, where 1 is perfect and 0 is chance."),
        ([(0.8, 0.7, 0.9), (0.7, 0.6, 0.75)], "is chance. Not clearly behind: b."),
        (
            [(0.8, np.nan, np.nan), (0.1, np.nan, np.nan)],
            "a ranked the trainings best for a single target: 0.80, where",
        ),
        ([(0.1, -0.1, 0.3), (0.0, -0.2, 0.2)], "None of these methods ranked the trainings better than chance"),
    ],
)
def test_what_an_evaluation_says_is_put_no_stronger_than_its_intervals(
    case: Case, numbers: list[tuple[float, ...]], said: str
) -> None:
    measured = [[Interval(*one)] for one in numbers]
    table = table_of(measured, ("method", ["a", "b"]), ("measure", ["score"]), title="T", measure="m", interval="i")
    table.data.attrs |= {"run_identity": case.run.identity, "steps": case.run.steps}
    assert said in trust(case.run, table).verdict


def test_evaluations_of_another_run_or_of_none_are_refused(case: Case, tmp_path: Path) -> None:
    other = picture_case(tmp_path / "other")
    table = compare_attributors(other.run, other.targets, {"dot": GradDot()}, sets=3, share=0.2)
    message = (
        rf"The evaluation is of another run: run \({other.run.identity}\), not .*run \({case.run.identity}\)\. Give"
    )
    with pytest.raises(AuditError, match=message):
        make_page(case.run, case.audit, case.targets, evaluation=table)
    with pytest.raises(
        AuditError, match=r"covers the first 11 steps of .*run, which has gone on to 12 since\. Evaluate"
    ):
        make_page(other.run, other.audit, other.targets, evaluation=Table(table.data.assign_attrs(steps=11)))
    anonymous = Table(table.data.drop_attrs())
    with pytest.raises(
        AuditError, match=r"The evaluation does not say of which run it is\. Give one of .*run: evaluate"
    ):
        make_page(case.run, case.audit, case.targets, evaluation=anonymous)
    with pytest.raises(ArgumentError, match=r"`evaluation` is a table of whence\.evaluation, .*; got Dataset\."):
        trust(case.run, table.data)
