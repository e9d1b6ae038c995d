"""A training that was interrupted goes on as if it had not been."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, Adam, Optimizer

from tests.runs.training import Recipe, adam, data, equal, noisy_model, plain_model
from whence import _errors as errors
from whence.runs import record, start_recording


def halt_at(*stops: int) -> Any:
    def halt(_model: nn.Module, optimizer: Optimizer, _step: int) -> None:
        done = {int(entry["step"]) for entry in optimizer.state.values()}
        if done & set(stops):
            raise KeyboardInterrupt

    return halt


def go(path: Path, recipe: Recipe, seed: int, *, snapshot_every: int = 4) -> nn.Module:
    """Record, going on with what is there, from a model and a random state of its own."""
    model = recipe.model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(seed - 11)
    optimizer = recipe.optimizer(model)
    torch.manual_seed(seed)
    with record(
        path, model, optimizer, data(), loss=recipe.loss, snapshot_every=snapshot_every, resume=True
    ) as recorder:
        recipe.train(model, optimizer, recipe.epochs_of(recorder))
    return model


@pytest.mark.parametrize("stops", [(1,), (4,), (5, 6), (6, 12), (7, 8, 9), (18,)])
def test_a_continued_training_equals_an_uninterrupted_one_bit_by_bit(stops: tuple[int, ...], tmp_path: Path) -> None:
    whole, _ = Recipe(model=noisy_model).record(tmp_path / "whole")
    recipe = Recipe(model=noisy_model)
    for number, stop in enumerate(stops):
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "run", Recipe(model=noisy_model, after_step=halt_at(stop)), seed=11 + number)
    assert equal(go(tmp_path / "run", recipe, seed=50), whole)
    run = recipe.open(tmp_path / "run")
    verification = run.verify()
    assert (run.steps, run.epochs, verification.exact) == (18, 3, verification.snapshots)


def test_the_recorder_says_where_to_go_on(tmp_path: Path) -> None:
    recipe = Recipe(after_step=halt_at(8))
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "run", recipe, seed=11)
    model = plain_model()
    optimizer = adam(model)
    with record(tmp_path / "run", model, optimizer, data(), loss=F.cross_entropy, resume=True) as recorder:
        assert (recorder.step, recorder.epoch) == (8, 1)
        assert len(list(recorder.batches(4))) == 4
        assert recorder.epoch == 2
    assert {int(entry["step"]) for entry in optimizer.state.values()} == {8}


def test_interrupted_while_accumulating_the_begun_step_is_made_anew(tmp_path: Path) -> None:
    whole, _ = Recipe(accumulate=3).record(tmp_path / "whole")

    def halt(_model: nn.Module, optimizer: Optimizer) -> None:
        if any(int(entry["step"]) == 3 for entry in optimizer.state.values()):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "run", Recipe(accumulate=3, between=halt), seed=11)
    assert equal(go(tmp_path / "run", Recipe(accumulate=3), seed=12), whole)


def test_a_scheduler_goes_on_from_the_recorders_step(tmp_path: Path) -> None:
    def train(path: Path, stop: int) -> nn.Module:
        model = plain_model()
        optimizer = SGD(model.parameters(), lr=0.5, momentum=0.9)
        with record(path, model, optimizer, data(), loss=F.cross_entropy, snapshot_every=4, resume=True) as recorder:
            for group in optimizer.param_groups:
                group.setdefault("initial_lr", 0.5)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: 1 / (1 + s), recorder.step - 1)
            for _ in range(recorder.epoch, 3):
                for inputs, labels in recorder.batches(4):
                    optimizer.zero_grad()
                    F.cross_entropy(model(inputs), labels).backward()
                    optimizer.step()
                    schedule.step()
                    if recorder.step == stop:
                        return model
        return model

    whole = train(tmp_path / "whole", 100)
    train(tmp_path / "run", 7)
    assert equal(train(tmp_path / "run", 100), whole)


def test_another_order_than_before_the_interruption_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "run", Recipe(after_step=halt_at(8)), seed=11)
    with pytest.raises(errors.RecordingError, match=r"Epoch 1 cannot be continued.*same batch size"):
        go(tmp_path / "run", Recipe(batch_size=5), seed=11)
    assert Recipe().open(tmp_path / "run").steps == 8


def test_resuming_with_other_parts_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    recipe = Recipe()
    recipe.record(tmp_path / "run")
    before = {path: path.read_bytes() for path in sorted((tmp_path / "run").rglob("*")) if path.is_file()}
    model, small = plain_model(), nn.Linear(5, 3)
    inputs, labels = data()
    cases: list[tuple[type[Exception], str, nn.Module, Optimizer, Any]] = [
        (errors.ModelMismatchError, r"0\.weight is missing.*weight is not in the run", small, adam(small), data()),
        (errors.ModelMismatchError, r"with Adam; .* is SGD", model, SGD(model.parameters(), lr=0.1), data()),
        (
            errors.ModelMismatchError,
            r"same groups in the same order",
            model,
            Adam(list(model.parameters())[::-1]),
            data(),
        ),
        (errors.ChangedDataError, r"has changed since", model, adam(model), (inputs + 1e-3, labels)),
        (
            errors.ChangedDataError,
            r"with 22 training examples; .* has 21",
            model,
            adam(model),
            (inputs[1:], labels[1:]),
        ),
    ]
    for error, words, given, optimizer, changed in cases:
        with (
            pytest.raises(error, match=words),
            record(tmp_path / "run", given, optimizer, changed, loss=F.cross_entropy, resume=True),
        ):
            raise AssertionError
    assert {path: path.read_bytes() for path in before} == before


RECORDED = r"The run at .*run is being recorded already.*[Nn]othing .*touched.*ends.*another path"


def test_a_second_recorder_of_one_run_is_refused_at_once_and_the_first_goes_on(tmp_path: Path) -> None:
    recipe, path = Recipe(), tmp_path / "run"
    model, other = recipe.model(), recipe.model()
    optimizer = adam(model)
    with record(path, model, optimizer, data(), loss=F.cross_entropy) as recorder:
        recipe.train(model, optimizer, [recorder.batches(4)])
        before = {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}
        with (
            pytest.raises(errors.RunExistsError, match=RECORDED),
            record(path, other, adam(other), data(), loss=F.cross_entropy, resume=True),
        ):
            raise AssertionError
        assert {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()} == before
        assert recipe.open(path).steps == 6  # reading goes on meanwhile
        recipe.train(model, optimizer, [recorder.batches(4)])
    with record(path, other, adam(other), data(), loss=F.cross_entropy, resume=True) as recorder:
        assert recorder.step == 12
    assert equal(model, other)


def test_a_recorder_that_failed_to_begin_holds_nothing(tmp_path: Path) -> None:
    recipe, path = Recipe(), tmp_path / "run"
    recipe.record(path)
    model = recipe.model()
    with pytest.raises(errors.ModelMismatchError):
        start_recording(path, model, SGD(model.parameters(), lr=0.1), data(), loss=F.cross_entropy, resume=True)
    start_recording(path, model, adam(model), data(), loss=F.cross_entropy, resume=True).close()


HOLDING = """
import sys, time
import torch.nn.functional as F
from tests.runs.training import Recipe, adam, data
from whence.runs import start_recording
model = Recipe().model()
recorder = start_recording(sys.argv[1], model, adam(model), data(), loss=F.cross_entropy)
print("recording", flush=True)
time.sleep(600)
"""


def test_a_killed_process_holds_no_run(tmp_path: Path) -> None:
    root, path = Path(__file__).parents[2], tmp_path / "run"
    environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}
    model = Recipe().model()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(path)], cwd=root, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "recording\n"
            with pytest.raises(errors.RunExistsError, match=RECORDED):
                start_recording(path, model, adam(model), data(), loss=F.cross_entropy, resume=True)
        finally:
            process.kill()
    start_recording(path, model, adam(model), data(), loss=F.cross_entropy, resume=True).close()
