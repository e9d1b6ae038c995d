"""Numbers in words, pictures, curves and plots, each against an obvious reference."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image
from torch.nn import functional

import whence
from tests.report.making import Case, picture_case
from whence.report import curves
from whence.report.answers import Answerer, Answers
from whence.report.confusion import confusion
from whence.report.explain import blame, common_labels
from whence.report.influences import profile_figure, sorted_figure
from whence.report.listed import Listed, Ranking
from whence.report.pictures import look
from whence.report.words import label_name, number, percent, short_unit, signed


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return picture_case(tmp_path_factory.mktemp("parts"))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.0031, "0.00310"), (-2.5, "−2.50"), (12345.6, "12,346"), (2e-7, "2.00×10⁻⁷"), (999.96, "1,000")],
)
def test_numbers_keep_three_digits(value: float, text: str) -> None:
    assert number(value) == text
    assert signed(value) == (f"+{text}" if value > 0 else text)


def test_numbers_that_are_none_are_named() -> None:
    assert (number(float("nan")), number(float("-inf"))) == ("not a number", "−infinity")
    assert (percent(0.0001), percent(0.0), percent(float("nan"))) == ("< 0.1 %", "0 %", "not a number")


def test_labels_are_named_by_the_data_where_it_has_names() -> None:
    assert label_name(torch.tensor(1), ("cat", "dog")) == "dog"
    assert label_name(np.int64(7), ("cat", "dog")) == "7"
    assert (label_name(2.0, None), label_name(0.25, None)) == ("2", "0.2500")
    assert short_unit("units of target logit") == "units"


def test_a_picture_is_a_png_of_the_examples_own_pixels(case: Case) -> None:
    shown = look(case.targets, 4).picture or ""
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown.partition(",")[2]))))
    np.testing.assert_array_equal(pixels, case.targets.picture(4))


def test_a_large_colour_picture_is_made_small() -> None:
    examples = whence.as_examples((torch.rand(1, 3, 300, 200), torch.zeros(1, dtype=torch.int64)))
    shown = look(examples, 0).picture or ""
    assert Image.open(io.BytesIO(base64.b64decode(shown.partition(",")[2]))).size == (43, 64)
    assert len(shown) < 6000


def test_answers_are_those_of_the_model_at_each_state(case: Case) -> None:
    inputs, labels = case.targets.batch(range(20))
    for step in (0, case.run.steps):
        state = case.run.state_at(step)
        outputs = torch.func.functional_call(case.run.model, {**state.parameters, **state.buffers}, (inputs,))
        answers = Answerer(case.run).at(step, case.targets, range(20))
        torch.testing.assert_close(answers.losses, functional.cross_entropy(outputs.double(), labels, reduction="none"))
        assert answers.accuracy == pytest.approx(float((outputs.argmax(1) == labels).double().mean()))


def test_curves_run_from_the_first_state_to_the_last_and_agree_with_the_audit(case: Case) -> None:
    found = curves(case.run, case.targets)
    assert (found.epochs[0], found.epochs[-1]) == (0.0, 3.0)
    course = case.audit.data["course"].values.mean(0)
    assert found.target_loss[0] == pytest.approx(course[0], rel=1e-4)
    assert found.target_loss[-1] == pytest.approx(course[-1], rel=1e-4)
    assert list(found.epochs) == sorted(set(found.epochs))


def test_the_confusion_matrix_counts_pairs() -> None:
    labels, answers = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 1, 1, 0, 2, 0])
    found = confusion(Answers(torch.zeros(6, dtype=torch.float64), labels, answers, None), ("a", "b", "c"))
    assert found is not None
    assert [[cell.many for cell in row] for row in found.cells] == [[1, 1, 0], [0, 1, 0], [2, 0, 1]]
    assert "3 of 6 targets (50 %)" in found.summary
    assert "c taken for a, 2 times" in found.summary


def test_many_classes_are_listed_by_their_commonest_confusions() -> None:
    labels = torch.arange(40)
    found = confusion(Answers(torch.zeros(40, dtype=torch.float64), labels, labels.roll(1), None), None)
    assert found is not None
    assert found.cells == ()
    assert found.common[0] == ("0", "39", 1)


def test_the_sorted_curve_keeps_every_extreme_and_few_points() -> None:
    values = np.random.default_rng(0).standard_t(2, 5000)
    figure = sorted_figure("t", xr.DataArray(values, dims=("train",)), "nats", -1)
    helped, harmed = figure.traces
    assert len(helped["x"]) <= 400
    np.testing.assert_allclose(helped["y"][:100], np.sort(values)[:100], rtol=1e-4)
    np.testing.assert_allclose(harmed["y"][-100:], np.sort(values)[-100:], rtol=1e-4)


@pytest.mark.parametrize("helps", [-1, 1])
def test_the_heat_map_paints_help_at_the_low_end_whatever_its_sign(helps: int) -> None:
    profile = xr.DataArray(np.array([[4.0, -1.0]]) * helps, {"layer": ["fc"], "epoch": [0, 1]}, ("layer", "epoch"))
    (trace,) = profile_figure("t", profile, "nats", helps).traces
    assert trace["z"] == [[-2.0, 1.0]]
    assert trace["colorscale"][0][1] == "$helped"


def test_many_layers_and_epochs_are_summed_without_loss() -> None:
    values = np.random.default_rng(0).normal(size=(50, 130))
    profile = xr.DataArray(values, {"layer": [f"l{at}" for at in range(50)]}, ("layer", "epoch"))
    (trace,) = profile_figure("t", profile, "nats", -1).traces
    assert (len(trace["y"]), len(trace["x"])) == (30, 44)
    assert trace["y"][-1] == "21 other layers"
    shown = np.array(trace["z"])
    assert (np.sign(shown) * shown**2).sum() == pytest.approx(values.sum(), abs=0.05)


def _list(labels: str) -> tuple[Listed, ...]:
    return tuple(Listed(at, label, "+1", "+1", 100, False) for at, label in enumerate(labels))


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ("8898", "3 of 4 are labelled 8."),
        ("35353", "3 of 5 are labelled 3."),
        ("3355", "Of 4, 2 each are labelled 3 and 5."),
        ("335588", "Of 6, 2 each are labelled 3, 5 and 8."),
        ("35", "No two have the same label."),
        ("3", "It is labelled 3."),
        ("", "There are none."),
    ],
)
def test_the_commonest_labels_of_a_list_are_named_with_ties(labels: str, text: str) -> None:
    assert common_labels(_list(labels)) == text


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (
            "8838",
            "Of the 4 most harmful examples, 3 are labelled 8, the model's answer; none is labelled 9, the true class.",
        ),
        (
            "9833",
            "Of the 4 most harmful examples, 1 is labelled 8, the model's answer; 1 is labelled 9, the true class.",
        ),
        ("3", "The only harmful example is labelled 3."),
    ],
)
def test_a_wrong_answer_is_traced_to_labels_in_plain_words(labels: str, text: str) -> None:
    assert blame((Ranking("t0-all-harmful", "", "", _list(labels)),), "9", "8") == [text]


def test_a_page_needs_no_folder_of_its_own(tmp_path: Path, case: Case) -> None:
    found = curves(case.run, case.targets, ids=[1, 2])
    assert found.sampled == (40, 2)
    assert list(tmp_path.iterdir()) == []
