"""Each command does what the library call does, prints it, and fails in one line."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner, Result

import whence
from whence import cli
from whence._errors import ArgumentError
from whence.attribution import Attributor, load_scores
from whence.cli import commands
from whence.cli.attributing import METHODS_SAID
from whence.cli.ending import show
from whence.counterfactual import load_effects
from whence.datasets import load_digits
from whence.evaluation import evaluate_provenance, load_table
from whence.invariants.priors import prior_facts
from whence.provenance import open_folder, retrieve
from whence.provenance.folders import HEADS
from whence.regions import grad_cam, integrated_gradients, load_maps, overlay, side_by_side
from whence.report import demo as demo_module
from whence.report.beside import last_convolution
from whence.report.methods import METHODS, RECIPES, named_method, named_recipe

COMMANDS = (
    *("demo", "info", "verify", "audit", "counterfactual", "report", "attribute", "regions", "evaluate"),
    *("adversarial", "invariants"),
)
APPLICATIONS = ("membership", "entropy", "robustness", "styles", "map", "curve", "scaling", "sharing")
GROUPS = {"provenance": ("train", "retrieve", "evaluate", *APPLICATIONS), "prior": ("train",)}
MODEL = ("--model", "whence.report.demo:small_network")
DIGITS = (*MODEL, "--data", "digits")


def call(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small gain nothing from a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a demonstration that was stopped once, and went on."""

    def stop(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    folder = tmp_path_factory.mktemp("demo") / "made"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(demo_module, "audit", stop)
        result = call("demo", "--out", folder, "--epochs", 2)
    assert result.exit_code == 130
    assert result.stderr == "whence: stopped; run the same command again to go on where it stopped.\n"
    assert json.loads(call("info", folder / "run", "--json").stdout)["steps"] == 46
    result = call("demo", "--out", folder, "--epochs", 2)
    assert result.exit_code == 0, result.output
    (folder.parent / "told").write_text(result.stdout)
    return folder


def test_a_stopped_demonstration_goes_on_and_says_how_complete_its_audit_is(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = (made.parent / "told").read_text()
    assert str(made / "report.html") in told
    assert "355 targets: mean error" in told
    assert (made / "report.html").stat().st_size < 8_000_000
    assert re.search(r"^recognised +The network answers [\d.]+ % of 355 targets rightly, and takes ", told, re.M)
    text = (made / "report.html").read_text()
    assert all(f'id="{part}"' in text for part in ("provenance", "alike"))
    panels = text.count("<article") - 1  # one is the map's
    assert text.count("The network cannot tell these from your image") == panels > 0
    page = made / "report.html"
    monkeypatch.setattr(demo_module, "write_report", lambda *_, **__: page)  # it was written once already
    found = json.loads(call("demo", "--out", made, "--epochs", 2, "--json").stdout)  # what is there is used
    assert found["page"] == str(page)
    assert found["provenance"] == str(made / "provenance")
    assert found["prior"] == str(made / "prior")
    assert found["correlation"] > 0.999
    assert found["mean_error"] < 1e-4


def test_a_demonstration_does_not_mix_with_another(made: Path) -> None:
    result = call("demo", "--out", made, "--epochs", 3)
    assert result.exit_code == 1
    assert "holds another demonstration: an audit of 46 steps and 355 targets, not of 69 and 355" in result.stderr
    assert json.loads(call("info", made / "run", "--json").stdout)["steps"] == 46


def test_info_needs_the_run_alone(made: Path) -> None:
    found = json.loads(call("info", made / "run", "--json").stdout)
    expected = {"model": "SmallNet", "optimizer": "Adam", "steps": 46, "epochs": 2, "training_examples": 1442}
    assert {key: found[key] for key in expected} == expected
    assert found["trained_parameters"] == 4858
    assert "training examples   1,442\n" in call("info", made / "run").stdout


def test_verify_walks_the_run_again(made: Path) -> None:
    found = json.loads(call("verify", made / "run", *DIGITS, "--json").stdout)
    assert found["steps"] == 46
    assert found["deviation"] < 1e-3
    assert found["repaired"] == []
    text = call("verify", made / "run", *DIGITS).stdout
    assert "repaired" not in text
    assert "()" not in text
    assert re.search(r"^steps +46$", text, re.MULTILINE)


def test_verify_says_what_it_repaired(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "run", tmp_path / "run")
    last = max((tmp_path / "run" / "snapshots").iterdir())
    last.write_bytes(last.read_bytes()[:-1])
    result = call("verify", tmp_path / "run", *DIGITS, "--repair")
    assert result.exit_code == 0, result.output
    assert re.search(r"^repaired +46$", result.stdout, re.MULTILINE)


def test_audit_and_report_do_what_the_library_does(made: Path, tmp_path: Path) -> None:
    place, page = tmp_path / "a.zarr", tmp_path / "p.html"
    options = ("--quantity", "logit", "--classes", "0,3", "--by", "layer,epoch", "--limit", 3, "--subsample", 2)
    result = call("audit", made / "run", *DIGITS, "--targets", "digits", "--out", place, *options, "--json")
    assert result.exit_code == 0, result.output
    found = whence.load_audit(place)
    assert found.influence.dims == ("target", "train", "layer", "epoch")
    assert found.influence.coords["target"].values.tolist() == ["0:0", "0:3", "1:0", "1:3", "2:0", "2:3"]
    assert json.loads(result.stdout)["mean_error"] == pytest.approx(found.completeness.mean_error)
    shown = ("--target", "1:3", "--k", 2)
    result = call("report", made / "run", "--audit", place, *DIGITS, "--targets", "digits", "--out", page, *shown)
    assert result.exit_code == 0, result.output
    expected = [f"page          {page}", f"completeness  {found.completeness}"]
    assert result.stdout.splitlines() == expected
    assert page.read_text().count("<article") == 1


def test_factories_of_the_current_folder_are_found(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_training.py").write_text(
        "from torch import nn\n"
        "from whence.datasets import load_digits\n"
        "from whence.report.demo import SmallNet\n"
        "cross_entropy = nn.CrossEntropyLoss\n"
        "def correct(outputs, labels): return outputs[range(len(labels)), labels]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_training", raising=False)
    words = ("--model", "my_training:SmallNet", "--data", "my_training:load_digits", "--targets", "digits")
    more = ("--loss", "my_training:cross_entropy", "--quantity", "my_training:correct", "--limit", 1)
    result = call("audit", made / "run", *words, *more, "--out", "a.zarr")
    assert result.exit_code == 0, result.output
    assert whence.load_audit("a.zarr").data.attrs["quantity"] == "correct"
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "make_model"), "--model 'make_model' must read package.module:name, such as train:make_model."),
        (("--model", "no_such:net"), "--model no_such:net: cannot import no_such (No module named 'no_such')."),
        (("--model", "whence.report.demo:smal_network"), "has no 'smal_network' (similar: small_network)"),
        (("--model", "whence.report.demo:Plan"), "raised TypeError when called without arguments"),
        (("--model", "builtins:dict"), "--model builtins:dict gives a dict, not a torch.nn.Module."),
        (("--model", "whence.report.demo:lenet5"), "The run was recorded with a SmallNet; the model given, a LeNet5"),
        ((*MODEL, "--loss", "math:pi"), "--loss math:pi is a float, which cannot be called (outputs, labels)"),
        ((*MODEL, "--data", "no_such:data"), "--data no_such:data: cannot import no_such (No module named 'no_such')."),
        ((*MODEL, "--data", "whence.datasets:lod_digits"), "--data whence.datasets:lod_digits: whence.datasets has no"),
        ((*MODEL, "--data", "nowhere"), "No data 'nowhere': give digits, mnist, mnist:FOLDER, a .parquet file"),
        ((*MODEL, "--data", "mnist:/nowhere"), "/nowhere"),
        ((*MODEL, "--data", "missing.parquet"), "missing.parquet"),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line(made: Path, words: tuple[str, ...], message: str) -> None:
    data = () if "--data" in words else ("--data", "digits")
    result = call("verify", made / "run", *words, *data)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.startswith("whence: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_arguments_of_an_audit_are_checked(made: Path, tmp_path: Path) -> None:
    common = ("audit", made / "run", *DIGITS, "--targets", "digits", "--out", tmp_path / "a.zarr", "--limit", 1)
    for words, message in (
        (("--classes", "a"), "--classes must be all, or numbers such as 0,3; got 'a'."),
        (("--quantity", "lost"), "No quantity 'lost'."),
        (("--precision", "float8"), "No precision 'float8'."),
        (("--by", "layer,month"), "month"),
    ):
        result = call(*common, *words)
        assert result.exit_code == 1, words
        assert message in result.stderr
    assert not (tmp_path / "a.zarr").exists()


def test_a_finished_audit_is_not_made_again_and_the_error_says_how_to_go_on(made: Path) -> None:
    place = made / "audit.zarr"
    result = call("audit", made / "run", *DIGITS, "--targets", "digits", "--out", place, "--limit", 1)
    assert result.exit_code == 1
    expected = f"whence: {place} is a finished audit. Choose another --out, or make its page with: whence report"
    assert result.stderr.startswith(expected)
    assert result.stderr.count("\n") == 1


def test_a_report_on_other_targets_is_refused_in_one_line(made: Path, tmp_path: Path) -> None:
    targets = (*DIGITS, "--targets", "whence.datasets:load_digits", "--out", tmp_path / "p.html")
    result = call("report", made / "run", "--audit", made / "audit.zarr", *targets)
    assert result.exit_code == 1
    assert result.stderr.startswith("whence: The targets given are not the audited ones (fingerprint blake2b:")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "p.html").exists()


