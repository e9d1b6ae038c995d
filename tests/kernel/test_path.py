"""The path kernel is the sum of products of loss gradients along the run, whatever it is computed in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from torch import nn

import whence
from tests.attribution.networks import KINDS, data
from tests.kernel.reference import agree, features, model_at, recorded
from whence._errors import ArgumentError
from whence.attribution import PathSimilarity, attribute
from whence.kernel import angle_distance, chord_distance, load_kernel, path_kernel, similarity, storage
from whence.kernel.blocks import Pair
from whence.runs import Run

EPOCHS = (3, 6, 9)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return recorded(tmp_path_factory.mktemp("kernel"))


@pytest.mark.parametrize("preconditioner", [True, False])
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_is_the_sum_of_products_of_loss_gradients(
    kind: str, optimizer: str, preconditioner: bool, tmp_path: Path
) -> None:
    run, targets = recorded(tmp_path, kind, optimizer), data(kind, 5, seed=1)
    ours = features(run, EPOCHS, targets, preconditioner=preconditioner)
    theirs = features(run, EPOCHS, data(kind, 12), preconditioner=preconditioner)
    found = path_kernel(run, targets, run.examples, preconditioner=preconditioner)
    agree(found["kernel"], torch.einsum("tmp,tnp->mn", ours, theirs))
    agree(found["target_norm"], ours.square().sum((0, 2)))
    agree(found["other_norm"], theirs.square().sum((0, 2)))


@pytest.mark.parametrize("budget", [2**29, 9_000])
@pytest.mark.parametrize("by", [(), ("time",), ("layer",), ("time", "layer")])
def test_targets_among_themselves_are_the_same_numbers_and_exactly_symmetric(
    run: Run, by: tuple[str, ...], budget: int
) -> None:
    targets = data("perceptron", 7, seed=1)
    alone = path_kernel(run, targets, by=by, memory_budget=budget)
    both = path_kernel(run, targets, targets, by=by)
    agree(alone["kernel"], both["kernel"])
    np.testing.assert_array_equal(alone["kernel"], alone["kernel"].transpose("other", "target", *by))
    np.testing.assert_array_equal(np.diagonal(alone["kernel"]), np.moveaxis(alone["target_norm"].values, 0, -1))


def test_layers_and_times_sum_to_the_whole(run: Run) -> None:
    targets = data("perceptron", 5, seed=1)
    whole = path_kernel(run, targets, run.examples)
    for by in ("time", "layer", ("layer", "time")):
        apart = path_kernel(run, targets, run.examples, by=by)
        names = (by,) if isinstance(by, str) else by
        for name in ("kernel", "target_norm", "other_norm"):
            agree(apart[name].sum(names), whole[name])
    assert apart["kernel"].dims == ("target", "other", "time", "layer")
    assert apart.time.values.tolist() == list(EPOCHS)
    assert apart.layer.values.tolist() == ["0", "2"]


def test_one_time_is_the_loss_gradient_kernel_and_the_start_is_weighed_by_the_first_step(run: Run) -> None:
    targets = data("perceptron", 5, seed=1)
    for step in (0, 4, 9):
        ours = features(run, [step], targets, preconditioner=True)[0]
        found = path_kernel(run, targets, times=[step])["kernel"]
        agree(found, ours @ ours.T)


def test_the_kernel_is_positive_semidefinite_to_rounding(run: Run) -> None:
    found = path_kernel(run, data("perceptron", 40, seed=1), precision="float32")["kernel"].values
    values = np.linalg.eigvalsh(found.astype(np.float64))
    assert values.min() > -40 * np.finfo(np.float32).eps * values.max()  # rounding of 40 columns


@pytest.mark.parametrize(("precision", "error"), [("float32", 1e-5), ("mixed", 2**-6), ("float64", 1e-12)])
def test_precisions_differ_by_their_rounding(run: Run, precision: str, error: float) -> None:
    targets = data("perceptron", 5, seed=1)
    exact = path_kernel(run, targets, run.examples)["kernel"]
    found = path_kernel(run, targets, run.examples, precision=precision)["kernel"]
    assert found.dtype == (np.float64 if precision == "float64" else np.float32)
    assert abs(found - exact).max() <= error * abs(exact).max()


def test_path_similarity_is_the_similarity_of_this_kernel(run: Run) -> None:
    targets = data("perceptron", 5, seed=1)
    found = similarity(path_kernel(run, targets, run.examples, times=3))
    agree(found, attribute(PathSimilarity(3), run, targets))


def test_a_parameter_that_a_step_left_alone_counts_nothing_there(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train = data("perceptron", 12)
    with whence.record(tmp_path / "run", model, optimizer, train, loss=F.cross_entropy) as recorder:
        for epoch in range(2):
            model[0].requires_grad_(epoch == 1)
            for x, y in recorder.batches(batch_size=6, seed=1):
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
    run = whence.open_run(tmp_path / "run", model, train, loss=F.cross_entropy)
    found = path_kernel(run, train, by=("time", "layer"))["target_norm"]
    assert (found.sel(layer="0", time=2) == 0).all()
    assert (found.sel(layer="0", time=4) > 0).all()


def test_a_similarity_is_1_to_itself_within_bounds_and_gives_two_metrics(run: Run) -> None:
    found = similarity(path_kernel(run, data("perceptron", 12, seed=1)))
    agree(np.diagonal(found), 1, atol=1e-15)
    assert (abs(found) <= 1).all()
    for distance in (chord_distance(found).values, angle_distance(found).values):
        through = distance[:, :, None] + distance[None, :, :]
        assert (distance[:, None, :] <= through + 1e-7).all()  # √ε where two directions all but agree
        agree(np.diagonal(distance), 0, atol=1e-7)
    agree(chord_distance(found), 2 * np.sin(angle_distance(found) / 2), atol=1e-7)
    assert found.attrs["unit"] == "cosine"
    assert angle_distance(found).attrs["unit"] == "radians"


def test_a_similarity_of_layers_is_a_cosine_each(run: Run) -> None:
    apart = path_kernel(run, data("perceptron", 4, seed=1), by="layer")
    first = similarity(path_kernel(run, data("perceptron", 4, seed=1), layers=["0"]))
    agree(similarity(apart).sel(layer="0"), first)


def test_a_gradient_of_0_is_like_itself_only() -> None:
    kernel = xr.Dataset(
        {
            "kernel": (("target", "other"), np.array([[4.0, 0.0], [0.0, 0.0]])),
            "target_norm": ("target", np.array([4.0, 0.0])),
            "other_norm": ("other", np.array([4.0, 0.0])),
        },
        {"target": [3, 5], "other": [3, 5]},
    )
    np.testing.assert_array_equal(similarity(kernel), np.eye(2))
    strangers = kernel.assign_coords(other=[1, 2])
    np.testing.assert_array_equal(similarity(strangers), [[1, 0], [0, 0]])


def test_predicted_labels_are_the_models_own_answers_at_the_end(run: Run) -> None:
    inputs, _ = data("perceptron", 6, seed=1)
    answers = model_at(run, 9)(inputs).argmax(1)
    expected = path_kernel(run, (inputs, answers), run.examples)
    for given in (inputs, list(inputs), (inputs, torch.zeros(6, dtype=torch.int64))):
        found = path_kernel(run, given, run.examples, labels="predicted", ids=[1, 4])
        agree(found["kernel"], expected["kernel"].sel(target=[1, 4]))


class _Interrupted(Exception):  # noqa: N818 - stands for a kill
    pass


@pytest.mark.parametrize("by", [(), ("time", "layer")])
@pytest.mark.parametrize("among", [True, False])
def test_a_kernel_taken_up_after_an_interruption_has_the_same_bits(
    run: Run, among: bool, by: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = data("perceptron", 7, seed=1)
    given: dict[str, Any] = {"by": by, "memory_budget": 9_000, "path": tmp_path / "kernel.zarr"}
    others = None if among else run.examples
    whole = path_kernel(run, targets, others, **{**given, "path": tmp_path / "whole.zarr"})
    monkeypatch.setattr(storage, "_SAVE_EVERY", 0.0)
    before, calls = Pair.add, []

    def broken(self: Pair, *args: Any) -> None:
        calls.append(1)
        if len(calls) in {2, 4, 7}:
            raise _Interrupted
        before(self, *args)

    monkeypatch.setattr(Pair, "add", broken)
    for _ in range(3):
        with pytest.raises(_Interrupted) as caught:
            path_kernel(run, targets, others, **given)
        assert "call again with path=" in caught.value.__notes__[0]
    found = path_kernel(run, targets, others, **given)
    assert len(calls) == 2 * 3 + 3  # two chunks at three states: only what was broken off was made again
    xr.testing.assert_identical(found.load(), whole.load())
    np.testing.assert_array_equal(
        whole["kernel"], path_kernel(run, targets, others, by=by, memory_budget=9_000)["kernel"]
    )
    assert not list(tmp_path.glob(".*"))
    xr.testing.assert_identical(load_kernel(tmp_path / "kernel.zarr").load(), found)


def test_an_unfinished_kernel_of_other_arguments_is_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ".kernel.zarr.partial"
    folder.mkdir()
    (folder / "work.json").write_text(json.dumps({"times": [1]}))
    with pytest.raises(whence.WhenceError, match=r"begun with other arguments \(.*times.* differ\)\. Call"):
        path_kernel(run, data("perceptron", 3), path=tmp_path / "kernel.zarr")
    (tmp_path / "there").mkdir()
    with pytest.raises(whence.WhenceError, match="Something stands at"):
        path_kernel(run, data("perceptron", 3), path=tmp_path / "there")
    with pytest.raises(whence.WhenceError, match="holds no path kernel"):
        load_kernel(tmp_path / "there")


def test_a_kernel_larger_than_memory_is_refused_with_what_fits(run: Run) -> None:
    with pytest.raises(
        ArgumentError,
        match=r"target 7, other 12\) takes 672 bytes, more than the memory budget of 200\. Give `path` .* at most 2 "
        r"targets at a time .* width 1 ",
    ):
        path_kernel(run, data("perceptron", 7), run.examples, memory_budget=200)
    with pytest.raises(ArgumentError, match=r"ask for at most 5 targets \(`ids`\), take sketches of width 3 "):
        path_kernel(run, data("perceptron", 7), memory_budget=200)
    path_kernel(run, data("perceptron", 7), ids=range(5), memory_budget=200)
    with pytest.raises(ArgumentError, match=r"to keep it on disk, or raise `memory_budget`\.$"):
        path_kernel(run, data("perceptron", 7), run.examples, memory_budget=7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"times": [3, 10]}, r"`times` .*: 0 to 9, the steps of this run; got \[3, 10\]"),
        ({"times": 10}, r"`times` asks for 10 states of the run, which has 9 steps: give 1 to 9"),
        ({"times": "step"}, r"`times` is 'epoch', a number of states, or a list of steps; got 'step'"),
        ({"by": "epoch"}, r"`by` takes 'time' and 'layer'.*got 'epoch'"),
        ({"precision": "half"}, r"No precision 'half'"),
        ({"labels": "none"}, r"`labels` is 'given' or 'predicted'; got 'none'"),
        ({"other_ids": [1]}, r"`other_ids` chooses among `others`, and there are none"),
        ({"memory_budget": 0}, r"`memory_budget` is a whole number of bytes, at least 1; got 0"),
    ],
)
def test_what_cannot_be_asked_is_refused(run: Run, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        path_kernel(run, data("perceptron", 3), **options)


@pytest.mark.parametrize("given", ["tensor", "list"])
def test_inputs_without_labels_are_refused_with_the_reason_and_the_remedy(run: Run, given: str) -> None:
    inputs, _ = data("perceptron", 3)
    with pytest.raises(
        ArgumentError, match=r"no labels.*gradients of the loss.*Give \(inputs, labels\), or labels='predicted'"
    ):
        path_kernel(run, inputs if given == "tensor" else list(inputs))
    with pytest.raises(ArgumentError, match=r"no labels.*Give \(inputs, labels\): `labels` is of the targets only"):
        path_kernel(run, inputs, inputs if given == "tensor" else list(inputs), labels="predicted")
