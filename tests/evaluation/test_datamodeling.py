"""The linear datamodeling score is 1 for what is exactly additive, and the truth is what training really gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from torch import nn

import whence
from tests.audit.training import blobs
from tests.counterfactual.test_derivative import OPTIMIZERS, run_of
from whence._errors import ArgumentError, AuditError, DataError, LabelError, ShapeError
from whence._statistics import Interval
from whence.attribution import Attributor, GradDot, Random, attribute, label
from whence.evaluation import (
    Truth,
    compare_attributors,
    linear_datamodeling_score,
    load_table,
    load_truth,
    most_harmful,
    random_parts,
    removal_losses,
    subset_losses,
    truth_of,
)
from whence.evaluation.table import table_of

SETS, TRAIN, TARGETS = 40, 12, 5
DATA, TARGET_DATA = blobs(TRAIN), blobs(TARGETS, seed=1)


def labelled(values: np.ndarray, helps: int = 1) -> xr.DataArray:
    return label(values, range(values.shape[0]), range(values.shape[1]), attributor="mine", unit="u", helps=helps)


@pytest.fixture
def additive() -> tuple[np.ndarray, Truth]:
    rng = np.random.default_rng(0)
    kept, effects = rng.random((SETS, TRAIN)) < 0.5, rng.normal(size=(TARGETS, TRAIN))
    return effects, truth_of(kept, 3.0 - kept @ effects.T)


def test_the_additive_effects_of_an_additive_truth_score_1_in_either_sign(additive: tuple[np.ndarray, Truth]) -> None:
    effects, truth = additive
    both = {"as help": labelled(effects), "as harm": labelled(-effects, helps=-1), "wrong": labelled(-effects)}
    found = linear_datamodeling_score(truth, both)
    assert found.value("as help", "score") == (1.0, 1.0, 1.0)
    assert found.value("as harm", "score") == (1.0, 1.0, 1.0)
    assert found.value("wrong", "score") == (-1.0, -1.0, -1.0)


def test_what_a_counterfactual_gives_is_read_in_its_own_sign(additive: tuple[np.ndarray, Truth]) -> None:
    effects, truth = additive  # of an example that helps, the removal raises the loss
    removal = xr.DataArray(
        effects, dims=("target", "train"), attrs={"helps": -1, "unit": "nats of target loss if the example is removed"}
    )
    assert linear_datamodeling_score(truth, removal).value("scores", "score").estimate == 1.0
    as_attributor = removal.assign_attrs(helps=1, attributor="counterfactual")  # which is labelled as all others
    assert linear_datamodeling_score(truth, as_attributor).value("counterfactual", "score").estimate == 1.0


def test_scores_that_say_nothing_count_as_0_and_targets_that_never_change_are_left_out() -> None:
    kept = np.random.default_rng(0).random((SETS, TRAIN)) < 0.5
    losses = np.stack([kept[:, 0].astype(float) * -1, np.ones(SETS)], 1)
    scores = np.zeros((2, TRAIN))
    assert linear_datamodeling_score(truth_of(kept, losses), labelled(scores)).value("mine", "score").estimate == 0.0
    scores[0, 0] = 1
    assert linear_datamodeling_score(truth_of(kept, losses), labelled(scores)).value("mine", "score").estimate == 1.0


def test_noise_scores_about_0(additive: tuple[np.ndarray, Truth]) -> None:
    found = linear_datamodeling_score(additive[1], labelled(np.random.default_rng(9).normal(size=(TARGETS, TRAIN))))
    assert abs(found.value("mine", "score").estimate) < 0.3
    assert "| mine |" in str(found)


def test_scores_of_other_targets_are_refused(additive: tuple[np.ndarray, Truth]) -> None:
    with pytest.raises(ShapeError, match=r"Scores 'mine' are of 2 targets and 12 .*; the truth is of 5 and 12. Score"):
        linear_datamodeling_score(additive[1], labelled(np.ones((2, TRAIN))))
    with pytest.raises(
        ArgumentError, match=r"Scores need the dims \('target', 'train'\).*got dims \('target', 'other'\)"
    ):
        linear_datamodeling_score(additive[1], labelled(np.ones((2, TRAIN))).rename(train="other"))
    with pytest.raises(ArgumentError, match=r"mapping is empty"):
        linear_datamodeling_score(additive[1], {})


def test_scores_that_are_no_numbers_are_refused_rather_than_left_out(additive: tuple[np.ndarray, Truth]) -> None:
    effects = additive[0].copy()
    effects[2, 7] = np.nan
    with pytest.raises(ArgumentError, match=r"finite numbers; 1 of 60 are not, .* target 2 and training example 7, co"):
        linear_datamodeling_score(additive[1], labelled(effects))
    with pytest.raises(ArgumentError, match=r"must be finite numbers"):
        most_harmful(labelled(effects))


def test_the_score_of_a_single_target_has_no_interval(additive: tuple[np.ndarray, Truth]) -> None:
    effects, truth = additive
    found = linear_datamodeling_score(Truth(truth.data.isel(target=[1])), labelled(effects[1:2]))
    assert str(found).endswith("| mine | 1.000 |")


def least_squares(ids: list[int], seed: int) -> nn.Module:
    """The exact fit, which no seed changes; it is enough to tell which examples it was fit to."""
    x, y = DATA[0][ids], F.one_hot(DATA[1][ids], 3).to(DATA[0])
    model = nn.Linear(x.shape[1], 3, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.linalg.solve(x.T @ x + torch.eye(x.shape[1]).double(), x.T @ y).T)
    return model


def test_losses_of_parts_are_those_of_trainings_on_them(tmp_path: Path) -> None:
    truth = subset_losses(
        least_squares, random_parts(TRAIN, sets=4), TARGET_DATA, loss=F.cross_entropy, path=tmp_path / "kept"
    )
    kept = truth.data["kept"].values
    assert kept.sum(1).tolist() == [TRAIN // 2] * 4
    assert len({tuple(row) for row in kept.tolist()}) == 4
    for row, losses in zip(kept, truth.data["loss"].values, strict=True):
        model = least_squares(np.flatnonzero(row).tolist(), 0)
        expected = F.cross_entropy(model(TARGET_DATA[0]), TARGET_DATA[1], reduction="none")
        np.testing.assert_allclose(losses, expected.detach().numpy(), rtol=1e-12)
    assert len(list((tmp_path / "kept").glob("*.npy"))) == 4


def test_an_interrupted_truth_goes_on_where_it_stopped(tmp_path: Path) -> None:
    seen: list[int] = []
    stop = [2]

    def train(ids: list[int], seed: int) -> nn.Module:
        if len(seen) == stop[0]:
            raise KeyboardInterrupt
        seen.append(seed)
        return least_squares(ids, seed)

    parts = random_parts(TRAIN, sets=4)
    with pytest.raises(KeyboardInterrupt):
        subset_losses(train, parts, TARGET_DATA, loss=F.cross_entropy, processes=1, path=tmp_path)
    assert seen == [1, 2]
    kept = sorted(tmp_path.glob("*.npy"))
    assert len(kept) == 2


def test_another_number_of_sets_uses_the_trainings_that_are_there(tmp_path: Path) -> None:
    first = subset_losses(least_squares, random_parts(TRAIN, sets=2), TARGET_DATA, loss=F.cross_entropy, path=tmp_path)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.npy")}
    more = subset_losses(least_squares, random_parts(TRAIN, sets=3), TARGET_DATA, loss=F.cross_entropy, path=tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 3
    assert all(file.stat().st_mtime_ns == time for file, time in before.items())
    np.testing.assert_array_equal(more.data["loss"][:2], first.data["loss"])


def test_losses_without_some_are_those_of_the_run_trained_again(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", OPTIMIZERS["AdamW"])
    targets = blobs(4, seed=1)
    truth = removal_losses(run, targets, share=0.1, sets=2)
    for row, losses in zip(truth.data["kept"].values, truth.data["loss"].values, strict=True):
        state = run.retrain(np.flatnonzero(~row))
        outputs = torch.func.functional_call(run.model, {**state.parameters, **state.buffers}, (targets[0],))
        expected = F.cross_entropy(outputs, targets[1], reduction="none")
        np.testing.assert_allclose(losses, expected.detach().numpy(), rtol=1e-10)
    effects = whence.counterfactual(run, targets, smoothness=0)
    check = whence.check(effects, int((~truth.data["kept"].values[0]).sum()), seeds=2)
    assert [set(np.flatnonzero(~row).tolist()) for row in truth.data["kept"].values] == [set(s) for s in check.removals]


def test_a_truth_is_saved_and_opened(additive: tuple[np.ndarray, Truth], tmp_path: Path) -> None:
    additive[1].save(tmp_path / "truth")
    again = load_truth(tmp_path / "truth")
    xr.testing.assert_equal(again.data, additive[1].data)
    with pytest.raises(DataError, match=r"holds no truth.*Give the path that Truth.save wrote"):
        load_truth(tmp_path)


def test_a_row_or_column_that_a_table_has_not_is_named_with_those_it_has(additive: tuple[np.ndarray, Truth]) -> None:
    effect, truth = additive
    table = linear_datamodeling_score(truth, labelled(effect))
    with pytest.raises(LabelError, match=r"No measure 'points' in the table; there are 'score'"):
        table.value(table.data["method"].values[0], "points")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"share": 1.5}, r"`share` must be a share between 0 and 1; got 1.5"),
        ({"sets": 0}, r"`sets` must be a whole number, at least 1; got 0"),
        ({"seed": -1}, r"`seed` is a whole number, at least 0; got -1"),
        ({"count": 1}, r"`count` must be a whole number, at least 2; got 1"),
    ],
)
def test_bad_parts_are_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        random_parts(**{"count": TRAIN, **change})


def test_a_training_that_gives_no_network_and_an_empty_part_are_named() -> None:
    wrong: Any = lambda ids, seed: 3  # noqa: E731
    with pytest.raises(ArgumentError, match=r"`train` must return the trained network \(nn.Module\); it gave int"):
        subset_losses(wrong, random_parts(TRAIN, sets=1), TARGET_DATA, loss=F.cross_entropy)
    with pytest.raises(ArgumentError, match=r"`parts` must each hold an example; got shape \(2, 12\)"):
        subset_losses(least_squares, np.zeros((2, TRAIN), dtype=bool), TARGET_DATA, loss=F.cross_entropy)


def test_a_truth_has_a_row_of_finite_losses_for_each_set() -> None:
    with pytest.raises(
        ArgumentError, match=r"one row a set and finite numbers; got \(3, 2\) for sets of shape \(2, 4\)"
    ):
        truth_of(np.ones((2, 4), dtype=bool), np.ones((3, 2)))


def test_methods_are_compared_on_trainings_that_do_not_depend_on_the_targets_chosen(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", OPTIMIZERS["SGD"])
    path = tmp_path / "trainings"
    methods: dict[str, Attributor | xr.DataArray] = {"dot": GradDot(), "noise": Random()}
    some = compare_attributors(run, TARGET_DATA, methods, ids=[3, 1], sets=4, share=0.3, path=path)
    kept = {file: file.stat().st_mtime_ns for file in path.iterdir()}
    truth = removal_losses(run, TARGET_DATA, sets=4, share=0.3, path=path)
    assert {file: file.stat().st_mtime_ns for file in path.iterdir()} == kept
    scores = attribute(GradDot(), run, TARGET_DATA, ids=[3, 1])
    alone = linear_datamodeling_score(Truth(truth.data.isel(target=[3, 1])), {"dot": scores})
    assert some.value("dot", "score") == alone.value("dot", "score")
    assert {name: some.data.attrs[name] for name in ("run", "run_identity", "steps")} == {
        "run": "run",
        "run_identity": run.identity,
        "steps": run.steps,
    }
    assert compare_attributors(run, TARGET_DATA, {"dot": scores}, ids=[3, 1], sets=4, share=0.3, path=path).value(
        "dot", "score"
    ) == some.value("dot", "score")
    with pytest.raises(ArgumentError, match=r"Scores 'dot' must have the targets `ids` as their .*: 2 from 1 to 3\."):
        compare_attributors(run, TARGET_DATA, {"dot": scores}, ids=[1, 3], sets=4, share=0.3, path=path)
    with pytest.raises(ArgumentError, match=r"There is nothing to evaluate: the mapping is empty"):
        compare_attributors(run, TARGET_DATA, {})


def test_what_cannot_be_compared_is_known_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path / "run", OPTIMIZERS["SGD"])
    scores = attribute(GradDot(), run, TARGET_DATA)
    monkeypatch.setattr("whence.evaluation.comparison.removal_losses", None)
    with pytest.raises(ShapeError, match=r"Scores 'dot' are of 5 training examples; the run has 12. Score those of th"):
        compare_attributors(run, TARGET_DATA, {"dot": scores[:, :5]}, sets=4, share=0.3)
    with pytest.raises(ArgumentError, match=r"Scores need the dims .* and None"):
        compare_attributors(run, TARGET_DATA, {"dot": scores.drop_attrs()}, sets=4, share=0.3)
    with pytest.raises(ArgumentError, match=r"must be finite numbers; 60 of 60"):
        compare_attributors(run, TARGET_DATA, {"dot": scores.copy(data=scores * np.nan)}, sets=4, share=0.3)
    with pytest.raises(ArgumentError, match=r"`sets` must be a whole number, at least 3; got 2"):
        compare_attributors(run, TARGET_DATA, {"dot": scores}, sets=2, share=0.3)


def test_a_table_is_the_same_after_it_was_kept(tmp_path: Path) -> None:
    numbers = [[Interval(0.5, 0.25, 0.75), Interval(float("nan"), float("nan"), float("nan"))]]
    given = table_of(
        numbers,
        ("method", ["mine"]),
        ("share", [0.1, 0.5]),
        title="T",
        measure="m",
        interval="over targets",
        references={"ideal": 1.0},
    )
    place = tmp_path / "folder" / "t.json"
    given.save(place)
    found = load_table(place)
    xr.testing.assert_identical(found.data, given.data)
    assert found.references == given.references
    assert str(found) == str(given)
    assert "NaN" not in place.read_text()  # which is no JSON
    with pytest.raises(AuditError, match=r"Something stands at .*t\.json already"):
        given.save(place)


@pytest.mark.parametrize("text", [None, "{", "[]", "{}", '{"format": 2}', '{"format": 1, "dims": []}'])
def test_what_is_no_table_is_refused(text: str | None, tmp_path: Path) -> None:
    place = tmp_path / "t.json"
    if text is not None:
        place.write_text(text)
    with pytest.raises(
        DataError, match=r"t\.json holds no table.*Give the file that Table\.save, or whence evaluate --out"
    ):
        load_table(place)
