"""What holds of a counterfactual whatever the optimizer: chunks, means, shares, resuming, refusals, and the check."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.optim import SGD, AdamW

import whence
from tests.audit.training import Data, blobs, tanh_net, trained
from tests.counterfactual.test_derivative import OPTIMIZERS, run_of
from whence._errors import ArgumentError, AuditError, GradientError, WhenceError
from whence.counterfactual import load_effects, trust
from whence.runs import Run

ROUNDING = 1e-12
TARGETS = blobs(6, seed=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_of(tmp_path_factory.mktemp("counterfactual") / "run", OPTIMIZERS["AdamW"])


@pytest.fixture(scope="module")
def effects(run: Run) -> xr.DataArray:
    return whence.counterfactual(run, TARGETS)


def test_chunks_of_targets_and_pieces_of_steps_change_nothing(run: Run, effects: xr.DataArray) -> None:
    small = whence.counterfactual(run, TARGETS, memory_budget=1, smoothness=0)
    np.testing.assert_allclose(small, effects, rtol=0, atol=ROUNDING)


def test_the_spacing_of_snapshots_changes_nothing(effects: xr.DataArray, tmp_path: Path) -> None:
    other = run_of(tmp_path / "run", OPTIMIZERS["AdamW"], snapshot_every=1)
    assert len(other.segments()) == other.steps
    found = whence.counterfactual(other, TARGETS, smoothness=0)
    np.testing.assert_allclose(found, effects, rtol=0, atol=ROUNDING)


def test_the_mean_over_a_group_is_the_mean_of_its_targets(run: Run, effects: xr.DataArray) -> None:
    whole = whence.counterfactual(run, TARGETS, over="all", smoothness=0)
    assert whole.coords["target"].values.tolist() == ["all"]
    np.testing.assert_allclose(whole.values[0], effects.mean("target"), rtol=0, atol=ROUNDING)
    classes = whence.counterfactual(run, TARGETS, over="label", smoothness=0)
    for label in classes.coords["target"].values:
        members = np.flatnonzero(TARGETS[1].numpy() == label)
        mean = effects.isel(target=members).mean("target")
        np.testing.assert_allclose(classes.sel(target=label), mean, rtol=0, atol=ROUNDING)
    named = whence.counterfactual(run, TARGETS, over=["b", "a", "b", "b", "a", "b"], smoothness=0)
    assert named.coords["target"].values.tolist() == ["a", "b"]
    np.testing.assert_allclose(named.sel(target="a"), effects[[1, 4]].mean("target"), rtol=0, atol=ROUNDING)


def test_chosen_targets_have_the_effects_they_have_among_all(run: Run, effects: xr.DataArray) -> None:
    few = whence.counterfactual(run, TARGETS, ids=[4, 1], smoothness=0)
    np.testing.assert_allclose(few, effects.sel(target=[4, 1]), rtol=0, atol=ROUNDING)


def test_duplicates_share_alike(tmp_path: Path) -> None:
    x, y = blobs(6)
    twice = (torch.cat([x, x[:2]]), torch.cat([y, y[:2]]))
    run = run_of(tmp_path / "run", lambda p: SGD(p, 0.1), twice, batch_size=8)
    found = whence.counterfactual(run, TARGETS, smoothness=0).values
    np.testing.assert_allclose(found[:, :2], found[:, 6:], rtol=0, atol=ROUNDING)
    assert np.abs(found[:, :2]).min() > 0


def test_an_example_that_was_in_no_batch_has_exactly_no_effect(tmp_path: Path) -> None:
    data, model = blobs(), tanh_net()
    optimizer = SGD(model.parameters(), 0.1)
    drawn: set[int] = set()
    with whence.record(tmp_path / "run", model, optimizer, data, loss=F.cross_entropy) as recorder:
        for x, y in recorder.batches(batch_size=4, shuffle=True, seed=1):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            break
    run = whence.open_run(tmp_path / "run", tanh_net(), data, loss=F.cross_entropy)
    drawn = set(run.record_of(0).batches[0].tolist())
    found = whence.counterfactual(run, TARGETS, smoothness=0)
    never = [one for one in range(12) if one not in drawn]
    assert len(never) == 8
    assert (found.sel(train=never) == 0.0).all()
    assert (np.abs(found.sel(train=sorted(drawn))) > 0).all()


def test_the_result_says_its_unit_its_smoothness_and_a_verdict(effects: xr.DataArray) -> None:
    assert effects.attrs["unit"] == "nats of target loss if the example is removed"
    assert effects.dims == ("target", "train")
    small, large = effects.attrs["smoothness"]
    assert small < large < 0.1
    assert effects.attrs["verdict"].startswith("smooth: on 2 random sets of 1/20 of the training data, the predicted")
    assert "nats of target loss" in repr(effects)
    assert not effects.attrs["targets_are_training_data"]


def test_smoothness_is_the_error_of_the_prediction_at_two_steps(run: Run, effects: xr.DataArray) -> None:
    begun = losses(run, run.state_at(run.steps))
    wrong = total = 0.0
    for seed in range(2):
        chosen = np.random.default_rng(seed).choice(12, 1, replace=False)
        end = losses(run, run.retrain(weights={int(one): 1 - trust.STEPS[0] for one in chosen}))
        slope = (end - begun) / trust.STEPS[0]
        wrong += np.abs(slope - effects.values[:, chosen].sum(1)).sum()
        total += np.abs(slope).sum()
    assert effects.attrs["smoothness"][0] == pytest.approx(wrong / total, rel=1e-9)


def losses(run: Run, state: Any) -> np.ndarray:
    outputs = torch.func.functional_call(run.model, {**state.parameters, **state.buffers}, (TARGETS[0],))
    found: np.ndarray = F.cross_entropy(outputs, TARGETS[1], reduction="none").detach().numpy()
    return found


@pytest.mark.parametrize(
    ("errors", "words"), [([0.01, 0.05], "smooth: "), ([0.01, 0.3], "somewhat smooth: "), ([2.0, 0.3], "not smooth: ")]
)
def test_the_verdict_follows_the_larger_error(errors: list[float], words: str) -> None:
    assert trust.verdict(errors, 1).startswith(words)
    assert "1 random set of" in trust.verdict(errors, 1)


def test_an_error_that_is_no_number_is_not_called_smooth() -> None:
    assert trust.verdict([float("nan"), 0.0], 2).startswith("not smooth: ")


def test_targets_may_be_training_examples_and_that_is_said(run: Run) -> None:
    found = whence.counterfactual(run, blobs(), ids=[3], smoothness=0)
    assert found.attrs["targets_are_training_data"]
    assert int(np.argmax(found.sel(target=3).values)) == 3  # without itself, its loss would rise most
    assert found.attrs["verdict"] == "not measured (smoothness=0)"


def test_a_probability_goes_the_other_way_than_its_loss(run: Run) -> None:
    loss = whence.counterfactual(run, TARGETS, smoothness=0).values
    probability = whence.counterfactual(run, TARGETS, quantity="probability", smoothness=0)
    assert (np.sign(probability.values) == -np.sign(loss)).all()
    assert probability.attrs["unit"] == "target probability if the example is removed"


class StoppedError(Exception):
    """Stands for whatever stops a walk."""


def test_an_interrupted_counterfactual_goes_on_where_it_stopped(
    run: Run, effects: xr.DataArray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api, partial = (importlib.import_module(f"whence.counterfactual.{name}") for name in ("api", "partial"))
    monkeypatch.setattr(partial, "_SAVE_EVERY", 0.0)
    walk_segment, walked = api.walk_segment, list[Any]()

    def stop_at_third(*args: Any) -> int:
        if len(walked) == 2:
            raise StoppedError
        walked.append(args)
        return int(walk_segment(*args))

    monkeypatch.setattr(api, "walk_segment", stop_at_third)
    place = tmp_path / "effects.zarr"
    with pytest.raises(StoppedError):
        whence.counterfactual(run, TARGETS, smoothness=0, path=place)
    assert not place.exists()
    with pytest.raises(AuditError, match=r"begun with other arguments \(ids, members differ\)"):
        whence.counterfactual(run, TARGETS, ids=[0], smoothness=0, path=place)
    monkeypatch.setattr(api, "walk_segment", walk_segment)
    found = whence.counterfactual(run, TARGETS, smoothness=0, path=place)
    assert [one.name for one in tmp_path.iterdir()] == ["effects.zarr"]
    np.testing.assert_array_equal(found, effects)
    kept = load_effects(place)
    np.testing.assert_array_equal(kept, effects)
    with pytest.raises(AuditError, match="Something stands at"):
        whence.counterfactual(run, TARGETS, smoothness=0, path=place)


def test_a_resumed_walk_takes_fewer_steps(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api, partial = (importlib.import_module(f"whence.counterfactual.{name}") for name in ("api", "partial"))
    monkeypatch.setattr(partial, "_SAVE_EVERY", 0.0)
    walk_segment, calls = api.walk_segment, 0

    def counted(*args: Any) -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return int(walk_segment(*args))

    monkeypatch.setattr(api, "walk_segment", counted)
    with pytest.raises(KeyboardInterrupt):
        whence.counterfactual(run, TARGETS, smoothness=0, path=tmp_path / "e.zarr")
    whence.counterfactual(run, TARGETS, smoothness=0, path=tmp_path / "e.zarr")
    assert calls == len(run.segments()) + 1


# Training again


def test_training_again_with_every_weight_one_ends_as_recorded_bit_by_bit(run: Run) -> None:
    again, recorded = run.retrain(weights=[1.0] * 12), run.state_at(run.steps)
    assert all(torch.equal(again.parameters[name], one) for name, one in recorded.parameters.items())


def test_training_again_without_examples_is_training_with_their_losses_at_zero(tmp_path: Path) -> None:
    data = blobs()
    run = run_of(tmp_path / "run", lambda p: AdamW(p, 0.02, weight_decay=0.5), data)
    model = tanh_net()
    optimizer = AdamW(model.parameters(), 0.02, weight_decay=0.5)
    weights = torch.ones(12, dtype=torch.float64)
    weights[[2, 7]] = 0
    for step in range(run.steps):
        (ids,) = run.record_of(step).batches
        optimizer.zero_grad()
        losses = F.cross_entropy(model(data[0][ids]), data[1][ids], reduction="none")
        ((weights[ids] * losses).sum() / len(ids)).backward()
        optimizer.step()
    ours = run.retrain(without=[7, 2]).parameters
    for name, one in model.named_parameters():
        torch.testing.assert_close(ours[name], one.detach(), rtol=0, atol=ROUNDING)


# The check


def test_a_check_compares_what_was_predicted_with_what_retraining_gives(run: Run, effects: xr.DataArray) -> None:
    found = whence.check(effects, [[1, 4], [0]], seeds=2)
    assert found.removals[:2] == ((1, 4), (0,))
    assert found.data.coords["kind"].values.tolist() == ["chosen"] * 2 + ["random"] * 4
    assert found.data.coords["size"].values.tolist() == [2, 1, 2, 2, 1, 1]
    begun = losses(run, run.state_at(run.steps))
    for place, ids in enumerate(found.removals):
        true = losses(run, run.retrain(without=ids)) - begun
        np.testing.assert_allclose(found.data["retrained"][place], true, rtol=0, atol=ROUNDING)
        np.testing.assert_allclose(
            found.data["predicted"][place], effects.values[:, list(ids)].sum(1), rtol=0, atol=ROUNDING
        )
    assert found.correlation > 0.9
    low, high = found.interval()
    assert low <= found.slope <= high
    text = str(found)
    assert text.startswith("6 removals retrained, 6 results: mean change ")
    assert f"slope {found.slope:.3f}" in text
    assert len(found.plot().data) == 3


def test_effects_that_were_calculated_with_are_checked_as_they_are(run: Run, effects: xr.DataArray) -> None:
    whole = whence.check(effects, 2, seeds=4)
    doubled = whence.check((effects + effects.copy()) / 0.5, 2, seeds=4)
    assert doubled.slope == pytest.approx(whole.slope / 4, rel=1e-12)
    np.testing.assert_array_equal(doubled.data["retrained"], whole.data["retrained"])


def test_slope_and_correlation_are_what_their_names_say() -> None:
    generator = np.random.default_rng(0)
    predicted = generator.normal(size=(20, 3))
    data = xr.Dataset(
        {"predicted": (("set", "target"), predicted), "retrained": (("set", "target"), 2 * predicted**3)},
        attrs={"unit": "nats"},
    )
    found = whence.Check(data, ())
    assert found.correlation == pytest.approx(1.0)
    assert found.slope == pytest.approx(float((2 * predicted**4).sum() / (predicted**2).sum()))
    np.testing.assert_allclose(found.interval("correlation"), 1.0)
    fewer = whence.Check(data.isel(set=[0, 1]), ())
    assert np.isnan(fewer.correlation)
    assert np.isnan(fewer.interval()[0])


def test_several_processes_give_the_same_and_what_was_found_is_kept(
    run: Run, effects: xr.DataArray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = whence.check(effects, 2, seeds=[5, 6])
    two = whence.check(effects, 2, seeds=[5, 6], processes=2, path=tmp_path / "check.json")
    np.testing.assert_allclose(two.data["retrained"], one.data["retrained"], rtol=0, atol=1e-9)
    module = importlib.import_module("whence.counterfactual.check")
    monkeypatch.setattr(
        module, "in_processes", lambda _run, _make, count, _processes: iter([1 / zero for zero in [0] * count])
    )
    again = whence.check(effects, 2, seeds=[5, 6], processes=2, path=tmp_path / "check.json")
    np.testing.assert_array_equal(again.data["retrained"], two.data["retrained"])


def test_effects_from_disk_are_checked_with_run_and_targets_given(run: Run, tmp_path: Path) -> None:
    whence.counterfactual(run, TARGETS, ids=[2, 5], smoothness=0, path=tmp_path / "e.zarr")
    loaded = load_effects(tmp_path / "e.zarr")
    other = whence.open_run(run.path, tanh_net(), blobs(), loss=F.cross_entropy)
    fresh = loaded.assign_attrs(id="of another process")
    with pytest.raises(ArgumentError, match=r"are not in memory\. Give run= and targets="):
        whence.check(fresh, 1, seeds=1)
    with pytest.raises(ArgumentError, match="The targets given are not those"):
        whence.check(fresh, 1, seeds=1, run=other, targets=blobs(6, seed=2))
    found = whence.check(fresh, [[3]], seeds=1, run=other, targets=TARGETS)
    np.testing.assert_array_equal(found.data["retrained"], whence.check(loaded, [[3]], seeds=1).data["retrained"])


def test_what_is_no_effects_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="there is no such folder"):
        load_effects(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(AuditError, match="empty holds no effects"):
        load_effects(tmp_path / "empty")
    xr.Dataset({"a": ("b", [1.0])}).to_zarr(tmp_path / "other", consolidated=False, zarr_format=3)
    with pytest.raises(AuditError, match="other holds no effects of format 1"):
        load_effects(tmp_path / "other")


def test_some_targets_of_the_effects_are_checked_alone(effects: xr.DataArray) -> None:
    whole, part = (whence.check(one, [[3]], seeds=0) for one in (effects, effects.sel(target=[4, 2])))
    np.testing.assert_array_equal(part.data["retrained"], whole.data["retrained"].sel(target=[4, 2]))


# Refusals


class Once(torch.autograd.Function):
    """Its gradient has none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.tanh()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 0.5


