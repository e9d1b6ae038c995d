"""The page about an invariant set: every sample with its certificate, failures marked, nothing fetched."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.report.making import Case, DigitPrior, Reader, picture_case, read
from whence._errors import ArgumentError, AuditError, UnreachedError
from whence.attribution import NearestNeighbours, Trained, as_trained
from whence.datasets import load_digits
from whence.invariants import (
    GaussNewton,
    InvariantSet,
    Objective,
    Relu,
    SparseAutoencoder,
    TrainedAutoencoder,
    invariants,
    load_invariants,
    logits,
    low_pass,
)
from whence.invariants.priors import Pixels
from whence.report import InvariantSettings, gallery, study_invariants, write_gallery, write_report
from whence.report.demo import small_network
from whence.report.gallery_plots import ring_powers
from whence.report.words import number


@pytest.fixture(scope="module")
def trained() -> Trained:
    return as_trained(small_network(), load_digits("train"), loss=functional.cross_entropy)


@pytest.fixture(scope="module")
def objective(trained: Trained) -> Objective:
    return logits(trained.model, [3])


@pytest.fixture(scope="module")
def found(objective: Objective) -> InvariantSet:
    query = load_digits("test")[17][0]
    return invariants(objective, query, DigitPrior(), 12, pool=64)


@pytest.fixture(scope="module")
def autoencoder() -> TrainedAutoencoder:
    made = SparseAutoencoder(48, 48, Relu(0.0))
    with torch.no_grad():
        for name, one in made.named_parameters():
            one.copy_(torch.eye(48) if name in ("encoder", "decoder") else torch.zeros(48))
    return TrainedAutoencoder(made, "dense1")


@pytest.fixture(scope="module")
def page(
    found: InvariantSet,
    objective: Objective,
    trained: Trained,
    autoencoder: TrainedAutoencoder,
    tmp_path_factory: pytest.TempPathFactory,
) -> Reader:
    path = tmp_path_factory.mktemp("gallery") / "new" / "page.html"
    assert write_gallery(found, objective, trained, path, telling=3, autoencoder=autoencoder) == path
    return read(path)


def test_every_sample_is_shown_with_its_value_and_certificate(page: Reader, found: InvariantSet) -> None:
    assert page.wrong == []
    alts = [one.attributes["alt"] or "" for one in page.of("img") if (one.attributes["alt"] or "").startswith("sample")]
    told = found.certificate
    for row in range(len(found)):
        assert any(one.startswith(f"sample {row}, answered ") and one.endswith("solved") for one in alts), row
    cards = [one.text for one in page.of("dl") if one.attributes.get("class") == "certificate"]
    assert len(cards) == len(found)
    quantiles = sorted(f"{one:.3f}" for one in told["latent_quantile"].values)
    assert sorted(one for card in cards for one in re.findall(r"quantile(\d\.\d+)", card)) == quantiles


def test_every_picture_has_words_and_data_and_every_section_its_heading(page: Reader) -> None:
    assert all(one.attributes.get("alt") for one in page.of("img"))
    (pictures,) = (one.text for one in page.of("script") if one.attributes.get("id") == "pictures")
    assert all(f'"{one.attributes["data-picture"]}"' in pictures for one in page.of("img"))
    names = {one.attributes["id"] for one in page.elements if one.attributes.get("id")}
    assert all(one.attributes.get("aria-labelledby") in names for one in page.of("section"))
    assert {"samples", "details", "nearest", "features", "certificates"} <= names
    links = [str(one.attributes["href"]) for one in page.of("a")]
    assert all(one.startswith("#") and one[1:] in names for one in links)


def test_the_page_fetches_nothing_and_names_its_scripts_by_checksum(page: Reader) -> None:
    (policy,) = (one.attributes["content"] for one in page.of("meta") if "http-equiv" in one.attributes)
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert policy.count("'sha256-") == 2
    assert page.of("link", "iframe") == []
    assert not [
        one
        for one in page.of("script", "img")
        if str(one.attributes.get("src", "data:")) != "data:," and "src" in one.attributes
    ]


def test_the_curve_over_cutoffs_is_the_distance_of_filtered_values(
    found: InvariantSet, objective: Objective, trained: Trained
) -> None:
    figure = next(one for one in gallery(found, objective, trained).figures if one.key == "gallery-deviation")
    query = next(one for one in figure.traces if one["name"] == "query")
    goal = float(objective(found.query[None]))
    by_hand = [abs(float(objective(low_pass(found.query, cutoff)[None])) - goal) for cutoff in query["x"]]
    assert query["x"] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert query["y"] == pytest.approx(by_hand, abs=1e-4)
    assert [row[0] for row in figure.rows] == ["query", "samples, median", "10 %", "90 %"]


def test_a_wave_has_all_its_power_in_its_ring() -> None:
    up = torch.arange(16, dtype=torch.float64)
    wave = torch.cos(2 * torch.pi * 3 * up / 16).expand(1, 1, 16, 16)
    powers = ring_powers(wave)[0]
    assert powers.argmax() == 2
    assert float(powers[2]) > 1e12 * float(powers.sum() - powers[2])


def test_the_nearest_training_examples_are_those_of_the_attributor(
    found: InvariantSet, objective: Objective, trained: Trained
) -> None:
    made = gallery(found, objective, trained, attributor=NearestNeighbours(), telling=2)
    inputs = trained.examples.batch(range(len(trained.examples)))[0].flatten(1)
    shown = [found.query, *(found.inputs[row] for row in made.panel.places[:2])]
    assert [one.name for one in made.nearest] == ["query", *(f"sample {row}" for row in made.panel.places[:2])]
    for near, one in zip(made.nearest, shown, strict=True):
        by_hand = (inputs - one.flatten()).norm(dim=1).argsort()[:5].tolist()
        assert [each.index for each in near.listed] == by_hand


def test_failures_are_shown_last_and_marked(objective: Objective, trained: Trained, tmp_path: Path) -> None:
    query = load_digits("test")[17][0]
    with pytest.raises(UnreachedError) as caught:
        invariants(objective, query, DigitPrior(), 4, pool=64, goal=torch.tensor([1e6]))
    made = gallery(caught.value.found, objective, trained)
    assert made.panel.telling == 0
    assert made.panel.verdict.startswith("None of 4 samples reached the value 1,000,000 of logit 3: the nearest is ")
    text = write_gallery(caught.value.found, objective, trained, tmp_path / "page.html").read_text()
    assert text.count('<li class="unsolved">') == 4
    assert "they are no invariants" in text
    residuals = caught.value.found.certificate.residual.values
    assert list(made.panel.places) == np.argsort(residuals).tolist()


def test_an_answer_that_is_another_is_counted_and_marked(found: InvariantSet, objective: Objective) -> None:
    class Split(nn.Module):
        """Answers 1 where the picture is bright."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            bright = x.flatten(1).mean(1)
            return torch.stack([torch.full_like(bright, 0.3), bright], 1)

    made = gallery(found, objective, Split())
    bright = found.inputs.flatten(1).mean(1) > 0.3
    own = bool(found.query.mean() > 0.3)
    many = int((bright != own).sum())
    assert sum(one.other for one in made.panel.samples) == many
    assert (f"{many} of these it answers otherwise" if many else "and on all of these") in made.panel.verdict
    assert made.nearest == ()


