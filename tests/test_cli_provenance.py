"""Each application of provenance networks has its command: it prints the library's tables and keeps the pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from tests.evaluation.provenance.cases import Data, digits
from whence import cli
from whence.evaluation import load_table
from whence.evaluation.provenance import trainings
from whence.evaluation.provenance.applications import entropy_findings, membership_findings
from whence.provenance import open_folder

DATA, TEST = "tests.test_cli_provenance:some_digits", "tests.test_cli_provenance:other_digits"
TRAINING = ("--test", TEST, "--epochs", 1, "--seeds", 1, "--limit", 60, "--processes", 1)  # what is patched is of this


def some_digits() -> Data:
    """Return the digits to train on."""
    return digits(120)


def other_digits() -> Data:
    """Return others."""
    return digits(40, 200)


def call(*words: object) -> Result:
    return CliRunner().invoke(cli.app, ["provenance", *map(str, words)])


def told(*words: object) -> Any:
    """Return what a command prints as JSON."""
    result = call(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small gain nothing from a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw few: intervals are tested elsewhere."""
    monkeypatch.setattr("whence.evaluation.membership.RESAMPLES", 20)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("provenance") / "network"
    result = call("train", DATA, folder, "--epochs", 2)
    assert result.exit_code == 0, result.output
    return folder


def names(folder: Path) -> set[str]:
    return {one.name for one in folder.iterdir()}