class Flat(nn.Module):
    """Uses an operation without second derivative."""

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = Once.apply(x)  # type: ignore[no-untyped-call]
        return found


def odd_run(path: Path, model: nn.Module, data: Data | None = None) -> Run:
    return trained(path, model, SGD(model.parameters(), 0.1), data or blobs(), epochs=1)


ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "quantity": ({"quantity": "lost"}, "No quantity 'lost'"),
    "over": (
        {"over": "labels"},
        r"`over` is None, 'all', 'label', or one name for each of the 6 targets; got 'labels'",
    ),
    "few names": ({"over": ["a"]}, "got 1 names"),
    "precision": ({"precision": "mixed"}, "below float32 a derivative through a whole training is noise"),
    "ids": ({"ids": [6]}, r"`ids` must name some of the 6 targets"),
    "smoothness": ({"smoothness": -1}, "`smoothness` is a number of random sets, 0 for none; got -1"),
    "smoothing": ({"smoothing": -0.1}, "`smoothing` is a share of the divisors, 0 or more; got -0.1"),
    "budget": ({"memory_budget": 0}, "`memory_budget` is a whole number of bytes, at least 1; got 0"),
    "no gradient": (
        {"quantity": lambda outputs, labels: (outputs.argmax(1) == labels).double()},
        "does not depend on trained parameters in a way that can be differentiated",
    ),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_outside_what_is_listed_are_refused_by_name(name: str, run: Run) -> None:
    options, words = ARGUMENTS[name]
    with pytest.raises(ArgumentError, match=words):
        whence.counterfactual(run, TARGETS, **{"smoothness": 0, **options})


