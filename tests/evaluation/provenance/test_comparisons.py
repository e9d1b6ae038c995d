"""Comparisons train what they say, take the examples that strategies name, and go on where they were stopped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from tests.evaluation.provenance.cases import digits
from whence._errors import ArgumentError
from whence.evaluation import Table
from whence.evaluation.provenance import comparisons
from whence.evaluation.provenance.comparisons import (
    Effort,
    curve_findings,
    scaling_findings,
    sharing_findings,
    subset_strategies,
)

DATA, TEST = digits(120), digits(60, 200)
LITTLE = Effort(epochs=1, seeds=1, limit=60)


def scores(count: int = 120) -> xr.DataArray:
    """Return scores that say the later the example, the more it helped."""
    values = np.arange(count, dtype=float)[None] + 1
    return xr.DataArray(values, {"target": [0], "train": np.arange(count)}, ("target", "train"), attrs={"helps": 1})


def test_the_curve_has_a_row_a_share_and_is_kept_as_it_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    effort = Effort(epochs=1, seeds=1, limit=60, path=tmp_path / "trainings")
    found = curve_findings(DATA, TEST, effort, mixing=[0, 1])
    table = found.tables["curve"]
    assert isinstance(table, Table)
    assert "60 training and 60 test examples" in str(table)
    assert table.data["estimate"].shape == (2, 7)
    assert len(found.pictures["curve"].data) == 7
    kept = sorted((tmp_path / "trainings").iterdir())
    assert len(kept) == 2

    def refuse(*_args: object, **_options: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("whence.evaluation.provenance.trainings.train", refuse)
    assert str(curve_findings(DATA, TEST, effort, mixing=[0, 1])) == str(found)


def test_scaling_has_a_table_a_strategy() -> None:
    found = scaling_findings(DATA, TEST, LITTLE, strategies=["boundary", "stratified"], shares=[0.9])
    assert list(found.tables) == list(found.pictures) == ["boundary", "stratified"]
    with pytest.raises(ArgumentError, match=r"The scores are of 120 training examples, and here are 60\. .*no limit"):
        scaling_findings(DATA, TEST, LITTLE, strategies=["helpful"], shares=[0.9], scores=scores())


def test_each_strategy_keeps_the_shares_of_the_classes() -> None:
    names = (*comparisons.STRATEGIES, *comparisons.BY_SCORES)
    chosen = subset_strategies(names, DATA, Effort(epochs=1, seeds=1), scores())
    labels = DATA[1].numpy()
    for name, order in chosen.items():
        kept = order(60, 0) if callable(order) else order[60:]
        assert len(set(np.asarray(kept).tolist())) == 60, name
        counts = np.bincount(labels[kept], minlength=10)
        assert abs(counts - np.bincount(labels, minlength=10) / 2).max() <= 1, name
    helpful = chosen["helpful"]
    assert not callable(helpful)
    for kind in range(10):
        own = helpful[labels[helpful] == kind]
        assert own.tolist() == sorted(own.tolist())  # the latest, which helped most, goes last


def test_a_first_classifier_goes_on_in_the_folder_and_leaves_the_generator(tmp_path: Path) -> None:
    effort, before = Effort(epochs=1, seeds=1, path=tmp_path), torch.get_rng_state()
    first = subset_strategies(["prototypes"], DATA, effort)["prototypes"]
    assert torch.equal(torch.get_rng_state(), before)
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("first-1-")
    np.testing.assert_array_equal(subset_strategies(["prototypes"], DATA, effort)["prototypes"], first)


def test_sharing_takes_its_sizes_and_levels() -> None:
    found = sharing_findings(DATA, TEST, LITTLE, sizes=["small"], levels=[1, 4])
    assert list(found.tables) == ["parameters", "accuracy"]
    table = found.tables["accuracy"]
    assert isinstance(table, Table)
    assert table.data.coords["network"].values.tolist() == ["small, level 1", "small, level 4"]


def test_what_a_comparison_cannot_be_is_refused_by_name() -> None:
    with pytest.raises(ArgumentError, match="`seeds` must be a whole number, at least 1; got 0"):
        Effort(seeds=0)
    with pytest.raises(ArgumentError, match="`limit` must be a whole number, at least 1; got 0"):
        Effort(limit=0)
    with pytest.raises(ArgumentError, match=r"No strategy 'divers' \(similar: diverse\)\. Choose of stratified, "):
        scaling_findings(DATA, TEST, LITTLE, strategies=["divers"])
    with pytest.raises(ArgumentError, match=r"'influential' needs scores of all training examples.*: give --audit"):
        scaling_findings(DATA, TEST, LITTLE, strategies=["influential"])
    with pytest.raises(ArgumentError, match="Give at least one strategy: stratified"):
        scaling_findings(DATA, TEST, LITTLE, strategies=[])