def test_a_report_prints_the_same_facts_for_scripts(made: Path, tmp_path: Path) -> None:
    words = ("--audit", made / "audit.zarr", *DIGITS, "--targets", "digits", "--out", tmp_path / "p.html", "--k", 1)
    result = call("report", made / "run", *words, "--json")
    assert result.exit_code == 0, result.output
    found, audited = json.loads(result.stdout), whence.load_audit(made / "audit.zarr")
    assert found["page"] == str(tmp_path / "p.html")
    assert found["completeness"] == str(audited.completeness)
    assert (found["mean_error"], found["targets"]) == (audited.completeness.mean_error, 355)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, a folder in which nothing can be made")
@pytest.mark.parametrize("command", ["audit", "report", "demo"])
def test_a_path_at_which_nothing_can_be_made_is_named_in_one_line(made: Path, command: str) -> None:
    words: dict[str, tuple[object, ...]] = {
        "audit": (made / "run", *DIGITS, "--targets", "digits", "--limit", 1),
        "report": (made / "run", "--audit", made / "audit.zarr", *DIGITS, "--targets", "digits", "--k", 1),
        "demo": ("--epochs", 1),
    }
    result = call(command, *words[command], "--out", "/proc/x.zarr")
    assert result.exit_code == 1
    expected = "whence: Cannot write /proc/x.zarr: No such file or directory. What was there is unchanged; "
    assert result.stderr == f"{expected}nothing can be made in /proc: choose another path.\n"


