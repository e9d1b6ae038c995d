"""The page shows what a provenance network takes targets for, beside nearest pixels, and a training image distorted."""

from __future__ import annotations

import base64
import io
import itertools
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.report.making import Case, picture_case, pictures, read, table_case
from whence._errors import ArgumentError, ChangedDataError
from whence.provenance import (
    GaussianNoise,
    Objective,
    Optimization,
    ProvenanceNetwork,
    one_cycle,
    retrieve,
    small_backbone,
    train,
)
from whence.provenance.pixels import warped
from whence.report import write_report
from whence.report.page import Page, make_page
from whence.report.recognition import Recogniser


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return picture_case(tmp_path_factory.mktemp("pictures"), ("top", "<b>middle</b>", "bottom"))


def network_of(case: Case, conditional: bool = False) -> ProvenanceNetwork:
    torch.manual_seed(0)
    examples = case.run.examples
    network = ProvenanceNetwork(small_backbone(examples), examples, conditional=conditional)
    steps = Optimization(4e-3, batch_size=20, schedule=one_cycle)
    train(network, examples, 8, objective=Objective(smoothing=0.0), optimization=steps)
    return network


@pytest.fixture(scope="module", params=[False, True], ids=["independent", "conditional"])
def network(case: Case, request: pytest.FixtureRequest) -> ProvenanceNetwork:
    return network_of(case, request.param)


@pytest.fixture(scope="module")
def page(case: Case, network: ProvenanceNetwork) -> Page:
    return make_page(case.run, case.audit, case.targets, k=2, provenance=network)


def test_every_target_has_what_is_retrieved_for_it_and_the_nearest_in_pixels(
    page: Page, case: Case, network: ProvenanceNetwork
) -> None:
    known = case.run.examples.batch(range(40))[0].double().flatten(1)
    names = ("top", "<b>middle</b>", "bottom")
    for one in page.explanations:
        inputs = case.targets.batch([one.index])[0]
        found = retrieve(network, inputs, 5).isel(query=0)
        assert one.traced is not None
        assert [each.index for each in one.traced.exemplars] == found["exemplar"].values.tolist()
        labels = case.run.examples.labels[[each.index for each in one.traced.exemplars]]
        assert [each.label for each in one.traced.exemplars] == [names[label] for label in labels]
        told = [float(each.said.removeprefix("p ").replace("\N{MINUS SIGN}", "-")) for each in one.traced.exemplars]
        assert told == pytest.approx(np.exp(found["score"].values).tolist(), rel=0.06)
        assert f"It answers {names[int(found['predicted'])]}, with a confidence of " in one.traced.answer
        distances = [math.dist(inputs.double().flatten().tolist(), row.tolist()) for row in known]
        nearest = sorted(range(40), key=distances.__getitem__)[:5]
        assert [each.index for each in one.traced.nearest] == nearest
        assert one.traced.nearest[0].said.startswith("d ")
        both = len(set(nearest) & set(found["exemplar"].values.tolist()))
        assert one.traced.shared == f"{both} of 5 are also named by the network."


def test_the_verdict_counts_right_answers_and_images_taken_for_themselves(
    page: Page, case: Case, network: ProvenanceNetwork
) -> None:
    right = sum(
        int(retrieve(network, case.targets.batch([one])[0], 1)["predicted"][0]) == int(case.targets.labels[one])
        for one in range(20)
    )
    own = sum(
        int(retrieve(network, case.run.examples.batch([one])[0], 1)["exemplar"][0, 0]) == one for one in range(40)
    )
    assert page.recognition is not None
    found = re.fullmatch(
        r"The network answers ([\d.]+) % of 20 targets rightly, and takes ([\d.]+) % of 40 training images for "
        r"themselves\.",
        page.recognition.verdict,
    )
    assert found is not None
    assert [float(one) for one in found.groups()] == pytest.approx([100 * right / 20, 100 * own / 40], abs=0.06)