def test_inputs_that_are_no_pictures_are_shown_by_their_numbers(tmp_path: Path) -> None:
    class Plane:
        latent_shape = (2,)

        def decode(self, latents: torch.Tensor) -> torch.Tensor:
            return latents

    objective = Objective(lambda points: points.square().sum(1), "squared radius")
    query = torch.tensor([1.0, 0.5])
    facts = study_invariants(
        nn.Linear(2, 2), objective, query, InvariantSettings(Plane(), 3), page=tmp_path / "page.html"
    )
    page = read(tmp_path / "page.html")
    assert facts["solved"] == 3
    assert page.of("img") == []
    assert "value[1]" in page.of("main")[0].text
    assert not any(one.attributes.get("id") == "details" for one in page.of("section"))


def test_a_study_keeps_the_set_the_pictures_and_the_page(
    objective: Objective, trained: Trained, tmp_path: Path
) -> None:
    places: dict[str, Any] = {"out": tmp_path / "s.zarr", "pictures": tmp_path / "p", "page": tmp_path / "g.html"}
    query = load_digits("test")[17][0]
    facts = study_invariants(trained, objective, query, InvariantSettings(DigitPrior(), 5, pool=64), **places)
    kept = load_invariants(tmp_path / "s.zarr")
    assert [one["residual"] for one in facts["samples"]] == kept.certificate.residual.values.tolist()
    assert facts["solved"] == int(kept.solved.sum()) == 5
    assert sorted(one.name for one in (tmp_path / "p").iterdir()) == [
        "query.png",
        *(f"sample-{row:03d}.png" for row in range(5)),
    ]
    cost = 64 + float(kept.certificate.evaluations.sum())  # the pool was drawn for this study
    assert facts["evaluations_per_solved"] == pytest.approx(cost / 5)
    with pytest.raises(AuditError, match=r"Something stands at .*s.zarr already"):
        study_invariants(trained, objective, query, InvariantSettings(DigitPrior(), 5), out=tmp_path / "s.zarr")