def test_a_file_in_the_way_of_an_audit_is_named_in_one_line(made: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    words = (*DIGITS, "--targets", "digits", "--limit", 1, "--out", tmp_path / "file" / "a.zarr")
    result = call("audit", made / "run", *words)
    assert result.exit_code == 1
    assert "a.zarr: Not a directory. What was there is unchanged; a file stands where a folder" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_counterfactual_says_what_to_remove_and_proves_it(made: Path, tmp_path: Path) -> None:
    words = (*DIGITS, "--targets", "digits", "--limit", 2, "--remove", 3, "--check")
    result = call("counterfactual", made / "run", *words, "--out", tmp_path / "e.zarr", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["unit"] == "nats of target loss"
    assert [len(one["removed"]) for one in found["results"]] == [3, 3]
    assert all(one["predicted"] < 0 for one in found["results"])
    assert "4 removals retrained, 2 results" in found["check"]
    effects = load_effects(tmp_path / "e.zarr")
    first = found["results"][0]
    assert first["predicted"] == pytest.approx(float(effects[0, first["removed"]].sum()), rel=1e-5)


def half(outputs: Tensor, labels: Tensor) -> Tensor:
    return 0.5 * F.cross_entropy(outputs, labels, reduction="none")


def test_effects_that_were_kept_are_used_again(made: Path, tmp_path: Path) -> None:
    words = (*DIGITS, "--targets", "digits", "--limit", 1, "--out", tmp_path / "e.zarr")
    first = call("counterfactual", made / "run", *words, "--remove", 2)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "e.zarr").rglob("*")}
    again = call("counterfactual", made / "run", *words, "--remove", 2)
    assert again.exit_code == 0, again.output
    assert again.stdout == first.stdout
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "e.zarr").rglob("*")} == kept
    others = [("--quantity", "probability", "quantity"), ("--over", "all", "over")]
    for option, value, name in [*others, ("--loss", "tests.test_cli:half", "loss")]:
        other = call("counterfactual", made / "run", *words, option, value)
        assert other.exit_code == 1
        assert f"holds other effects ({name} differ)" in other.stderr


def test_a_counterfactual_is_told_in_a_line_a_target(made: Path) -> None:
    words = (*DIGITS, "--targets", "digits", "--limit", 1, "--remove", 2)
    result = call("counterfactual", made / "run", *words)
    assert result.exit_code == 0, result.output
    assert re.search(r"target 0 +without 2 examples \(\d+, \d+\): predicted -\S+ nats of target loss", result.stdout)


def test_removing_more_than_there_is_is_refused_in_one_line(made: Path) -> None:
    words = (*DIGITS, "--targets", "digits", "--limit", 1, "--remove", 5000)
    result = call("counterfactual", made / "run", *words)
    assert result.exit_code == 1
    expected = "--remove must be from 1 to 1442, got 5000."
    assert result.stderr == f"whence: {expected}\n"


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_below_one_is_answered_as_a_limit(made: Path, tmp_path: Path, limit: int) -> None:
    words = (*DIGITS, "--targets", "digits", "--out", tmp_path / "a.zarr", "--limit", limit)
    result = call("audit", made / "run", *words)
    assert result.exit_code == 1
    expected = f"--limit must be at least 1, got {limit}. Leave it out to take every target."
    assert result.stderr == f"whence: {expected}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("audt",), "No such command 'audt'. Did you mean 'audit'? See: whence --help"),
        (("--bogus",), "No such option: --bogus. See: whence --help"),
        (("info",), "Missing argument 'RUN'. See: whence info --help"),
        (("verify", "run", "--modle", "m"), "No such option: --modle (Possible options: --model) See: whence verify"),
        (("audit", "run", "--limit", "few"), "Invalid value for '--limit': "),
        (("report", "run"), "Missing option '--audit'. See: whence report --help"),
        (("provenance", "retriev"), "No such command 'retriev'. Did you mean 'retrieve'? See: whence provenance"),
        (("provenance", "retrieve", "n", "digits", "--ids", "a"), "Invalid value for '--ids': "),
    ],
)
def test_words_that_cannot_be_read_are_named_in_one_line(words: tuple[str, ...], message: str) -> None:
    result = call(*words)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"whence: {message}")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_without_a_command_the_commands_are_shown() -> None:
    result = call()
    assert result.exit_code == 0
    assert all(f"  {command} " in result.stdout for command in COMMANDS)
    assert result.stderr == ""


