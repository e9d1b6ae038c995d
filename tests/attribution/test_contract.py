"""What holds of every attributor."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from torch import nn

import whence
from tests.audit.training import blobs, tanh_net, trained
from whence import attribution
from whence._errors import ArgumentError, LabelError, UnsupportedLossError
from whence.attribution import (
    EKFAC,
    TRAK,
    Attributor,
    ClassBalanced,
    Counterfactual,
    Ensemble,
    GradCos,
    GradDot,
    Influence,
    NearestNeighbours,
    PathAudit,
    PathSimilarity,
    Random,
    Relative,
    RepresentationCos,
    RepresentationDot,
    SameClass,
    TracIn,
    as_trained,
    attribute,
    load_scores,
    self_influence,
)
from whence.runs import Run

MEMBERS: dict[str, Attributor] = {
    "grad-dot": GradDot(),
    "grad-dot of margins, last layer": GradDot("margin", "last"),
    "grad-cos": GradCos(),
    "TracIn": TracIn(3),
    "path similarity": PathSimilarity(3),
    "audit": PathAudit(),
    "counterfactual": Counterfactual(),
    "influence": Influence(1.0),
    "representation cosine": RepresentationCos(),
    "representation dot": RepresentationDot("1"),
    "neighbours of inputs": NearestNeighbours(),
    "neighbours at a layer": NearestNeighbours("1", "cosine"),
    "random": Random(),
    "same class": SameClass(),
    "relative": Relative(GradDot()),
    "class-balanced": ClassBalanced(TracIn(2)),
    "EK-FAC": EKFAC(0.1),
    "TRAK": TRAK(8, regularization=0.1),
}
LIBRARIES = {"EK-FAC": "kronfluence", "TRAK": "trak"}  # that compute in float32
MISSING = {name for name, library in LIBRARIES.items() if find_spec(library) is None}
RECORDED = {
    name for name, one in MEMBERS.items() if isinstance(one, TracIn | PathSimilarity | PathAudit | Counterfactual)
}
RECORDED |= {"class-balanced"}
WITH_CHANCE = {"random"}
EXACT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-12}
SINGLE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
TRAIN = tuple(torch.cat([one, one[:1]]) for one in blobs())  # the last example is the first once more
TARGETS = blobs(5, seed=1)


def fields_of(method: Attributor) -> set[str]:
    return {one.name for one in dataclasses.fields(method)}  # type: ignore[arg-type]


every_member = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.skipif(name in MISSING, reason="needs whence[baselines]"))
        for name in MEMBERS
    ],
)


def tolerance(name: str) -> dict[str, Any]:
    return SINGLE if name in LIBRARIES else EXACT


@pytest.fixture(scope="module", autouse=True)
def _frozen() -> Iterator[None]:
    """Kronfluence collects garbage often, which takes long beside the objects of a whole test session."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    model = tanh_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.5)
    return trained(tmp_path_factory.mktemp("run") / "run", model, optimizer, TRAIN, batch_size=13)


@pytest.fixture(scope="module")
def found(run: Run) -> dict[str, xr.DataArray]:
    return {name: attribute(one, run, TARGETS) for name, one in MEMBERS.items() if name not in MISSING}


@every_member
def test_scores_are_labelled_and_say_unit_and_sign(name: str, found: dict[str, xr.DataArray]) -> None:
    scores = found[name]
    assert scores.dims == ("target", "train")
    assert scores.target.values.tolist() == list(range(5))
    assert scores.train.values.tolist() == list(range(13))
    assert np.isfinite(scores.values).all()
    assert scores.attrs["helps"] in {1, -1}
    assert scores.attrs["sign"].startswith("positive" if scores.attrs["helps"] > 0 else "negative")
    assert isinstance(scores.attrs["unit"], str)
    assert scores.attrs["attributor"]
    assert "unit" in repr(scores)


@every_member
def test_a_target_has_the_same_scores_alone_and_in_any_order(
    name: str, run: Run, found: dict[str, xr.DataArray]
) -> None:
    some = attribute(MEMBERS[name], run, TARGETS, ids=[3, 0])
    assert some.target.values.tolist() == [3, 0]
    np.testing.assert_allclose(some.values, found[name].values[[3, 0]], **tolerance(name))


@every_member
def test_a_small_budget_gives_the_same_scores(name: str, run: Run, found: dict[str, xr.DataArray]) -> None:
    small = attribute(MEMBERS[name], run, TARGETS, memory_budget=4096)
    np.testing.assert_allclose(small.values, found[name].values, **tolerance(name))


@every_member
def test_one_fit_serves_several_targets(name: str, run: Run, found: dict[str, xr.DataArray]) -> None:
    fitted = MEMBERS[name].fit(as_trained(run))
    for one in (4, 1):
        row = fitted.scores(whence.as_examples(TARGETS), [one])
        np.testing.assert_allclose(row.values[0], found[name].values[one], **tolerance(name))


