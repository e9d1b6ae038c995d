"""Kills, full disks and damaged files lose nothing that was whole, and are named."""

import errno
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.runs.training import Recipe, adam, data, plain_model
from whence import _errors as errors
from whence import _files
from whence.runs import open_run, record
from whence.runs.steps import StepTable

KILLS = 50


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_killed_at_any_moment_a_run_opens_up_to_its_last_whole_step_and_goes_on(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.runs.killed", str(tmp_path / "run"), str(KILLS), "5"]  # seed of the moments
    environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}", "WHENCE_PROGRESS": "0"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["steps"]) == KILLS
    assert found["steps"] == sorted(found["steps"])  # no whole step was ever lost
    assert found["steps"][-1] > 20
    assert found["left"] == 0
    assert found["exact"]
    assert found["equal"]  # to a training that was never killed


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(bytes(content))


def alter_numbers(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b'\\"step\\": 4', b'\\"step\\": 8', 1))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def rename_over(path: Path) -> None:
    path.write_bytes((path.parent / "000000008.safetensors").read_bytes())


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (truncate, "truncated or altered"),
    "one bit": (flip, "checksum does not fit"),
    "numbers": (alter_numbers, "checksum does not fit"),
    "empty": (empty, "truncated or altered"),
    "another": (rename_over, "was altered"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_snapshot_is_named_and_can_be_made_anew(name: str, tmp_path: Path) -> None:
    damage, words = DAMAGES[name]
    recipe = Recipe()
    recipe.record(tmp_path / "run")
    file = tmp_path / "run" / "snapshots" / "000000004.safetensors"
    whole = recipe.open(tmp_path / "run").snapshots.load(4)
    damage(file)
    run = recipe.open(tmp_path / "run")
    for call in (lambda: run.state_at(4), lambda: list(run.replay(2, 9)), run.verify):
        with pytest.raises(errors.SnapshotError, match=rf"before step 4 .*{words}.*repair=True"):
            call()
    verification = recipe.open(tmp_path / "run").verify(repair=True)
    assert verification.repaired == (4,)
    again = recipe.open(tmp_path / "run").snapshots.load(4)
    assert all(torch.equal(value, whole.parameters[name]) for name, value in again.parameters.items())
    moments = ((entry[key], whole.optimizer[name][key]) for name, entry in again.optimizer.items() for key in entry)
    assert all(torch.equal(value, wanted) for value, wanted in moments)


def test_a_missing_snapshot_only_makes_a_longer_segment_unless_it_is_the_first(tmp_path: Path) -> None:
    recipe = Recipe()
    recipe.record(tmp_path / "run")
    (tmp_path / "run" / "snapshots" / "000000008.safetensors").unlink()
    run = recipe.open(tmp_path / "run")
    assert [(s.start, s.stop) for s in run.segments()] == [(0, 4), (4, 12), (12, 16), (16, 18)]
    assert run.verify().deviation == 0.0
    (tmp_path / "run" / "snapshots" / "000000000.safetensors").unlink()
    with pytest.raises(errors.SnapshotError, match=r"before step 0 .*cannot be read.*first, and cannot be made again"):
        recipe.open(tmp_path / "run").verify(repair=True)


def test_a_deleted_snapshot_is_walked_past(tmp_path: Path) -> None:
    _, run = Recipe().record(tmp_path / "run")
    (tmp_path / "run" / "snapshots" / "000000004.safetensors").unlink()
    verification = Recipe().open(tmp_path / "run").verify(repair=True)
    assert (verification.steps, verification.repaired, verification.deviation) == (run.steps, (), 0.0)


def other_model(path: Path) -> None:
    open_run(path, nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3)), data(), loss=F.cross_entropy)


def other_type(path: Path) -> None:
    open_run(path, nn.Sequential(plain_model().double()), data(), loss=F.cross_entropy)


def other_module(path: Path) -> None:
    open_run(path, nn.Sequential(*plain_model().children(), nn.Dropout()), data(), loss=F.cross_entropy)