def test_targets_that_cannot_be_found_are_named_as_the_option(made: Path, tmp_path: Path) -> None:
    words = (*DIGITS, "--targets", "no_such:data", "--out", tmp_path / "a.zarr")
    result = call("audit", made / "run", *words)
    assert result.exit_code == 1
    assert result.stderr.startswith("whence: --targets no_such:data: cannot import no_such (")
    assert result.stderr.count("\n") == 1


def test_a_run_that_is_not_there_is_named() -> None:
    result = call("info", "nowhere")
    assert result.exit_code == 1
    assert "There is no run at nowhere" in result.stderr


@pytest.mark.parametrize("command", [*COMMANDS, *(f"{group} {one}" for group in GROUPS for one in GROUPS[group])])
def test_each_command_has_a_help_with_an_example_that_it_understands(command: str) -> None:
    text = call(*command.split(), "--help").stdout
    assert text.count("Example:") == 1
    example = text.partition("Example:")[2]
    assert f"whence {command}" in example
    known = {option for line in text.splitlines() for option in line.split() if option.startswith("--")}
    assert {word for word in example.split() if word.startswith("--")} <= known


def test_the_commands_are_those_promised_and_the_version_is_the_packages() -> None:
    assert {command.callback.__name__ for command in cli.app.registered_commands if command.callback} == set(COMMANDS)
    groups = {
        str(one.typer_instance.info.name): one.typer_instance for one in cli.app.registered_groups if one.typer_instance
    }
    found = {
        name: tuple(one.callback.__name__ for one in group.registered_commands if one.callback)
        for name, group in groups.items()
    }
    assert found == GROUPS
    assert call("--version").stdout.strip().count(".") == 2


def test_keeping_memory_is_skipped_where_there_is_no_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_name: str) -> Any:
        raise OSError("no such library")

    monkeypatch.setattr("ctypes.CDLL", refuse)
    assert commands.keep_memory() is None  # type: ignore[func-returns-value]


def test_attribute_lists_the_ends_of_every_targets_scores_and_keeps_all(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores"
    words = ("attribute", made / "run", *DIGITS, "--targets", "digits", "--limit", 2, "--method", "grad-cos", "--k", 3)
    found = json.loads(call(*words, "--out", out, "--json").stdout)
    scores = load_scores(out)
    assert scores.sizes == {"target": 2, "train": 1442}
    for place, row in enumerate(found["targets"]):
        values = scores.values[place]
        assert [value for _, value in row["helpful"]] == sorted(values.tolist(), reverse=True)[:3]
        assert [value for _, value in row["harmful"]] == sorted(values.tolist())[:3]
        assert all(values[one] == value for one, value in row["helpful"] + row["harmful"])
    assert found["sign"] == "positive = the example helped the target"
    plain = call(*words).stdout
    assert f"target 1 helpful  #{found['targets'][1]['helpful'][0][0]} (+" in plain
    again = call(*words, "--out", out)
    assert again.exit_code == 1
    assert "Something stands at" in again.stderr


def test_influence_functions_take_their_damping(made: Path) -> None:
    words = ("attribute", made / "run", *DIGITS, "--targets", "digits", "--limit", 1, "--k", 2, "--json")
    found = json.loads(call(*words, "--method", "influence", "--layers", "last", "--damping", 0.1).stdout)
    assert found["attributor"].startswith("influence function")
    assert len(found["targets"][0]["helpful"]) == 2


def test_numbers_that_json_lacks_are_null(capsys: pytest.CaptureFixture[str]) -> None:
    show({"scores": [("a", float("nan")), ("b", 1.5)], "whole": float("inf")}, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"scores": [["a", None], ["b", 1.5]], "whole": None}


def test_every_method_can_be_named_and_the_help_names_every_one() -> None:
    needed = {"influence": {"damping": 0.1}}
    assert all(isinstance(named_method(name, **needed.get(name, {})), Attributor) for name in METHODS)
    assert ", ".join([*METHODS][:-1]) + f" or {[*METHODS][-1]}." == METHODS_SAID


def test_a_page_shows_other_methods_regions_and_a_map_when_asked(made: Path, tmp_path: Path) -> None:
    words = ("report", made / "run", "--audit", made / "audit.zarr", *DIGITS, "--targets", "digits", "--k", 3)
    options = ("--target", 0, "--method", "grad-dot", "--method", "tracin", "--regions", 1, "--map", 5)
    assert call(*words, *options, "--out", tmp_path / "p.html").exit_code == 0
    page = (tmp_path / "p.html").read_text()
    assert page.count('data-method="') == 3
    assert "Which parts of them mattered" in page
    assert "Each point is one of 5 targets" in page
    refused = call(*words, "--map", 3, "--out", tmp_path / "q.html")
    assert refused.exit_code == 1
    assert "`limit` of a map is a whole number, at least 4; got 3." in refused.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "grad-cosine"), "No method 'grad-cosine' (similar: grad-cos"),
        (("--checkpoints", 3), "The method grad-dot has no --checkpoints. Leave it out."),
        (("--method", "influence"), "The method influence needs --damping, which has no usual value"),
        (("--method", "tracin", "--checkpoints", 10**6), "`checkpoints` asks for 1000000 states of the run"),
        (
            ("--loss", "torch.nn.functional:binary_cross_entropy_with_logits"),
            "The loss binary_cross_entropy_with_logits cannot be called as loss(model(inputs), labels), with outputs "
            "(4, 10) and labels (4,): Target size (torch.Size([4])) must be the same as input size (torch.Size([4, "
            "10])). Give the loss, and the model with the outputs, that these labels were trained with",
        ),
        (("--layers", "conv3"), "No layer 'conv3' in the model SmallNet; names near it: conv2, conv1"),
        (("--quantity", "entropy"), "No quantity 'entropy'."),
        (("--k", 0), "--k must be at least 1, got 0: it is how many training examples are listed at each end."),
        (("--limit", 0), "--limit must be at least 1, got 0."),
    ],
)
def test_attribute_names_what_it_cannot_do(words: tuple[object, ...], message: str, made: Path) -> None:
    result = call("attribute", made / "run", *DIGITS, "--targets", "digits", *words)
    assert result.exit_code == 1
    assert message in result.stderr