def test_a_study_names_the_most_telling_in_the_order_of_its_page(
    objective: Objective, trained: Trained, tmp_path: Path
) -> None:
    path, settings = tmp_path / "g.html", InvariantSettings(DigitPrior(), 12, pool=64)
    facts = study_invariants(trained, objective, load_digits("test")[17][0], settings, page=path)
    names = re.findall(r'class="says"[^>]*>.*?<small>sample (\d+)</small>', path.read_text())
    assert [int(one) for one in names][: len(facts["most_telling"])] == facts["most_telling"]
    assert sorted(int(one) for one in names) == list(range(12))


def test_a_certificate_of_filtered_samples_has_a_column_more(trained: Trained, objective: Objective) -> None:
    query = load_digits("test")[17][0]
    filtered = invariants(objective.within(1.0), query, DigitPrior(), 2, pool=64, cutoff=0.5)
    panel = gallery(filtered, objective, trained).panel
    assert panel.columns[3:6] == ("residual", "in spreads", "filtered residual")
    assert panel.rows[0][5] == number(float(filtered.certificate.filtered_residual[panel.places[0]]), 2)
    assert all(len(row) == len(panel.columns) for row in panel.rows)


def test_places_that_nothing_could_be_written_to_are_refused_before_the_search(tmp_path: Path) -> None:
    calls = []

    def called(inputs: torch.Tensor) -> torch.Tensor:
        calls.append(len(inputs))
        return inputs.sum(1)

    table = Pixels(torch.zeros(7), torch.tensor(1.0))
    words: tuple[Any, ...] = (nn.Identity(), Objective(called, "sum"), torch.zeros(7), InvariantSettings(table, 2))
    with pytest.raises(ArgumentError, match=r"is a folder; give the path of a file, such as .*invariants\.html"):
        study_invariants(*words, page=tmp_path)
    with pytest.raises(ArgumentError, match=r"Inputs of shape \(7,\) are no pictures: .* Leave the pictures out"):
        study_invariants(*words, pictures=tmp_path / "p")
    assert not calls


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return picture_case(tmp_path_factory.mktemp("case"))


def test_an_interrupt_ends_the_searches_of_all_targets(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_solver: object, _problem: object, _search: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(GaussNewton, "solve", stop)
    settings = InvariantSettings(Pixels.of(case.run.examples), 3, pool=64)
    path = write_report(case.run, case.audit, case.targets, tmp_path / "p.html", chosen=[0, 1, 2], invariants=settings)
    assert path.read_text().count("The network cannot tell these from your image</h4>") == 1


def test_a_page_that_is_a_folder_is_refused(
    found: InvariantSet, objective: Objective, trained: Trained, tmp_path: Path
) -> None:
    with pytest.raises(ArgumentError, match=r"is a folder; give the path of a file, such as .*invariants\.html"):
        write_gallery(found, objective, trained, tmp_path)


def test_a_report_shows_what_keeps_the_logit_of_the_predicted_class(case: Case, tmp_path: Path) -> None:
    settings = InvariantSettings(Pixels.of(case.run.examples), 3, limit=2, pool=64)
    path = write_report(case.run, case.audit, case.targets, tmp_path / "p.html", chosen=[0, 1, 2], invariants=settings)
    page, text = read(path), path.read_text()
    heads = [one for one in page.of("h4") if one.text == "The network cannot tell these from your image"]
    assert [one.attributes["id"] for one in heads] == ["t0-invariants", "t1-invariants"]  # and none beyond the limit
    alts = [one.attributes["alt"] or "" for one in page.of("img") if "-indistinct-" in str(one.attributes)]
    assert len(alts) == 6
    model, query = as_trained(case.run).model, case.targets.batch([1])[0]
    predicted = int(model(query).argmax())
    value = number(float(model(query).detach()[0, predicted]), 4)
    assert f"3 of 3 samples take the value {value} of logit {predicted} that the query takes" in text


@pytest.mark.parametrize("name", ["samples", "limit"])
def test_settings_that_ask_for_nothing_are_refused(name: str) -> None:
    with pytest.raises(ArgumentError, match=f"`{name}` of invariants is a whole number, at least 1; got 0"):
        InvariantSettings(DigitPrior(), **{name: 0})  # type: ignore[arg-type]