def other_data(path: Path) -> None:
    open_run(path, plain_model(), (data()[0], data()[1].flip(0)), loss=F.cross_entropy)


def no_run(path: Path) -> None:
    open_run(path.with_name("nothing"), plain_model(), data(), loss=F.cross_entropy)


def no_steps(path: Path) -> None:
    for file in path.glob("steps.sqlite*"):
        file.unlink()
    Recipe().open(path)


def damaged_steps(path: Path) -> None:
    (path / "steps.sqlite").write_bytes(b"not a table" * 100)
    Recipe().open(path)


def damaged_row(path: Path) -> None:
    with sqlite3.connect(path / "steps.sqlite") as connection:
        connection.execute("UPDATE steps SET statistics = x'00' WHERE step = 3")
    connection.close()
    Recipe().open(path).verify()


def damaged_manifest(path: Path) -> None:
    truncate(path / "run.json")
    Recipe().open(path)


def deleted_row(path: Path) -> None:
    with sqlite3.connect(path / "steps.sqlite") as connection:
        connection.execute("DELETE FROM steps WHERE step = 3")
    connection.close()
    Recipe().open(path)


def altered_step(path: Path, step: int, column: str, change: int) -> None:
    with sqlite3.connect(path / "steps.sqlite") as connection:
        connection.execute(f"UPDATE steps SET {column} = {column} + ? WHERE step = ?", (change, step))
    connection.close()
    Recipe().open(path)


def first_step_of_second_epoch(path: Path) -> int:
    with sqlite3.connect(path / "steps.sqlite") as connection:
        found: int = connection.execute("SELECT MIN(step) FROM steps WHERE epoch = 1").fetchone()[0]
    connection.close()
    return found


def altered_manifest(path: Path) -> None:
    content = (path / "run.json").read_text()
    (path / "run.json").write_text(content.replace('"Adam"', '"SGD"'))
    Recipe().open(path)


def other_format(path: Path, number: int) -> None:
    content = json.loads((path / "run.json").read_bytes())
    (path / "run.json").write_text(json.dumps({**content, "format": number}))
    Recipe().open(path)