def test_regions_of_named_targets_are_kept_drawn_and_told(made: Path, tmp_path: Path) -> None:
    out, folder = tmp_path / "maps", tmp_path / "pictures"
    words = ("regions", made / "run", *DIGITS, "--targets", "digits", "--target", 3, "--target", 5, "--k", 2)
    found = json.loads(call(*words, "--out", out, "--pictures", folder, "--json").stdout)
    maps = load_maps(out)
    assert maps.sizes == {"pair": 4, "height": 8, "width": 8}
    assert [row["target"] for row in found["pairs"]] == maps["target"].values.tolist() == [3, 3, 5, 5]
    for row, one in zip(found["pairs"], maps, strict=True):
        assert row["train"] == one["train"]
        assert row["score"] == pytest.approx(one["score"].item())
        assert abs(row["remainder"]) < 1e-3 * abs(row["score"])
        assert -1 <= row["control"] <= 1
        with Image.open(row["picture"]) as drawn:
            assert drawn.width == 4 * 160 + 5 * 8
    assert sorted(map(str, folder.iterdir())) == sorted(row["picture"] for row in found["pairs"])
    again = call(*words, "--out", out)
    assert again.exit_code == 1
    assert "Something stands at" in again.stderr


def test_maps_of_the_target_stand_beside_region_maps(made: Path, tmp_path: Path) -> None:
    pytest.importorskip("captum")
    words = ("regions", made / "run", *DIGITS, "--targets", "digits", "--pair", "3:17", "--pictures", tmp_path)
    sides = {"none": (), "two": ("--beside", "grad-cam", "--beside", "integrated-gradients")}
    drawn = {}
    for name, options in sides.items():
        result = call(*words, *options)
        assert result.exit_code == 0, result.output
        with Image.open(tmp_path / "target-3-train-17.png") as picture:
            drawn[name] = np.asarray(picture.convert("RGB"))
    assert drawn["two"].shape[1] - drawn["none"].shape[1] == 2 * (160 + 8)
    np.testing.assert_array_equal(drawn["two"][:, : drawn["none"].shape[1]], drawn["none"])
    run = whence.open_run(
        made / "run", demo_module.small_network(), load_digits("train"), loss=torch.nn.functional.cross_entropy
    )
    targets = load_digits("test")
    shown = whence.as_examples(targets).picture(3)
    assert shown is not None
    both = (grad_cam(run, targets, [3], layer="conv2"), integrated_gradients(run, targets, [3]))
    expected = side_by_side({str(place): overlay(shown, one[0]) for place, one in enumerate(both)})
    row = drawn["two"].shape[0] - 80  # across the pictures, below the words
    np.testing.assert_array_equal(
        drawn["two"][row, drawn["none"].shape[1] :], np.asarray(expected.convert("RGB"))[row, 8:]
    )


def test_regions_begin_with_the_wrong_answers_the_worst_first(made: Path) -> None:
    words = ("regions", made / "run", *DIGITS, "--targets", "digits", "--recipe", "integrated-cos", "--k", 1)
    found = json.loads(call(*words, "--limit", 2, "--json").stdout)
    run = whence.open_run(
        made / "run", demo_module.small_network(), load_digits("train"), loss=torch.nn.functional.cross_entropy
    )
    state, (inputs, labels) = run.state_at(run.steps), whence.as_examples(load_digits("test")).batch(range(355))
    model = demo_module.small_network()
    model.load_state_dict({**state.parameters, **state.buffers})
    outputs = model(inputs)
    losses = torch.nn.functional.cross_entropy(outputs, labels, reduction="none")
    losses[outputs.argmax(1) == labels] = 0
    assert [row["target"] for row in found["pairs"]] == losses.argsort(descending=True)[:2].tolist()
    assert found["unit"] == "cosine"


