"""Scores of difficulty are the numbers that their definitions say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr

from tests.attribution.networks import data
from tests.kernel.reference import agree, model_at, recorded
from whence._errors import ArgumentError, ShapeError
from whence.kernel import (
    answers,
    as_trained,
    class_margin,
    hidden_top_k,
    logit_margin,
    max_softmax,
    path_kernel,
    similarity,
    similarity_norm,
)
from whence.runs import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return recorded(tmp_path_factory.mktemp("difficulty"))


def _similarity(rows: list[list[float]]) -> xr.DataArray:
    return xr.DataArray(rows, {"target": [4, 7], "other": [0, 1, 2, 3]}, ("target", "other"))


def test_the_norm_and_the_margin_of_a_small_table() -> None:
    found = _similarity([[0.5, 0.5, -0.5, 0.5], [1.0, 0.0, 0.2, 0.4]])
    agree(similarity_norm(found), [1.0, np.sqrt(1.2)])
    margin = class_margin(found, [5, 5, 8, 9], [5, 9])
    agree(margin, [0.5 - 0.5, 0.4 - 0.5])
    assert margin.target.values.tolist() == [4, 7]
    assert margin.attrs["sign"] == "higher = easier"


def test_answers_and_their_scores_are_the_models_own(run: Run) -> None:
    inputs, labels = data("perceptron", 6, seed=1)
    logits = model_at(run, 9)(inputs).detach()
    found = answers(run, (inputs, labels), ids=[5, 0, 2])
    chosen = logits[[5, 0, 2]]
    agree(found["logit"], chosen)
    agree(found["loss"], F.cross_entropy(chosen, labels[[5, 0, 2]], reduction="none"))
    assert found["predicted"].values.tolist() == chosen.argmax(1).tolist()
    agree(max_softmax(found), chosen.softmax(1).max(1).values)
    top = chosen.topk(2, 1).values
    agree(logit_margin(found), top[:, 0] - top[:, 1])


@pytest.mark.parametrize("budget", [2**29, 200])
def test_the_hidden_baseline_is_the_margin_of_means_of_the_most_alike(run: Run, budget: int) -> None:
    model, (inputs, labels), (train, classes) = model_at(run, 9), data("perceptron", 6, seed=1), data("perceptron", 12)
    hidden = [F.normalize(model[:2](one).detach(), dim=1) for one in (inputs, train)]  # type: ignore[index]
    cosines, predicted = hidden[0] @ hidden[1].T, model(inputs).argmax(1)
    expected = []
    for row, own in zip(cosines, predicted.tolist(), strict=True):
        means = [float(row[classes == kind].sort(descending=True).values[:3].mean()) for kind in range(3)]
        expected.append(means[own] - max(mean for kind, mean in enumerate(means) if kind != own))
    agree(hidden_top_k(run, (inputs, labels), k=3, memory_budget=budget), expected)


def test_a_target_answered_wrongly_has_a_lower_margin_than_if_its_answer_were_the_label(run: Run) -> None:
    inputs, labels = data("perceptron", 30, seed=1)
    predicted = answers(run, (inputs, labels))["predicted"].values
    wrong = predicted != labels.numpy()
    margins = [
        class_margin(similarity(path_kernel(run, (inputs, one), run.examples)), run.examples.labels, predicted).values
        for one in (labels, torch.from_numpy(predicted))
    ]
    assert wrong.any()
    assert (margins[0][wrong] < margins[1][wrong]).all()


@pytest.mark.parametrize(
    ("labels", "predicted", "error", "message"),
    [
        ([5, 5, 5], [5, 5], ShapeError, r"`train_labels` needs one class for each of 4"),
        ([5, 5, 5, 5], [5, 5], ArgumentError, r"at least two classes"),
        ([5, 5, 5, 8], [5, 6], ArgumentError, r"predicted are also \[6\]"),
    ],
)
def test_margins_that_are_none_are_refused(labels: Any, predicted: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        class_margin(_similarity([[0.0] * 4] * 2), labels, predicted)


def test_a_margin_of_similarities_by_time_is_refused_with_the_remedy() -> None:
    apart = _similarity([[0.0] * 4] * 2).expand_dims(time=[1, 2])
    with pytest.raises(ShapeError, match=r"these have \('time', 'target', 'other'\)\. Sum the kernel"):
        class_margin(apart, [5, 5, 8, 9], [5, 9])


def test_neighbours_by_class_need_classes() -> None:
    pair = torch.randn(5, 4), torch.randn(5, 2)
    trained = as_trained(torch.nn.Linear(4, 2), pair, loss=F.mse_loss)
    with pytest.raises(ArgumentError, match="training labels must be one whole number an example"):
        hidden_top_k(trained, pair)


def test_no_neighbours_are_refused(run: Run) -> None:
    with pytest.raises(ArgumentError, match="`k` is how many training examples of each class"):
        hidden_top_k(run, data("perceptron", 2), k=0)