def test_membership_prints_and_keeps_what_the_library_measures(network: Path, tmp_path: Path) -> None:
    words = ("membership", network, "--test", TEST, "--limit", 30, "--condition", "rotation ±30")
    result = call(*words, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    opened = open_folder(network, some_digits()).network
    expected = membership_findings(opened, some_digits(), other_digits(), limit=30, conditions=["rotation ±30"])
    assert str(expected) in result.stdout
    assert f"kept  {tmp_path / 'out'}" in result.stdout
    assert names(tmp_path / "out") == {"rotation ±30°.json", "rotation ±30°.html"}
    assert str(load_table(tmp_path / "out" / "rotation ±30°.json")) == str(expected)
    again = call(*words, "--out", tmp_path / "out")
    assert again.exit_code == 1
    assert "Something stands at" in again.stderr


def test_entropy_ranks_each_class_and_draws_both_ends(network: Path, tmp_path: Path) -> None:
    found = told("entropy", network, "--each", 2, "--out", tmp_path / "out")
    opened = open_folder(network, some_digits()).network
    assert found["kept"] == str(tmp_path / "out")
    expected = entropy_findings(opened, some_digits(), each=2).plain()["entropy"]
    assert json.loads((tmp_path / "out" / "entropy.json").read_text()) == expected
    with Image.open(tmp_path / "out" / "entropy.png") as drawn:
        assert drawn.height > 10 * 48


def test_robustness_trains_a_classifier_once_in_the_networks_folder(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("robustness", network, "--test", TEST, "--limit", 10, "--condition", "no distortion")
    assert call(*words, "--condition", "fog").exit_code == 1
    assert not (network / "isolated").exists()  # refused before the training
    result = call(*words, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "| condition | provenance network | neighbours in the classifier | isolated classifier | nearest in" in (
        result.stdout
    )
    tables = {f"{few}.{end}" for few in ("first", "any of five", "majority of five") for end in ("json", "html")}
    assert names(tmp_path / "out") == {"conditions.png", *tables}
    kept = {file: file.stat().st_mtime_ns for file in (network / "isolated").rglob("*")}
    assert kept
    monkeypatch.setattr("whence.provenance.training._epoch", None)
    found = told(*words)
    assert found["first"]["rows"] == ["no distortion"]
    assert {file: file.stat().st_mtime_ns for file in (network / "isolated").rglob("*")} == kept


def test_styles_are_of_the_classes_that_are_named(network: Path, tmp_path: Path) -> None:
    found = told("styles", network, "--class", 3, "--class", 6, "--clusters", 2, "--out", tmp_path / "out")
    assert found["kept"] == str(tmp_path / "out")
    assert names(tmp_path / "out") == {"styles.json", "styles of 3.png", "styles of 6.png"}
    rows = json.loads((tmp_path / "out" / "styles.json").read_text())["rows"]
    assert [row[:2] for row in rows] == [["3", 0], ["3", 1], ["6", 0], ["6", 1]]


def test_a_map_is_of_the_training_data_or_of_other_data(network: Path, tmp_path: Path) -> None:
    result = call("map", network, "--test", TEST, "--out", tmp_path / "out", "--neighbours", 4)
    assert result.exit_code == 0, result.output
    assert "Map of 40 inputs, TSNE(perplexity=4.0, seed=0)" in result.stdout
    assert {"map.html", "map.json"} <= names(tmp_path / "out")
    assert "Map of 30 inputs" in told("map", network, "--limit", 30)["map"]["title"]


@pytest.mark.parametrize(
    ("words", "tables"),
    [
        (("curve", "--alpha", "0,1"), {"curve"}),
        (("scaling", "--strategies", "stratified", "--shares", "1"), {"stratified"}),
        (("sharing", "--levels", "1"), {"parameters", "accuracy"}),
    ],
)
def test_comparisons_are_kept_with_their_pictures_and_go_on_where_they_stopped(
    words: tuple[str, ...], tables: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = (words[0], DATA, *words[1:], *TRAINING, "--path", tmp_path / "trainings")

    def stop(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(trainings, "train", stop)
        stopped = call(*command)
    assert stopped.exit_code == 130
    assert stopped.stderr == "whence: stopped; run the same command again to go on where it stopped.\n"
    found = told(*command)
    assert set(found) == tables
    monkeypatch.setattr(trainings, "train", stop)  # what is kept is trained no more
    result = call(*command, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    figures = {f"{one}.html" for one in tables - {"parameters"}}
    assert names(tmp_path / "out") == {f"{one}.json" for one in tables} | figures
    for one in tables:
        assert json.loads((tmp_path / "out" / f"{one}.json").read_text()) == found[one]
        assert found[one]["title"] in result.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("membership", "{net}", "--test", TEST, "--limit", 0), "--limit must be at least 1, got 0."),
        (("membership", "{net}", "--test", "nowhere"), "No data 'nowhere': give digits"),
        (("membership", "{net}", "--test", TEST, "--condition", "fog"), "No condition 'fog' among the 15 for these"),
        (("membership", "{new}", "--test", TEST), "new holds no provenance network: "),
        (("entropy", "{net}", "--each", 0), "`each` must be a whole number, at least 1; got 0."),
        (("entropy", "{net}", "--data", TEST), "names examples of other data, blake2b:"),
        (("styles", "{net}", "--class", "cat"), "No class 'cat' among the 10 of the training data (similar: none"),
        (("styles", "{net}", "--clusters", 0), "`clusters` must be a whole number, at least 1; got 0."),
        (("map", "{net}", "--neighbours", 200), "`perplexity` must be above 0 and below the 120 inputs; got 200.0."),
        (("curve", DATA, *TRAINING, "--alpha", "0,a"), "--alpha must be numbers with commas between, such as 0,0.5,1"),
        (("curve", DATA, *TRAINING, "--alpha", "2"), "`mixing` must be shares from 0 to 1, at least one; got [2]."),
        (("curve", DATA, "--test", TEST, "--seeds", 0), "`seeds` must be a whole number, at least 1; got 0."),
        (
            ("scaling", DATA, *TRAINING, "--shares", "0.1"),
            "A share of 0.1 keeps 1 picture(s) of the largest class, and five",
        ),
        (("scaling", DATA, *TRAINING, "--strategies", "divers"), "No strategy 'divers' (similar: diverse)"),
        (("scaling", DATA, *TRAINING, "--audit", "{new}"), "new: "),
        (("sharing", DATA, *TRAINING, "--sizes", "tiny"), "'tiny'"),
        (("sharing", DATA, *TRAINING, "--out", "{net}"), "Something stands at"),
    ],
)
def test_what_cannot_be_done_is_named_in_one_line(
    words: tuple[object, ...], message: str, network: Path, tmp_path: Path
) -> None:
    places = {"{net}": network, "{new}": tmp_path / "new"}
    result = call(*(places.get(str(one), one) for one in words))
    assert result.exit_code == 1, result.output
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