def test_a_pair_of_choice_is_mapped_and_told_in_a_line(made: Path) -> None:
    words = ("regions", made / "run", *DIGITS, "--targets", "digits", "--pair", "3:17", "--recipe", "paper")
    result = call(*words)
    assert result.exit_code == 0, result.output
    assert re.search(r"^target 3 train 17 +score \S+, correlation with the control -?\d\.\d\d$", result.stdout, re.M)
    assert re.search(r"^unit +cosine, per unit of the input$", result.stdout, re.M)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--pair", "3-17"), "--pair must read TARGET:TRAIN, such as --pair 3:1024; got '3-17'."),
        (("--pair", "400:0"), "No target 400: there are 355, with ids 0 to 354."),
        (("--pair", "0:5000"), "No training example 5000: there are 1442, with ids 0 to 1441."),
        (("--pair", "0:1", "--method", "grad-dot"), "is mapped for which target; --method chooses them. Give one or"),
        (("--pair", "0:1", "--k", 0), "is mapped for which target; --k chooses them. Give one or the other"),
        (("--pair", "0:1", "--target", 0), "is mapped for which target; --target chooses them. Give one or the other"),
        (("--target", 400), "No target 400: there are 355, with ids 0 to 354."),
        (("--k", 0), "`k` is how many training examples to map for each target, 1 to 1442; got 0."),
        (("--limit", 0), "--limit must be at least 1, got 0."),
        (
            ("--recipe", "papre"),
            "No recipe 'papre' (similar: paper). Choose one of default, shared, paper, integrated-cos.",
        ),
        (("--method", "grad-cosine"), "No method 'grad-cosine' (similar: grad-cos"),
        (("--beside", "grad-cam"), "--beside is drawn in pictures. Name a folder for them with --pictures."),
        (
            ("--pair", "0:1", "--pictures", "p", "--beside", "gradcam"),
            "No map 'gradcam' to put beside. Choose grad-cam, grad-cam:LAYER or integrated-gradients.",
        ),
    ],
)
def test_regions_name_what_they_cannot_do(words: tuple[object, ...], message: str, made: Path) -> None:
    result = call("regions", made / "run", *DIGITS, "--targets", "digits", *words)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_maps_beside_name_the_extra_and_the_layer_that_are_missing(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("regions", made / "run", *DIGITS, "--targets", "digits", "--pair", "0:1", "--pictures", tmp_path)
    pytest.importorskip("captum")
    named = call(*words, "--beside", "grad-cam:conv3")
    assert "No layer 'conv3' in the model SmallNet; names near it: conv2, conv1." in named.stderr
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.delitem(sys.modules, "captum.attr", raising=False)
    for one in ("grad-cam", "integrated-gradients"):
        result = call(*words, "--beside", one)
        assert result.exit_code == 1
        assert 'needs captum, which is not installed. Install it with: pip install "whence[baselines]"' in result.stderr
    with pytest.raises(
        ArgumentError, match=r"this Linear has no Conv2d\. Name a layer .* or take integrated-gradients"
    ):
        last_convolution(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("setting", ["dimensions", "regularization"])
def test_settings_of_trak_are_told_to_it_and_refused_of_others(setting: str) -> None:
    assert getattr(named_method("trak", **{setting: 7}), setting) == 7
    with pytest.raises(ArgumentError, match=f"The method grad-dot has no --{setting}"):
        named_method("grad-dot", **{setting: 7})


def test_every_recipe_can_be_named_and_the_help_names_every_one() -> None:
    assert [named_recipe(name) for name in RECIPES] == list(RECIPES.values())
    text = " ".join(call("regions", "--help").stdout.split())
    assert ", ".join([*RECIPES][:-1]) + f" or {[*RECIPES][-1]}." in text


EVALUATION = ("--targets", "digits", "--limit", 12, "--sets", 3, "--share", 0.05, "--method", "grad-dot")


def test_evaluate_measures_methods_on_real_trainings_and_keeps_the_table(made: Path, tmp_path: Path) -> None:
    out, path = tmp_path / "e.json", tmp_path / "trainings"
    words = ("evaluate", made / "run", *DIGITS, *EVALUATION, "--method", "random", "--path", path)
    plain = call(*words, "--out", out)
    assert plain.exit_code == 0, plain.output
    assert "| grad-dot | " in plain.stdout
    assert f"evaluation  {out}" in plain.stdout
    table = load_table(out)
    assert str(table) in plain.stdout
    kept = {file: file.stat().st_mtime_ns for file in path.iterdir()}
    assert len(kept) == 3
    found = json.loads(call(*words, "--json").stdout)
    assert {file: file.stat().st_mtime_ns for file in path.iterdir()} == kept  # trained no more
    assert found == json.loads(out.read_text())
    assert found["rows"] == ["grad-dot", "random"]
    assert found["run_identity"] == json.loads((made / "evaluation.json").read_text())["run_identity"]
    again = call(*words, "--out", out)
    assert again.exit_code == 1
    assert "Something stands at" in again.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "grad-cosine"), "No method 'grad-cosine' (similar: grad-cos"),
        (("--sets", 0), "`sets` must be a whole number, at least 3; got 0."),
        (("--share", 1.5), "`share` must be a share between 0 and 1; got 1.5."),
        (("--limit", 0), "--limit must be at least 1, got 0."),
    ],
)
def test_evaluate_names_what_it_cannot_do(words: tuple[object, ...], message: str, made: Path) -> None:
    result = call("evaluate", made / "run", *DIGITS, *EVALUATION, *words)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_page_shows_an_evaluation_and_refuses_that_of_another_run(made: Path, tmp_path: Path) -> None:
    audited = ("--audit", made / "audit.zarr", *DIGITS, "--targets", "digits", "--k", 1, "--target", 0)
    words = ("report", made / "run", *audited)
    page, place = tmp_path / "p.html", tmp_path / "e.json"
    assert call(*words, "--evaluation", made / "evaluation.json", "--out", page).exit_code == 0
    assert 'id="trust"' in page.read_text()
    told = json.loads((made / "evaluation.json").read_text())
    assert told["rows"] == ["audit", "grad-cos", "path-similarity", "random"]
    place.write_text(json.dumps({**told, "run": "runs/other", "run_identity": "0123"}))
    other = call(*words, "--evaluation", place, "--out", tmp_path / "q.html")
    assert other.exit_code == 1
    message = f"The evaluation is of another run: runs/other (0123), not {made / 'run'} ({told['run_identity']})."
    assert message in other.stderr
    none = call(*words, "--evaluation", tmp_path / "nothing.json", "--out", tmp_path / "q.html")
    assert none.exit_code == 1
    assert f"{tmp_path / 'nothing.json'} holds no table: " in none.stderr
    assert not (tmp_path / "q.html").exists()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("provenance") / "network"
    result = call("provenance", "train", "digits", folder, "--epochs", 2, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["network"], found["head"], found["training_examples"]) == (str(folder), "cosine", 1442)
    assert found["class_accuracy"] > 0.8
    return folder


