"""TRAK: equal to traker called by hand, and to the regression of its paper."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import whence
from tests.attribution.networks import data, network, one_by_one
from tests.attribution.peers import CLOSE, other, scores
from whence._errors import ArgumentError
from whence.attribution import (
    TRAK,
    as_trained,
    attribute,
)


def trak_by_hand(kind: str, models: list[nn.Module], dimensions: int, folder: Path) -> np.ndarray:
    """Return the scores as traker's own guide would have them computed."""
    from trak import TRAKer

    train, targets = data(kind, 40), data(kind, 7, 1)
    options = {"save_dir": folder, "device": "cpu", "proj_dim": dimensions, "lambda_reg": 0.3}
    tracer = TRAKer(
        models[0], "image_classification", 40, use_half_precision=False, logging_level=logging.CRITICAL, **options
    )
    states = [{name: one.clone() for name, one in model.state_dict().items()} for model in models]
    for place, state in enumerate(states):
        tracer.load_checkpoint(state, model_id=place)
        tracer.featurize(train, num_samples=40)
    tracer.finalize_features()
    for place, state in enumerate(states):
        tracer.start_scoring_checkpoint("targets", state, place, 7)
        tracer.score(targets, num_samples=7)
    return np.array(tracer.finalize_scores("targets")).T


@pytest.mark.parametrize("kind", ["perceptron", "convolution"])
@pytest.mark.parametrize("count", [1, 2])
def test_trak_is_that_of_traker_by_hand(kind: str, count: int, traker: Any, tmp_path: Path) -> None:
    others = [as_trained(other(kind), data(kind, 40), loss=F.cross_entropy)][: count - 1]
    found = scores(TRAK(128, others, regularization=0.3), kind)
    expected = trak_by_hand(kind, [network(kind), other(kind)][:count], 128, tmp_path)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_trak_is_the_regression_that_its_paper_states(traker: Any) -> None:
    """With as many dimensions as gradients span, a projection is a change of basis, which the regression undoes."""
    model, train, targets = network("linear"), data("linear", 60), data("linear", 7, 1)
    left, right = (one_by_one(model, one, "margin") for one in (targets, train))
    rank = int(torch.linalg.matrix_rank(right))  # less than parameters: adding a number to all logits changes nothing
    plain = left @ torch.linalg.pinv(right.T @ right, rtol=1e-9) @ right.T
    own = torch.softmax(model(train[0]), 1).gather(1, train[1][:, None]).squeeze(1)
    expected = (plain * (1 - own)).detach().numpy()
    found = scores(TRAK(rank), "linear", count=60)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999


def test_trak_speaks_for_the_targets_own_label(traker: Any) -> None:
    train = data("perceptron", 60)
    found = attribute(TRAK(20), network("perceptron"), train, train_data=train, loss=F.cross_entropy).values
    assert (np.diagonal(found) > 0).all()


def test_fitted_to_one_model_trak_scores_any_targets_again(traker: Any) -> None:
    trained = as_trained(network("perceptron"), data("perceptron", 40), loss=F.cross_entropy)
    fitted = TRAK(16).fit(trained)
    targets = whence.as_examples(data("perceptron", 7, 1))
    whole = fitted.scores(targets, list(range(7)))
    np.testing.assert_allclose(fitted.scores(targets, [5, 2]).values, whole.values[[5, 2]], **CLOSE)
    assert not list(fitted.folder.path.rglob("*scores*/*"))


def test_trak_refuses_other_data_and_what_has_no_margin(traker: Any) -> None:
    wrong = as_trained(other("linear"), data("linear", 40, 3), loss=F.cross_entropy)
    with pytest.raises(ArgumentError, match=r"Model 0 of the ensemble's others was trained on other data"):
        scores(TRAK(8, [wrong]), "linear")
    numbers = (data("linear", 40)[0], data("linear", 40)[0][:, :3])
    with pytest.raises(ArgumentError, match=r"training labels are not one whole number per example"):
        scores(TRAK(8), "linear", train_data=numbers, loss=nn.MSELoss())
    targets = (data("linear", 2)[0], torch.tensor([0, 3]))
    with pytest.raises(ArgumentError, match=r"target label 3 is none of the model's 3 classes \(0\.\.2\)"):
        attribute(TRAK(8), network("linear"), targets, train_data=data("linear", 40), loss=F.cross_entropy)
    one_output = (torch.randn(20, 6, dtype=torch.float64), torch.randint(2, (20,)))
    with pytest.raises(ArgumentError, match=r"TRAK is of margins: .* two classes or more; this model gives \(1, 1\)"):
        attribute(
            TRAK(8),
            nn.Linear(6, 1).double(),
            one_output,
            train_data=one_output,
            loss=lambda out, y: (out[:, 0] - y) ** 2,
        )