REMOVALS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "too many": ([list(range(13))], {}, "sets of 1 to 12 training examples"),
    "none": ([], {}, "got none"),
    "empty": ([[]], {}, r"got sizes \[0\]"),
    "stranger": ([[12]], {}, "No training example 12: the run has examples 0 to 11"),
    "twice": ([[1, 1]], {}, "some of them twice"),
    "nothing": (2, {"seeds": 0}, "There is nothing to check"),
    "processes": ([[1]], {"processes": 0}, "`processes` is a number of trainings at once, at least 1; got 0"),
}


@pytest.mark.parametrize("name", REMOVALS)
def test_removals_that_cannot_be_made_are_refused_by_name(name: str, effects: xr.DataArray) -> None:
    removals, options, words = REMOVALS[name]
    with pytest.raises(ArgumentError, match=words):
        whence.check(effects, removals, **options)


def test_effects_without_their_attributes_are_refused(effects: xr.DataArray) -> None:
    with pytest.raises(ArgumentError, match="its attributes say which run it is about"):
        whence.check(xr.DataArray(effects.values, dims=("target", "train")), 1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda run: run.retrain(without=[-1]), "No training example -1"),
        (lambda run: run.retrain(weights=[1.0]), "one finite number for each of the 12 training examples; got"),
        (lambda run: run.retrain(weights={0: float("nan")}), "must be finite numbers; got nan"),
    ],
)
def test_weights_that_are_none_are_refused(call: Callable[[Run], object], words: str, run: Run) -> None:
    with pytest.raises(ArgumentError, match=words):
        call(run)