def test_a_provenance_network_that_is_whole_is_not_trained_again(network: Path) -> None:
    kept = {file: file.stat().st_mtime_ns for file in network.rglob("*") if file.is_file()}
    assert {"settings.json", "network.safetensors", "training.json"} <= {file.name for file in kept}
    again = call("provenance", "train", "digits", network, "--epochs", 2)
    assert again.exit_code == 0, again.output
    assert re.search(r"^training examples +1,442$", again.stdout, re.MULTILINE)
    assert {file: file.stat().st_mtime_ns for file in network.rglob("*") if file.is_file()} == kept


def test_retrieve_names_the_training_examples_and_draws_them(network: Path, tmp_path: Path) -> None:
    opened = open_folder(network, load_digits("train")).network
    inputs = whence.as_examples(load_digits("test")).batch([5, 0, 9])[0]
    expected = retrieve(opened, inputs, 3)
    words = ("provenance", "retrieve", network, "digits", "--ids", 5, 0, 9, "-k", 3)
    result = call(*words, "--picture", tmp_path / "sheet.png", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [row["id"] for row in found["results"]] == [5, 0, 9]
    for place, row in enumerate(found["results"]):
        assert row["predicted"] == str(int(expected["predicted"][place]))
        assert row["confidence"] == pytest.approx(float(np.exp(expected["class_confidence"][place])), rel=1e-5)
        ids, classes = ([one[key] for one in row["exemplars"]] for key in ("id", "class"))
        assert ids == expected["exemplar"].values[place].tolist()
        assert classes == [str(one) for one in expected["exemplar_class"].values[place].tolist()]
    with Image.open(found["picture"]) as drawn:
        assert drawn.height > 3 * 96
    plain = call(*words)
    first = found["results"][0]["exemplars"][0]
    assert f"| #{first['id']}, {first['class']} ({np.exp(first['score']):.3f}) |" in plain.stdout
    assert "it is not what caused the answer" in plain.stdout
    again = call(*words, "--picture", tmp_path / "sheet.png")
    assert again.exit_code == 1
    assert "Something stands at" in again.stderr


def test_training_data_in_a_folder_is_found_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for label in ("dark", "light"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for place in range(4):
            shade = 20 * place + 120 * (label == "light")
            Image.new("L", (8, 8), shade).save(tmp_path / "data" / label / f"{place}.png")
    monkeypatch.chdir(tmp_path)
    result = call(
        "provenance", "train", "data", "net", "--epochs", 1, "--head", "codes", "--conditional", "--no-distort"
    )
    assert result.exit_code == 0, result.output
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    result = call("provenance", "retrieve", "../net", "../data", "--ids", 0, "-k", 1)
    assert result.exit_code == 0, result.output
    assert re.search(r"\| 0 \| (dark|light) \(0\.\d+\) \| #\d, (dark|light)", result.stdout)


def test_evaluating_a_provenance_network_prints_and_keeps_what_the_library_measures(
    network: Path, tmp_path: Path
) -> None:
    words = ("provenance", "evaluate", network, "--test", "digits", "--limit", 20, "-k", 3)
    result = call(*words, "--out", tmp_path / "tables")
    assert result.exit_code == 0, result.output
    opened = open_folder(network, load_digits("train")).network
    expected = evaluate_provenance(opened, load_digits("train"), load_digits("test"), k=3, limit=20)
    assert str(expected) in result.stdout
    for name, table in expected.parts.items():
        assert str(load_table(tmp_path / "tables" / f"{name}.json")) == str(table)
    found = json.loads(call(*words, "--json").stdout)
    assert found["retrieved"] == expected["retrieved"].plain()
    again = call(*words, "--out", tmp_path / "tables")
    assert again.exit_code == 1
    assert "Something stands at" in again.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "digits", "{net}", "--epochs", 3), "settings: epochs was 2 and is 3. Give the same to go on there"),
        (
            ("train", "digits", "{new}", "--head", "cosinus"),
            "No head 'cosinus' (similar: cosine). Choose one of cosine",
        ),
        (("train", "digits", "{new}", "--head", "shared"), "shared numbers examples within their class: make the net"),
        (("train", "nowhere", "{new}"), "No data 'nowhere': give digits, mnist, mnist:FOLDER, a .parquet file"),
        (("retrieve", "{new}", "digits", "--ids", 0), "new holds no provenance network: "),
        (("retrieve", "{net}", "digits", "--ids", 0, 355), "No example 355: there are 355, with ids 0 to 354."),
        (("retrieve", "{net}", "digits", "--ids", 0, "-k", 1443), "`k` is a whole number from 1 to 1442; got 1443."),
        (
            ("retrieve", "{net}", "digits", "--ids", 0, "--data", "tests.test_cli:other_digits"),
            "names examples of other data, blake2b:",
        ),
        (("evaluate", "{net}", "--test", "digits", "--limit", 0), "`limit` is a whole number, at least 1, or None"),
    ],
)
def test_provenance_names_what_it_cannot_do(
    words: tuple[object, ...], message: str, network: Path, tmp_path: Path
) -> None:
    places = {"{net}": network, "{new}": tmp_path / "new"}
    result = call("provenance", *(places.get(str(one), one) for one in words))
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_page_shows_a_provenance_network_and_refuses_that_of_other_data(
    made: Path, network: Path, tmp_path: Path
) -> None:
    audited = ("--audit", made / "audit.zarr", *DIGITS, "--targets", "digits", "--k", 1, "--target", 0)
    words = ("report", made / "run", *audited, "--out", tmp_path / "p.html")
    result = call(*words, "--provenance", network)
    assert result.exit_code == 0, result.output
    assert 'id="provenance"' in (tmp_path / "p.html").read_text()
    other = call("provenance", "train", "tests.test_cli:other_digits", tmp_path / "other", "--epochs", 1)
    assert other.exit_code == 0, other.output
    refused = call(*words, "--provenance", tmp_path / "other")
    assert refused.exit_code == 1
    assert "names examples of other data, blake2b:" in refused.stderr


