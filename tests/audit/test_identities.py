"""What must hold between audits of one run, or of runs that differ in one thing."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.optim import SGD, Adam, AdamW

import whence
from tests.audit.training import blobs, tanh_net, trained
from whence._errors import AuditError
from whence.audit import walk
from whence.audit.steps import Form, steps_of

ROUNDING = 1e4 * np.finfo(np.float64).eps
BYS = [by for size in range(4) for by in itertools.combinations(("layer", "epoch", "label"), size)] + [
    ("step",),
    ("step", "layer"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> whence.Run:
    model = tanh_net()
    return trained(
        tmp_path_factory.mktemp("runs") / "run", model, AdamW(model.parameters(), 0.02, weight_decay=0.5), blobs()
    )


@pytest.mark.parametrize("by", BYS, ids=str)
def test_marginals_agree_over_any_axes(by: tuple[str, ...], run: whence.Run) -> None:
    plain = whence.audit(run, blobs(seed=1)).influence
    split = whence.audit(run, blobs(seed=1), by=by).influence
    assert set(split.dims) == {"target", *by, *(() if "label" in by else ("train",))}
    if "label" in by:
        plain = plain.groupby("train_label").sum().rename(train_label="label")
    summed = split.sum([dim for dim in by if dim != "label"])
    np.testing.assert_allclose(summed.values, plain.values, rtol=0, atol=ROUNDING)


def test_profile_is_the_influence_summed_over_training_examples(run: whence.Run) -> None:
    audit = whence.audit(run, blobs(seed=1), by=("layer", "epoch"))
    np.testing.assert_allclose(audit.influence.sum("train").values, audit.profile.values, rtol=0, atol=ROUNDING)


def test_examples_influence_at_the_steps_that_drew_them_and_never_drawn_ones_not_at_all(tmp_path: Path) -> None:
    model, data = tanh_net(), blobs()
    optimizer = SGD(model.parameters(), 0.1)
    with whence.record(tmp_path / "run", model, optimizer, data, loss=F.cross_entropy) as recorder:
        for _ in range(2):
            x, y = next(recorder.batches(4, seed=3))
            model.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    run = whence.open_run(tmp_path / "run", model, data, loss=F.cross_entropy)
    by_step = whence.audit(run, blobs(seed=1), by="step").influence
    assert run.steps == 2
    for step in range(run.steps):
        drawn = torch.cat(run.record_of(step).batches).numpy()
        others = np.setdiff1d(np.arange(12), drawn)
        assert (by_step.sel(step=step, train=others) == 0.0).all()
        assert (abs(by_step.sel(step=step, train=drawn)).sum("target") > 0).all()


def test_duplicates_that_are_drawn_together_share_equally(tmp_path: Path) -> None:
    x, y = blobs()
    data = (torch.cat([x, x[:1], x[:1]]), torch.cat([y, y[:1], y[:1]]))
    model = tanh_net()
    run = trained(tmp_path / "run", model, Adam(model.parameters(), 0.02), data, batch_size=14)
    found = whence.audit(run, blobs(seed=1)).influence.values
    np.testing.assert_allclose(found[:, 12], found[:, 0], rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(found[:, 13], found[:, 0], rtol=0, atol=ROUNDING)


def test_chunks_of_targets_change_nothing(run: whence.Run) -> None:
    whole = whence.audit(run, blobs(seed=1))
    chunked = whence.audit(run, blobs(seed=1), memory_budget=3 * 2 * 8 * (2 * 59 + 12))
    np.testing.assert_allclose(chunked.influence, whole.influence, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(chunked.data["course"], whole.data["course"], rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("spacing", [1, 2, 100])
def test_spacing_of_snapshots_changes_nothing(spacing: int, run: whence.Run, tmp_path: Path) -> None:
    model = tanh_net()
    optimizer = AdamW(model.parameters(), 0.02, weight_decay=0.5)
    other = trained(tmp_path / "run", model, optimizer, blobs(), snapshot_every=spacing)
    assert len(other.segments()) != len(run.segments())
    ours, theirs = (whence.audit(one, blobs(seed=1)).influence for one in (run, other))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("by", [(), ("epoch", "layer"), ("step",)], ids=str)
@pytest.mark.parametrize("stop_after", [1, 2])
def test_interrupted_audit_goes_on_where_it_stopped(
    by: tuple[str, ...], stop_after: int, run: whence.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = whence.audit(run, blobs(seed=1), by=by)
    walked: list[int] = []
    real = walk.walk_segment

    def interrupted(state: walk.Walk, *args: Any) -> int:
        if len(walked) == stop_after:
            walked.append(-1)
            raise KeyboardInterrupt
        walked.append(state.next_segment)
        return real(state, *args)

    api = importlib.import_module("whence.audit.api")
    monkeypatch.setattr(api, "walk_segment", interrupted)
    monkeypatch.setattr(api, "_SAVE_EVERY", 0.0)
    with pytest.raises(KeyboardInterrupt):
        whence.audit(run, blobs(seed=1), by=by, path=tmp_path / "audit")
    with pytest.raises(AuditError, match=r"begun with other arguments \(quadrature differ\)"):
        whence.audit(run, blobs(seed=1), by=by, path=tmp_path / "audit", quadrature="euler")
    resumed = whence.audit(run, blobs(seed=1), by=by, path=tmp_path / "audit")
    segments = len(run.segments())
    assert walked[:stop_after] + walked[stop_after + 1 :] == list(reversed(range(segments)))  # nothing walked twice
    np.testing.assert_allclose(resumed.influence.values, whole.influence.values, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(resumed.profile.values, whole.profile.values, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(
        resumed.data["step_error"].values, whole.data["step_error"].values, rtol=0, atol=ROUNDING
    )
    assert sorted(one.name for one in tmp_path.iterdir()) == ["audit"]


ORDERS = {"euler": 2, "trapezoid": 3, "simpson": 5, "gauss2": 5, "gauss3": 7}


@pytest.mark.parametrize("quadrature", ORDERS)
def test_error_of_a_step_falls_at_the_order_of_its_quadrature(quadrature: str, tmp_path: Path) -> None:
    errors = []
    for number, rate in enumerate((2.0, 1.0, 0.5)):
        model = tanh_net()
        run = trained(tmp_path / str(number), model, SGD(model.parameters(), rate), blobs(), epochs=1, batch_size=12)
        errors.append(whence.audit(run, blobs(seed=1), quadrature=quadrature).completeness.mean_error)
    # Halving the step divides the error by 2**order, up to the next term of its series.
    assert np.log2(errors[1] / errors[2]) == pytest.approx(ORDERS[quadrature], abs=0.6)


def test_a_tolerance_is_kept_and_stated(run: whence.Run) -> None:
    coarse = whence.audit(run, blobs(seed=1))
    for tolerance in (1e-5, 1e-8, 1e-10):
        assert coarse.completeness.mean_error > tolerance
        fine = whence.audit(run, blobs(seed=1), tolerance=tolerance)
        assert fine.completeness.mean_error <= tolerance
        assert fine.data.attrs["tolerance"] == tolerance


def test_a_tolerance_is_kept_by_errors_of_steps_that_are_each_below_rounding(tmp_path: Path) -> None:
    model, targets = tanh_net(dtype=torch.float32), blobs(seed=1, dtype=torch.float32)
    data = blobs(dtype=torch.float32)
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 2e-3), data, epochs=40, snapshot_every=50)
    coarse = whence.audit(run, targets, quadrature="euler")
    eps, tolerance = np.finfo(np.float32).eps, 1e-6
    assert float(coarse.data["step_error"].max()) < 16 * eps  # of a loss of about 1, and differences of two such
    assert coarse.completeness.mean_error > 4 * tolerance
    fine = whence.audit(run, targets, quadrature="euler", tolerance=tolerance)
    assert fine.completeness.mean_error <= tolerance


@pytest.mark.parametrize("subsample", [2, 3, 100])
def test_subsampled_stretches_attribute_all_they_explain(subsample: int, run: whence.Run) -> None:
    audit = whence.audit(run, blobs(seed=1), subsample=subsample)
    explained = audit.data["explained"].isel(point=-1).values
    np.testing.assert_allclose(audit.completeness.reconstructed.values, explained, rtol=0, atol=ROUNDING)
    assert audit.completeness.mean_error > whence.audit(run, blobs(seed=1)).completeness.mean_error


def test_euler_with_plain_sgd_is_tracin(tmp_path: Path) -> None:
    model, data, (xs, ys) = tanh_net(), blobs(), blobs(4, seed=1)
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.1), data)
    expected = np.zeros((4, 12))
    for step in range(run.steps):
        model.load_state_dict(run.state_at(step).parameters)
        batch = torch.cat(run.record_of(step).batches).tolist()
        rows = {m: _gradient(model, data[0][m], data[1][m]) for m in batch}
        for n, (x, y) in enumerate(zip(xs, ys, strict=True)):
            own = _gradient(model, x, y)
            for m in batch:
                expected[n, m] -= 0.1 / len(batch) * float(own @ rows[m])
    found = whence.audit(run, (xs, ys), quadrature="euler").influence
    np.testing.assert_allclose(found, expected, rtol=0, atol=ROUNDING)


def _gradient(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    found = torch.autograd.grad(F.cross_entropy(model(x[None]), y[None]), list(model.parameters()))
    return torch.cat([one.reshape(-1) for one in found])


def test_mixed_precision_differs_by_the_rounding_of_bfloat16_only(tmp_path: Path) -> None:
    model = tanh_net(dtype=torch.float32)
    data = blobs(dtype=torch.float32)
    run = trained(tmp_path / "run", model, Adam(model.parameters(), 0.02), data)
    full, mixed, double = (
        whence.audit(run, blobs(seed=1, dtype=torch.float32), precision=one) for one in ("float32", "mixed", "float64")
    )
    size = float(np.abs(full.influence).max())
    # bfloat16 keeps 8 bits of each factor; float32 keeps 24 of everything; sums of a few hundred terms
    assert 0 < float(np.abs(mixed.influence - full.influence).max()) < 2 * 2**-8 * size
    assert 0 < float(np.abs(full.influence - double.influence).max()) < 1e3 * 2**-24 * size
    assert double.influence.dtype == np.float64


def test_probabilities_of_all_classes_share_nothing_in_sum(run: whence.Run) -> None:
    audit = whence.audit(run, blobs(5, seed=1), quantity="probability", classes="all")
    assert audit.influence.sizes["target"] == 15
    summed = audit.influence.groupby("example").sum()  # probabilities always add up to 1, whoever trained
    np.testing.assert_allclose(summed.values, 0.0, atol=ROUNDING)
    assert float(np.abs(audit.influence).max()) > 1e-3


def test_classes_of_a_logit_are_rows_of_their_own(run: whence.Run) -> None:
    xs, ys = blobs(5, seed=1)
    audit = whence.audit(run, (xs, ys), quantity="logit", classes=[2, 0])
    assert audit.influence.coords["target"].values.tolist()[:3] == ["0:2", "0:0", "1:2"]
    for kind in (0, 2):
        alone = whence.audit(run, (xs, torch.full_like(ys, kind)), quantity="logit").influence.values
        rows = audit.influence.values[audit.influence.coords["class"].values == kind]
        np.testing.assert_allclose(rows, alone, rtol=0, atol=ROUNDING)


def test_a_callable_equal_to_the_loss_gives_the_audit_of_the_loss(run: whence.Run) -> None:
    def own(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return -torch.log_softmax(outputs, 1).gather(1, labels[:, None]).squeeze(1)

    ours, theirs = whence.audit(run, blobs(seed=1), quantity=own), whence.audit(run, blobs(seed=1))
    np.testing.assert_allclose(ours.influence, theirs.influence, rtol=0, atol=ROUNDING)
    assert ours.unit == "units of own"
    assert (ours.helps, theirs.helps) == (1, -1)


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_a_segment_walked_in_pieces_changes_nothing(
    kept: int, run: whence.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tanh_net()
    optimizer = AdamW(model.parameters(), 0.02, weight_decay=0.5)
    long = trained(tmp_path / "run", model, optimizer, blobs(), snapshot_every=100)
    assert len(long.segments()) == 1
    pieces_module = importlib.import_module("whence.runs.pieces")
    whole = whence.audit(run, blobs(seed=1)).influence
    real: Callable[[object], int] = pieces_module.size
    walked: list[int] = []

    def size(step: object) -> int:
        walked.append(real(step))
        return walked[-1]

    monkeypatch.setattr(pieces_module, "size", size)
    one = next(steps_of(long, long.segments()[0], Form(torch.float64, torch.float64, 1)))
    assert len(one) == 1
    budget = 2 * kept * real(one[0])  # half of it is for the steps at hand
    pieces = whence.audit(long, blobs(seed=1), memory_budget=budget).influence
    np.testing.assert_allclose(pieces, whole, rtol=0, atol=ROUNDING)


def test_one_target_alone_has_the_influences_it_has_among_others(run: whence.Run) -> None:
    among = whence.audit(run, blobs(seed=1)).influence.sel(target=[4])
    np.testing.assert_allclose(whence.audit(run, blobs(seed=1), ids=[4]).influence, among, rtol=0, atol=ROUNDING)
