"""What is given in place of something else is refused in words, as a caller without a type checker sees it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import whence
from tests.audit.training import blobs
from tests.counterfactual.test_derivative import OPTIMIZERS, run_of
from tests.typechecker import unchecked
from whence._errors import ArgumentError
from whence.counterfactual import repairs
from whence.runs import Run

check_module = sys.modules[whence.check.__module__]
TARGETS = blobs(6, seed=1)
NAN = (torch.full_like(TARGETS[0], float("nan")), TARGETS[1])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_of(tmp_path_factory.mktemp("refusals") / "run", OPTIMIZERS["SGD"])


@pytest.fixture(scope="module")
def effects(run: Run) -> xr.DataArray:
    return whence.counterfactual(run, TARGETS, smoothness=0)


def asked(run: Any, **given: Any) -> object:
    return whence.counterfactual(run, TARGETS, **given)


def repaired(run: Any, ids: Any, **given: Any) -> object:
    return repairs(run, TARGETS, ids, **given)


RUNS: dict[str, tuple[Callable[[Any], object], str]] = {
    "no run": (
        lambda run: asked(run.path),
        r"whence.counterfactual needs a recorded run; got",
    ),
    "no run to audit": (
        lambda run: whence.audit(run.path, TARGETS),
        "whence.audit needs a recorded run; got PosixPath",
    ),
    "over": (lambda run: asked(run, over=3), "one name for each of the 6 targets; got 3"),
    "smoothing": (
        lambda run: asked(run, smoothing="a"),
        "a share of the divisors, .* got 'a'",
    ),
    "nan": (lambda run: whence.counterfactual(run, NAN), "The loss of 6 of 6 targets is nan or infinite"),
    "without": (lambda run: run.retrain(without=3), r"`without` names training examples, such as \[3, 17\]; got 3"),
    "without, a text": (lambda run: run.retrain(without="ab"), "`without` names training examples"),
    "no weight": (lambda run: run.retrain(weights={3: None}), "`weights` must be finite numbers; got None"),
    "a text as weight": (lambda run: run.retrain(weights={3: "a"}), "`weights` must be finite numbers; got 'a'"),
    "one weight": (lambda run: run.retrain(weights=5), "one finite number for each of the 12 training examples; got 5"),
    "a text as weights": (lambda run: run.retrain(weights="abc"), "`weights` must be numbers by id, .* got 'abc'"),
    "a column": (lambda run: run.retrain(weights=np.ones((12, 1))), "one finite number for each of the 12"),
    "without, an array of one number": (lambda run: run.retrain(without=np.array(3)), r"`without` names .*; got array"),
    "no run to repair": (lambda run: repaired(run.path, [0]), "repairs needs a recorded run; got PosixPath"),
    "one target to repair": (lambda run: repaired(run, 0, k=2), "a sequence of target numbers; got 0"),
    "an array to repair": (lambda run: repaired(run, np.array(0), k=2), r"a sequence .*; got array\(0\)"),
    "repairs, a text": (lambda run: repaired(run, [0], k=2, retrained="a"), "`retrained` is for .* got 'a'"),
    "repairs, fewer than none": (lambda run: repaired(run, [0], k=2, retrained=-1), "`retrained` .* got -1"),
    "repairs, halves": (lambda run: repaired(run, [0], k=2, retrained=1.5), r"`retrained` is for .* got 1\.5"),
    "both": (lambda run: run.retrain([1, 2], weights={2: 0.5}), "example 2 is in `without` and has a weight"),
}


@pytest.mark.parametrize("name", RUNS)
def test_what_a_run_cannot_be_asked_is_refused_in_words(name: str, run: Run) -> None:
    call, words = RUNS[name]
    with unchecked(), pytest.raises(ArgumentError, match=words):
        call(run)


CHECKS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "half a seed": (3, {"seeds": 1.5}, r"`seeds` is how many random sets to draw beside each, .* got 1\.5"),
    "a text as seeds": (3, {"seeds": "a"}, "got 'a'"),
    "fewer than none": (3, {"seeds": -1}, "got -1"),
    "a truth as seeds": (3, {"seeds": True}, "got True"),
    "an array of one number as seeds": (3, {"seeds": np.array(2)}, r"got array\(2\)"),
    "no seed": (3, {"seeds": [None]}, r"got \[None\]"),
    "nothing": (None, {}, r"for one set give \[\[\.\.\.\]\]; got None"),
    "half a size": (2.5, {}, r"got 2\.5"),
    "ids for sets": ([1, 2], {}, r"got \[1, 2\]"),
    "no run": (3, {"run": 3}, "whence.check needs a recorded run; got int"),
    "other targets": (3, {"targets": (TARGETS[0] + 1, TARGETS[1])}, "The targets given are not those of these effects"),
}


@pytest.mark.parametrize("name", CHECKS)
def test_what_cannot_be_checked_is_refused_in_words(name: str, effects: xr.DataArray) -> None:
    removals, options, words = CHECKS[name]
    with unchecked(), pytest.raises(ArgumentError, match=words):
        whence.check(effects, removals, **options)


KEPT: dict[str, bytes] = {
    "empty": b"",
    "half-written": b'{"a": [1',
    "binary": bytes(range(256)),
    "a list": b"[1]",
    "numbers": b'{"a": 3}',
}


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no training begin."""

    def trained(*_given: object) -> object:
        raise AssertionError("a training began")

    monkeypatch.setattr(check_module, "retrain", trained)


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("name", KEPT)
def test_a_file_that_is_no_check_is_refused_before_any_training(
    name: str, effects: xr.DataArray, tmp_path: Path
) -> None:
    (tmp_path / "kept").write_bytes(KEPT[name])
    with pytest.raises(ArgumentError, match=r"kept holds no results of a check.* Choose another path, or remove it"):
        whence.check(effects, [[1]], seeds=0, path=tmp_path / "kept")
    assert (tmp_path / "kept").read_bytes() == KEPT[name]


