"""What is given to a recorder or a run in place of something else is refused in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD

import whence
from tests.audit.training import blobs, tanh_net, trained
from tests.typechecker import unchecked
from whence._errors import ArgumentError, ModelMismatchError, RecordingError, WhenceError
from whence.runs import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    model = tanh_net()
    return trained(tmp_path_factory.mktemp("refusals") / "run", model, SGD(model.parameters(), 0.1), blobs(), epochs=1)


STEPS: dict[str, tuple[Callable[[Any], object], str]] = {
    "a text": (lambda run: run.state_at("a"), r"The run has steps 0 to \d+; got 'a'"),
    "half a step": (lambda run: run.state_at(1.5), r"The run has steps 0 to \d+; got 1\.5"),
    "a text to begin with": (lambda run: list(run.replay("a", 3)), r"The run has steps 0 to \d+; got 'a' to 3"),
}


@pytest.mark.parametrize("name", STEPS)
def test_steps_that_are_none_are_refused_in_words(name: str, run: Run) -> None:
    call, words = STEPS[name]
    with unchecked(), pytest.raises(ArgumentError, match=words):
        call(run)


def recorded(folder: Any, **given: Any) -> None:
    model = given.pop("model", tanh_net())
    optimizer = SGD((model if isinstance(model, nn.Module) else tanh_net()).parameters(), 0.1)
    options = {one: given.pop(one) for one in ("disk_budget", "snapshot_every") if one in given}
    with whence.record(folder / "run", model, optimizer, blobs(), loss=F.cross_entropy, **options) as recorder:
        list(recorder.batches(**{"batch_size": 4, **given}))


RECORDINGS: dict[str, tuple[dict[str, Any], type[WhenceError], str]] = {
    "no model": ({"model": None}, RecordingError, "`model` is the torch module that the loop calls; got None"),
    "a text as budget": (
        {"disk_budget": "a"},
        ArgumentError,
        "disk_budget is a whole number of bytes, at least 1; got 'a'",
    ),
    "a text as size": ({"batch_size": "a"}, ArgumentError, "whole numbers; got 'a' and 0"),
    "half a batch": ({"batch_size": 1.5}, ArgumentError, r"whole numbers; got 1\.5 and 0"),
    "no size": ({"batch_size": None}, ArgumentError, "whole numbers; got None and 0"),
    "half a seed": ({"seed": 1.5}, ArgumentError, r"whole numbers; got 4 and 1\.5"),
}


@pytest.mark.parametrize("name", RECORDINGS)
def test_what_cannot_be_recorded_is_refused_in_words(name: str, tmp_path: Any) -> None:
    given, error, words = RECORDINGS[name]
    with unchecked(), pytest.raises(error, match=words):
        recorded(tmp_path, **given)


@pytest.mark.parametrize("given", [None, 3, nn.Linear])
def test_a_run_is_not_opened_without_a_model(given: Any, run: Run) -> None:
    with unchecked(), pytest.raises(ModelMismatchError, match="`model` is a torch module built as the recorded"):
        whence.open_run(run.path, given, blobs(), loss=F.cross_entropy)
