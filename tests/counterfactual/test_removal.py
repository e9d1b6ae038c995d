"""Which examples are proposed for removal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import whence
from tests.audit.training import blobs
from tests.counterfactual.test_derivative import OPTIMIZERS, run_of
from whence._errors import ArgumentError
from whence.counterfactual import removals
from whence.runs import Run

TARGETS = blobs(3, seed=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_of(tmp_path_factory.mktemp("removal") / "run", OPTIMIZERS["SGD"])


@pytest.fixture(scope="module")
def effects(run: Run) -> xr.DataArray:
    return whence.counterfactual(run, TARGETS, smoothness=0)


def test_those_are_removed_whose_removal_lowers_a_loss_most(effects: xr.DataArray) -> None:
    found = removals(effects, 2)
    for place, ids in enumerate(found.ids):
        row = effects.values[place]
        assert list(ids) == np.argsort(row)[:2].tolist()
        assert float(found.data["predicted"][place]) == pytest.approx(row[list(ids)].sum())
        assert row[list(ids)].sum() < 0


def test_a_probability_is_raised(run: Run) -> None:
    found = removals(whence.counterfactual(run, TARGETS, quantity="probability", smoothness=0), 2)
    assert (found.data["predicted"] > 0).all()
    assert found.data.attrs["unit"] == "target probability"


def test_none_is_removed_that_would_make_it_worse_but_one_at_least(effects: xr.DataArray) -> None:
    found = removals(effects, 12)
    for place, ids in enumerate(found.ids):
        assert len(ids) == int((effects.values[place] < 0).sum())
    worse = effects.copy(data=np.abs(effects.values) + 1)
    assert [len(ids) for ids in removals(worse, 3).ids] == [1, 1, 1]


def test_what_was_retrained_is_each_targets_own_set(effects: xr.DataArray) -> None:
    found = removals(effects, 2, check=True, seeds=0)
    assert found.check is not None
    for place, name in enumerate(effects.coords["target"].values):
        own = found.check.data["retrained"].sel(target=name)[place]
        assert float(found.data["retrained"][place]) == float(own)
    lines = found.facts(plain=False)
    assert lines["target 1"].startswith(f"without 2 examples ({found.ids[1][0]}, {found.ids[1][1]}): predicted -")
    assert ", retrained " in lines["target 1"]
    assert found.facts(plain=True)["results"][2]["removed"] == list(found.ids[2])


def test_fewer_than_one_and_more_than_all_are_refused(effects: xr.DataArray, tmp_path: Path) -> None:
    for k in (0, 13):
        with pytest.raises(ArgumentError, match=rf"Between 1 and 12 training examples can be removed .*; got {k}"):
            removals(effects, k)