@pytest.mark.usefixtures("untrained")
def test_a_place_where_no_check_can_be_kept_is_refused_before_any_training(
    effects: xr.DataArray, tmp_path: Path
) -> None:
    with pytest.raises(ArgumentError, match=r"holds no results of a check: .*Is a directory"):
        whence.check(effects, [[1]], seeds=0, path=tmp_path)
    with pytest.raises(ArgumentError, match=r"but there is no folder .*missing\. Make it first"):
        whence.check(effects, [[1]], seeds=0, path=tmp_path / "missing" / "kept")


def test_targets_under_other_names_are_refused(effects: xr.DataArray) -> None:
    renamed = effects.isel(target=[0, 1]).assign_coords(target=["a", "b"])
    with pytest.raises(ArgumentError, match=r"have a target 'a', .* its targets are 0, 1, 2, 3 and so on\. Keep"):
        whence.check(renamed, 1, seeds=1)


def test_numbers_of_numpy_and_torch_are_taken(run: Run, effects: xr.DataArray) -> None:
    two: Any = np.int64(2)
    with unchecked():
        found = whence.check(effects, two, seeds=two).data
    assert found.equals(whence.check(effects, 2, seeds=2).data)
    weights: Any = torch.ones(12).index_fill(0, torch.tensor([3]), 0.0)
    with unchecked():
        ours, theirs = (run.retrain(weights=one).parameters for one in (weights.requires_grad_(), weights.tolist()))
    assert all(torch.equal(one, theirs[name]) for name, one in ours.items())
    assert not any(one.requires_grad for one in ours.values())


@pytest.mark.parametrize("given", [None, 3, np.zeros((6, 12))])
def test_what_is_no_effects_is_refused_in_words(given: Any) -> None:
    with unchecked(), pytest.raises(ArgumentError, match=r"`effects` must be what whence\.counterfactual returned"):
        whence.check(given, 3)


def test_the_targets_that_effects_were_made_with_may_be_given_again(effects: xr.DataArray) -> None:
    found = whence.check(effects, [[1]], seeds=0, targets=TARGETS)
    assert found.data.equals(whence.check(effects, [[1]], seeds=0).data)


def test_targets_that_were_refused_leave_nothing_behind(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="is nan or infinite"):
        whence.counterfactual(run, NAN, smoothness=0, path=tmp_path / "effects.zarr")
    assert list(tmp_path.iterdir()) == []
    found = whence.counterfactual(run, TARGETS, smoothness=0, path=tmp_path / "effects.zarr")
    np.testing.assert_array_equal(found, whence.counterfactual(run, TARGETS, smoothness=0))