class Counting(nn.Module):
    """Keeps in a buffer what it saw last."""

    last: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        self.last.copy_(x.detach().mean())
        return x


MODELS: dict[str, tuple[Callable[[], nn.Module], type[WhenceError], str]] = {
    "no second derivative": (
        lambda: nn.Sequential(nn.Linear(3, 4), Flat(), nn.Linear(4, 3)),
        GradientError,
        r"Second derivatives of Sequential cannot be formed: .*once_differentiable",
    ),
    "a state of its own": (
        lambda: nn.Sequential(nn.Linear(3, 4), Counting(), nn.Linear(4, 3)),
        GradientError,
        r"changed the buffers 1\.last",
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_that_cannot_be_walked_back_are_refused_by_name(name: str, tmp_path: Path) -> None:
    make, error, words = MODELS[name]
    run = odd_run(tmp_path / "run", make().double())
    with pytest.raises(error, match=words):
        whence.counterfactual(run, TARGETS, smoothness=0)


def test_a_run_under_autocast_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, data = nn.Linear(3, 3), blobs(dtype=torch.float32)
    optimizer = SGD(model.parameters(), 0.1)
    with whence.record(tmp_path / "run", model, optimizer, data, loss=F.cross_entropy) as recorder:
        for x, y in recorder.batches(batch_size=4):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
    run = whence.open_run(tmp_path / "run", model, data, loss=F.cross_entropy)
    with pytest.raises(ArgumentError, match=re.escape("was computed in bfloat16 by torch.autocast")):
        whence.counterfactual(run, data, smoothness=0)


def test_an_empty_run_is_refused(tmp_path: Path) -> None:
    model = tanh_net()
    with whence.record(tmp_path / "run", model, SGD(model.parameters(), 0.1), blobs(), loss=F.cross_entropy):
        pass
    run = whence.open_run(tmp_path / "run", model, blobs(), loss=F.cross_entropy)
    with pytest.raises(AuditError, match="has no step, so nothing could be otherwise"):
        whence.counterfactual(run, TARGETS)