def test_each_step_of_a_slider_is_the_image_distorted_and_what_is_retrieved_for_it(
    page: Page, case: Case, network: ProvenanceNetwork
) -> None:
    recognition = page.recognition
    assert recognition is not None
    assert [one.name for one in recognition.slides] == ["Shift", "Rotation", "Noise"]
    own = case.run.examples.batch([recognition.index])[0]
    low, high = 0.0, 1.0
    for slide in recognition.slides:
        assert len(slide.steps) == len(slide.rows) == 9
        for place, step in enumerate(slide.steps):
            share = torch.tensor([place / 8])
            still, one = torch.zeros(1), torch.ones(1)
            moved = share * 6 / 28 * 6
            view = {
                "Shift": warped(own, still, one, moved, moved, low),
                "Rotation": warped(own, 60 * share, one, still, still, low),
                "Noise": GaussianNoise(0.4 * place / 8, low, high)(own, torch.Generator().manual_seed(0)),
            }[slide.name]
            first = int(retrieve(network, view, 1)["exemplar"][0, 0])
            assert (step.found.index, step.exact) == (first, first == recognition.index)
            with Image.open(io.BytesIO(base64.b64decode(step.picture.partition(",")[2]))) as drawn:
                np.testing.assert_allclose(np.asarray(drawn) / 255, view[0, 0].numpy(), atol=0.003)
    assert [one.steps[0].exact for one in recognition.slides] == [recognition.slides[0].steps[0].exact] * 3
    assert [one.steps[-1].strength for one in recognition.slides] == ["1.3 px", "60°", "σ = 0.40"]


def test_the_page_has_the_panel_its_pictures_and_its_honest_words(
    case: Case, network: ProvenanceNetwork, tmp_path: Path
) -> None:
    shown = read(write_report(case.run, case.audit, case.targets, tmp_path / "p.html", k=2, provenance=network))
    assert shown.wrong == []
    (section,) = (one for one in shown.of("section") if one.attributes.get("id") == "provenance")
    assert "and no cause: without that image the answer may well be the same" in " ".join(section.text.split())
    traced = [one for one in shown.of("section") if one.attributes.get("class") == "tracing"]
    assert len(traced) == len(shown.of("article"))
    assert all("A retrieved image is not a cause." in one.text for one in traced)
    data = json.loads(next(one.text for one in shown.of("script") if one.attributes.get("id") == "pictures"))
    images = [one for one in shown.of("img") if one.attributes.get("data-picture")]
    assert {one.attributes["data-picture"] for one in images} == set(data)
    assert all(one.attributes.get("alt") for one in images)
    ranges = [one for one in shown.of("input") if one.attributes.get("type") == "range"]
    assert [one.attributes["data-slide"] for one in ranges] == ["slide-shift", "slide-rotation", "slide-noise"]
    assert len([one for one in shown.elements if "data-step" in one.attributes]) == 27
    levels = [int(one.tag[1]) for one in shown.of("h1", "h2", "h3", "h4", "h5", "h6")]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_without_a_network_there_is_no_panel(case: Case, tmp_path: Path) -> None:
    text = write_report(case.run, case.audit, case.targets, tmp_path / "p.html", k=2).read_text()
    assert 'id="provenance"' not in text
    assert "data-slide" not in text.partition("<script>")[0]


def test_a_network_of_other_data_and_data_of_no_images_are_refused(case: Case, tmp_path: Path) -> None:
    others = pictures(40, ("top", "middle", "bottom"), 9)
    other = ProvenanceNetwork(small_backbone(others), others)
    with pytest.raises(ChangedDataError, match=r"The network's index is of other data: blake2b:\w+, 40 examples; this"):
        write_report(case.run, case.audit, case.targets, tmp_path / "p.html", provenance=other)
    rows = table_case(tmp_path / "rows")
    flat = rows.run.examples
    made = ProvenanceNetwork(torch.nn.Linear(15, 4), (flat.batch(range(24))[0], torch.arange(24) % 2))
    made.fingerprint = flat.fingerprint
    with pytest.raises(ArgumentError, match=r"takes pictures, floating-point .* a batch is \(24, 15\)"):
        Recogniser(made, flat)