REFUSED: dict[str, tuple[Callable[[Path], None], type[Exception], str]] = {
    "other model": (other_model, errors.ModelMismatchError, r"2\.weight is missing.*0\.weight is float32 \(7, 5\)"),
    "other type": (other_type, errors.ModelMismatchError, r"recorded with a Sequential"),
    "other module": (other_module, errors.ModelMismatchError, r"module \d is not in the run"),
    "other data": (other_data, errors.ChangedDataError, r"training data has changed"),
    "no run": (no_run, errors.RunNotFoundError, r"There is no run at .*nothing"),
    "no steps": (no_steps, errors.RunNotFoundError, r"has no steps\.sqlite"),
    "damaged steps": (damaged_steps, errors.RunFormatError, r"not a readable table of steps"),
    "damaged row": (damaged_row, errors.RunFormatError, r"Step 3 in .* cannot be read"),
    "deleted row": (deleted_row, errors.RunFormatError, r"table in .*steps\.sqlite cannot be read: step 3 is missing"),
    "step in a later epoch": (
        lambda path: altered_step(path, first_step_of_second_epoch(path) - 1, "epoch", 1),
        errors.RunFormatError,
        r"epoch and position of step \d+ do not come after",
    ),
    "step in an earlier epoch": (
        lambda path: altered_step(path, first_step_of_second_epoch(path), "epoch", -1),
        errors.RunFormatError,
        r"epoch and position of step \d+ do not come after",
    ),
    "step at another position": (
        lambda path: altered_step(path, 1, "position", -1),
        errors.RunFormatError,
        r"epoch and position of step 1 do not come after",
    ),
    "altered manifest": (altered_manifest, errors.RunFormatError, r"run\.json was altered"),
    "damaged manifest": (damaged_manifest, errors.RunFormatError, r"run\.json cannot be read"),
    "later format": (
        lambda path: other_format(path, 99),
        errors.RunFormatError,
        r"has format 99; this version of Whence reads 2\. Install the version that recorded",
    ),
    "earlier format": (
        lambda path: other_format(path, 1),
        errors.RunFormatError,
        r"has format 1; this version of Whence reads 2\. Install the version that recorded",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_the_run_is_refused_by_name(name: str, tmp_path: Path) -> None:
    call, error, words = REFUSED[name]
    Recipe().record(tmp_path / "run")
    with pytest.raises(error, match=words):
        call(tmp_path / "run")


def fill_disk_for_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    sync = _files._sync

    def full(path: Path) -> None:
        if "000000008" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(path)

    monkeypatch.setattr(_files, "_sync", full)


def fill_disk_for_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite meets its largest number of pages, which it reports as a full disk."""
    append_to = StepTable.append_to.__func__  # type: ignore[attr-defined]

    def limited(cls: type[StepTable], path: Path) -> StepTable:
        table: Any = append_to(cls, path)
        pages = int(table._connection.execute("PRAGMA page_count").fetchone()[0])
        table._connection.execute(f"PRAGMA max_page_count={pages + 4}")
        return table  # type: ignore[no-any-return]

    monkeypatch.setattr(StepTable, "append_to", classmethod(limited))


@pytest.mark.parametrize("fill", [fill_disk_for_snapshots, fill_disk_for_steps])
def test_a_full_disk_is_an_error_and_the_run_stays_whole(
    fill: Callable[[pytest.MonkeyPatch], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(epochs=100)
    with monkeypatch.context() as patch:
        fill(patch)
        with pytest.raises(errors.DiskError, match=r"Cannot write .*(No space left|disk is full)"):
            recipe.record(tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.tmp"))
    run = recipe.open(tmp_path / "run")
    assert run.steps >= 6
    assert run.verify().steps == run.steps
    run.close()
    model = recipe.model()
    with record(tmp_path / "run", model, adam(model), data(), loss=F.cross_entropy, resume=True) as recorder:
        assert recorder.step == run.steps


def test_a_full_disk_at_the_start_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    model = plain_model()
    optimizer = adam(model)
    with monkeypatch.context() as patch:
        patch.setattr(_files, "_sync", full)
        with (
            pytest.raises(errors.DiskError, match="No space left"),
            record(tmp_path / "run", model, optimizer, data(), loss=F.cross_entropy),
        ):
            raise AssertionError
    assert not (tmp_path / "run").exists()
    with record(tmp_path / "run", model, optimizer, data(), loss=F.cross_entropy) as recorder:
        assert recorder.step == 0


def test_nothing_in_a_run_is_a_pickle(tmp_path: Path) -> None:
    Recipe().record(tmp_path / "run")
    files = sorted(path.relative_to(tmp_path / "run") for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert {path.suffix.partition("-")[0] for path in files} <= {".json", ".sqlite", ".safetensors"}
    source = Path(__file__).parents[2] / "src" / "whence" / "runs"
    words = ("import pickle", "torch.load(", "torch.save(")
    assert not [path for path in source.glob("*.py") if any(word in path.read_text() for word in words)]


def test_a_snapshot_holds_every_tensor_of_the_training_state_bit_by_bit(tmp_path: Path) -> None:
    model, run = Recipe().record(tmp_path / "run")
    state = run.snapshots.load(run.steps)
    assert all(torch.equal(value, state.parameters[name]) for name, value in model.named_parameters())
    assert {key for entry in state.optimizer.values() for key in entry} == {"step", "exp_avg", "exp_avg_sq"}


def test_two_runs_with_the_same_settings_have_each_their_own_identity(tmp_path: Path) -> None:
    runs = [Recipe(epochs=1).record(tmp_path / name)[1] for name in ("first", "second")]
    assert len({run.identity for run in runs}) == 2
    assert Recipe().open(tmp_path / "first").identity == runs[0].identity


def test_a_run_is_closed_at_the_end_of_its_block(tmp_path: Path) -> None:
    with Recipe(epochs=1).record(tmp_path / "run")[1] as run:
        assert run.record_of(0).step == 0
    with pytest.raises(errors.RunFormatError, match="closed"):
        run.record_of(0)
