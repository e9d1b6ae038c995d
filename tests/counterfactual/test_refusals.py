"""What is given in place of something else is refused in words, as a caller without a type checker sees it."""

from __future__ import annotations

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
from whence.runs import Run

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