def other_digits() -> Any:
    """Return data whose fingerprint is another."""
    return load_digits("test")


def test_the_help_names_every_head() -> None:
    text = " ".join(call("provenance", "train", "--help").stdout.split())
    assert ", ".join([*HEADS][:-1]) + f" or {[*HEADS][-1]}." in text


def test_an_attack_that_finds_nothing_ends_in_one_line_and_keeps_nothing(made: Path, tmp_path: Path) -> None:
    words = ("adversarial", made / "run", *DIGITS, "--targets", "digits", "--out", tmp_path / "out")
    result = call(*words, "--epsilon", 1e-9, "--count", 1)
    assert result.exit_code == 1
    assert "The attack linf-pgd found 0 adversarial inputs" in result.stderr
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "out" / "page.html").write_text("kept")
    assert "Something stands at" in call(*words).stderr
    assert (tmp_path / "out" / "page.html").read_text() == "kept"


def test_a_prior_is_trained_and_tells_how_real_it_is(tmp_path: Path) -> None:
    words = ("prior", "train", "digits", tmp_path / "p", "--epochs", 1, "--latent", 4, "--steps", 12)
    result = call(*words, "--json")
    assert result.exit_code == 0, result.output
    found, facts = json.loads(result.stdout), prior_facts(tmp_path / "p")
    assert (found["latent"], found["shape"], facts["source"]) == (4, [1, 8, 8], "digits")
    assert found["precision"] == pytest.approx(facts["realism"]["precision"], abs=5e-4)
    assert found["real_precision"] > 0.8
    assert "real recall" in call(*words).stdout  # what is there is opened
    refused = call(*words, "--seed", 1)
    assert refused.exit_code == 1
    assert "holds a prior of other settings: seed was 0 and is 1" in refused.stderr
    assert call("prior", "train", "digits", tmp_path / "q", "--latent", 0).stderr.startswith("whence: `latent` is a")