@every_member
def test_a_duplicated_example_has_the_same_scores(name: str, found: dict[str, xr.DataArray]) -> None:
    scores = found[name].values
    same = np.allclose(scores[:, 0], scores[:, 12], **tolerance(name))
    assert same == (name not in WITH_CHANCE)


@every_member
def test_a_target_that_is_a_training_example_can_be_scored(name: str, run: Run) -> None:
    assert np.isfinite(attribute(MEMBERS[name], run, TRAIN, ids=[2]).values).all()


@every_member
def test_scores_are_kept_and_come_back(name: str, run: Run, found: dict[str, xr.DataArray], tmp_path: Path) -> None:
    attribute(MEMBERS[name], run, TARGETS, path=tmp_path / "scores")
    again = load_scores(tmp_path / "scores")
    np.testing.assert_allclose(again.values, found[name].values, **tolerance(name))
    for key in ("unit", "helps", "sign", "attributor"):
        assert again.attrs[key] == found[name].attrs[key]


@every_member
def test_without_a_run_it_works_or_says_that_it_needs_one(name: str, run: Run, found: dict[str, xr.DataArray]) -> None:
    model = as_trained(run).model
    options: dict[str, Any] = {"train_data": TRAIN, "loss": F.cross_entropy}
    if name in RECORDED:
        with pytest.raises(ArgumentError, match="needs a recorded run; a trained model was given"):
            attribute(MEMBERS[name], model, TARGETS, **options)
    else:
        np.testing.assert_allclose(
            attribute(MEMBERS[name], model, TARGETS, **options).values, found[name].values, **tolerance(name)
        )


UNFIT = (
    r"The loss cross_entropy cannot be called .*outputs \({0}, 2\) and labels \({0},\): Target \d is out of bounds\. "
)
UNFIT += "Give the loss, and the model with the outputs, that these labels were trained with"


@every_member
def test_a_model_whose_outputs_do_not_fit_the_loss_is_told_so(name: str) -> None:
    narrow, labels = nn.Linear(TRAIN[0].shape[1], 2).double(), torch.full_like(TRAIN[1], 2)
    with pytest.raises(UnsupportedLossError, match=UNFIT.format(4)):
        attribute(MEMBERS[name], narrow, TARGETS, train_data=(TRAIN[0], labels), loss=F.cross_entropy)


@pytest.mark.parametrize("name", ["grad-dot", "grad-cos", "influence"])
def test_a_single_label_that_does_not_fit_the_outputs_is_told_too(name: str) -> None:
    narrow = nn.Linear(TRAIN[0].shape[1], 2).double()
    inputs, labels = TRAIN[0].repeat(20, 1), TRAIN[1].new_zeros(20 * len(TRAIN[1]))
    labels[1] = 2  # which is not among those that the loss is tried on
    targets = (TARGETS[0], TRAIN[1].new_zeros(len(TARGETS[0])))
    with pytest.raises(UnsupportedLossError, match=UNFIT.format(r"\d{2,}")):
        attribute(MEMBERS[name], narrow, targets, train_data=(inputs, labels), loss=F.cross_entropy)


@pytest.mark.parametrize("name", [name for name, one in MEMBERS.items() if {"layer", "layers"} & fields_of(one)])
def test_a_layer_that_is_not_there_is_named(name: str, run: Run) -> None:
    if name in MISSING:
        pytest.skip("needs whence[baselines]")
    wrong = {"layers": ["9"]} if "layers" in fields_of(MEMBERS[name]) else {"layer": "9"}
    with pytest.raises(LabelError, match=r"No layer '9' in the model Sequential; names near it: 0, 1, 2"):
        attribute(dataclasses.replace(MEMBERS[name], **wrong), run, TARGETS)  # type: ignore[type-var]


@every_member
def test_self_influence_is_the_diagonal(name: str, run: Run) -> None:
    own = self_influence(MEMBERS[name], run)
    method = GradDot("loss", "last") if "margins" in name else MEMBERS[name]  # of gradients: on the own loss
    expected = np.diagonal(attribute(method, run, TRAIN).values)
    np.testing.assert_allclose(own.values, expected, **tolerance(name))
    assert own.dims == ("train",)
    assert own.attrs["attributor"].startswith("self-influence by ")


@every_member
def test_an_ensemble_of_one_model_twice_is_that_model(name: str, run: Run, found: dict[str, xr.DataArray]) -> None:
    twice = attribute(Ensemble(MEMBERS[name], [run]), run, TARGETS)
    np.testing.assert_allclose(twice.values, found[name].values, **tolerance(name))
    assert twice.attrs["attributor"] == f"{found[name].attrs['attributor']}, mean of 2"


def test_every_public_method_is_in_the_table() -> None:
    kinds = {type(one).__name__ for one in MEMBERS.values()} | {"Ensemble"}
    named = {one: getattr(attribution, one) for one in attribution.__all__}
    assert {name for name, one in named.items() if dataclasses.is_dataclass(one) and hasattr(one, "fit")} == kinds
