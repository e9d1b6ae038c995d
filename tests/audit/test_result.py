"""Top lists, saving and the errors of audits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch.optim import SGD

import whence
from tests.audit.training import blobs, tanh_net, trained
from whence._errors import ArgumentError, AuditError, LabelError, ShapeError
from whence.audit import result


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> whence.Run:
    model = tanh_net()
    return trained(tmp_path_factory.mktemp("runs") / "run", model, SGD(model.parameters(), 0.1), blobs())


@pytest.fixture(scope="module")
def audit(run: whence.Run) -> whence.Audit:
    return whence.audit(run, blobs(seed=1), by="epoch")


def test_helpful_and_harmful_are_the_ends_of_the_sorted_row(audit: whence.Audit) -> None:
    row = audit.influence.sum("epoch").sel(target=3).values
    order = np.argsort(row)
    assert audit.helpful(3, k=4).coords["train"].values.tolist() == order[:4].tolist()
    assert audit.harmful(3, k=4).coords["train"].values.tolist() == order[::-1][:4].tolist()
    np.testing.assert_allclose(audit.helpful(3, k=4).values, row[order[:4]])
    assert audit.helpful(3, k=100).size == row.size


def test_helping_a_logit_is_raising_it(run: whence.Run) -> None:
    audit = whence.audit(run, blobs(seed=1), quantity="logit")
    assert audit.helpful(0, k=1).item() == pytest.approx(float(audit.influence.sel(target=0).max()))
    assert audit.harmful(0, k=1).item() == pytest.approx(float(audit.influence.sel(target=0).min()))


def test_saved_audit_reads_back_equal_and_lazily(audit: whence.Audit, tmp_path: Path) -> None:
    audit.save(tmp_path / "audit")
    read = whence.load_audit(tmp_path / "audit")
    xr.testing.assert_equal(read.data.load(), audit.data)
    assert read.data.attrs == audit.data.attrs
    assert read.completeness.mean_error == audit.completeness.mean_error
    lazy = whence.load_audit(tmp_path / "audit")
    top = lazy.helpful(2, k=3)
    xr.testing.assert_equal(top, audit.helpful(2, k=3))
    assert not lazy.data["influence"].variable._in_memory


def test_audit_written_to_a_path_as_it_goes_equals_one_in_memory(run: whence.Run, tmp_path: Path) -> None:
    for number, by in enumerate([(), ("layer", "epoch"), ("label", "step")]):
        memory = whence.audit(run, blobs(seed=1), by=by)
        disk = whence.audit(run, blobs(seed=1), by=by, path=tmp_path / str(number))
        xr.testing.assert_equal(memory.data, disk.data.load())
        xr.testing.assert_equal(whence.load_audit(tmp_path / str(number)).data.load(), memory.data)


@pytest.mark.parametrize("wrong", [np.float32(7), np.float32("nan")])
def test_sums_are_checked_some_targets_at_a_time_and_one_that_was_altered_is_named(
    audit: whence.Audit, wrong: np.float32, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = whence.Audit(audit.data.copy(deep=True)).completeness.reconstructed
    monkeypatch.setattr(result, "_AT_ONCE", 3 * audit.influence[0].size)  # three targets
    np.testing.assert_array_equal(whence.Audit(audit.data.copy(deep=True)).completeness.reconstructed, at_once)
    altered = audit.data.copy(deep=True)
    altered["influence"][4, 2] += wrong
    with pytest.raises(AuditError, match=r"influences on target 4 add up to .* missing or altered"):
        _ = whence.Audit(altered).completeness
    with pytest.raises(AuditError, match="missing or altered"):
        whence.Audit(altered).helpful(4)


def test_nothing_is_written_over(run: whence.Run, audit: whence.Audit, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(AuditError, match=r"Something stands at .*taken already\. Choose another path"):
        audit.save(tmp_path / "taken")
    with pytest.raises(AuditError, match="Something stands at"):
        whence.audit(run, blobs(seed=1), path=tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


def test_what_is_not_an_audit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match=r"No audit at .*there is no such folder"):
        whence.load_audit(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    with pytest.raises(AuditError, match=r"holds no audit"):
        whence.load_audit(tmp_path / "folder")
    xr.Dataset({"influence": ("target", np.zeros(2))}).to_zarr(tmp_path / "other", consolidated=False, zarr_format=3)
    with pytest.raises(AuditError, match=r"holds no audit of format \d \(its format: None\)"):
        whence.load_audit(tmp_path / "other")


def test_unknown_target_names_the_number_and_the_neighbours(audit: whence.Audit) -> None:
    with pytest.raises(LabelError, match=r"No target id 110 among the 12 audited \(similar: 11 or 10"):
        audit.helpful(110)
    with pytest.raises(ArgumentError, match=r"`k` must be a whole number, at least 1, .* got 0"):
        audit.helpful(0, k=0)


def test_audit_by_label_says_that_it_has_no_single_examples(run: whence.Run) -> None:
    with pytest.raises(AuditError, match="Audit again without 'label' in `by`"):
        whence.audit(run, blobs(seed=1), by="label").helpful(0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"quadrature": "midpoint"}, r"No quadrature 'midpoint'\. Choose one of: euler, trapezoid"),
        ({"quantity": "accuracy"}, r"No quantity 'accuracy'\. Choose 'loss'"),
        ({"quantity": "loss", "classes": "all"}, r"`classes` chooses logits or probabilities; the loss has none"),
        (
            {"quantity": "logit", "classes": [3]},
            r"`classes` must name some of the model's 3 outputs \(0\.\.2\), each once; got \[3\]",
        ),
        ({"quantity": "logit", "classes": []}, r"`classes` must name some"),
        ({"by": "layers"}, r"`by` takes each of 'layer', 'step', 'epoch', 'label' at most once, got \('layers',\)"),
        ({"by": ("step", "epoch")}, r"not both"),
        ({"subsample": 0}, r"`subsample` is a whole number of steps, at least 1; got 0"),
        ({"subsample": True}, r"`subsample` is a whole number of steps, at least 1; got True"),
        ({"ids": [True]}, r"`ids` are whole numbers; got \[True\]"),
        ({"quantity": "logit", "classes": [1, 1]}, r"`classes` must name some .*, each once; got \[1, 1\]"),
        ({"tolerance": 0.0}, r"`tolerance` is an error above 0 .* got 0\.0"),
        ({"tolerance": float("nan")}, r"`tolerance` is an error above 0 .* got nan"),
        ({"precision": "bfloat16"}, r"No precision 'bfloat16'"),
        ({"ids": [0, 12]}, r"`ids` must name some of the 12 targets \(0\.\.11\), each once; got \[0, 12\]"),
        ({"memory_budget": 0}, r"`memory_budget` is a whole number of bytes, at least 1; got 0"),
    ],
    ids=str,
)
def test_arguments_outside_what_is_listed_are_refused_in_words(
    wrong: dict[str, Any], words: str, run: whence.Run
) -> None:
    with pytest.raises(ArgumentError, match=words):
        whence.audit(run, blobs(seed=1), **wrong)


def test_a_quantity_reduced_over_the_batch_is_refused(run: whence.Run) -> None:
    with pytest.raises(ShapeError, match=r"one number per example, shape \(12,\); got \(\)"):
        whence.audit(run, blobs(seed=1), quantity=lambda outputs, labels: outputs.sum())


def test_influences_larger_than_the_budget_need_a_path(run: whence.Run) -> None:
    with pytest.raises(AuditError, match=r"The influences \(target 12, train 12, step 9\) take .* Give `path`"):
        whence.audit(run, blobs(seed=1), by="step", memory_budget=1000)


def test_chosen_targets_keep_their_ids(run: whence.Run, audit: whence.Audit) -> None:
    some = whence.audit(run, blobs(seed=1), ids=[7, 2])
    assert some.influence.coords["target"].values.tolist() == [7, 2]
    whole = audit.influence.sum("epoch").sel(target=[7, 2]).values
    np.testing.assert_allclose(some.influence.values, whole, rtol=0, atol=1e-12)
    assert (
        some.data.coords["target_label"].values.tolist() == torch.take(blobs(seed=1)[1], torch.tensor([7, 2])).tolist()
    )
