"""Influence by EK-FAC: equal to kronfluence called by hand, near the exact one."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import whence
from tests.attribution.networks import Data, data, network
from tests.attribution.peers import CLOSE, other, scores
from whence._errors import ArgumentError
from whence.attribution import (
    EKFAC,
    Ensemble,
    GradDot,
    Influence,
    Relative,
    as_trained,
    attribute,
    drawn,
    self_influence,
)
from whence.runs import training_loss


def single(examples: Data) -> Data:
    return examples[0].float() if examples[0].is_floating_point() else examples[0], examples[1]


def kronfluence_by_hand(kind: str, quantity: str, damping: float | None, folder: Path) -> np.ndarray:
    """Return the scores as kronfluence's own guide would have them computed."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task

    class Classification(Task):  # type: ignore[misc]
        def compute_train_loss(self, batch: Data, model: nn.Module, sample: bool = False) -> Tensor:
            assert not sample
            return F.cross_entropy(model(batch[0]), batch[1], reduction="sum")

        def compute_measurement(self, batch: Data, model: nn.Module) -> Tensor:
            out: Tensor = model(batch[0])
            if quantity == "logit":
                return out.gather(1, batch[1][:, None]).sum()
            return F.cross_entropy(out, batch[1], reduction="sum")

    task = Classification()
    model = prepare_model(network(kind).float(), task)
    options = {"cpu": True, "log_level": logging.CRITICAL, "disable_tqdm": True, "output_dir": str(folder)}
    analyzer = Analyzer("hand", model, task, **options)
    train, targets = (TensorDataset(*single(data(kind, *one))) for one in ((40, 0), (7, 1)))
    chosen = FactorArguments(use_empirical_fisher=True)
    analyzer.fit_all_factors("factors", train, per_device_batch_size=16, factor_args=chosen)
    analyzer.compute_pairwise_scores(
        "scores",
        "factors",
        query_dataset=targets,
        train_dataset=train,
        per_device_query_batch_size=7,
        per_device_train_batch_size=16,
        score_args=ScoreArguments(damping_factor=damping),
    )
    found: np.ndarray = analyzer.load_pairwise_scores("scores")["all_modules"].numpy()
    return found


@pytest.mark.filterwarnings("ignore:.*GradScaler.* is deprecated:FutureWarning")
@pytest.mark.parametrize("damping", [None, 0.03])
@pytest.mark.parametrize(
    ("kind", "quantity"), [("perceptron", "loss"), ("perceptron", "logit"), ("convolution", "loss")]
)
def test_ekfac_is_that_of_kronfluence_by_hand(
    kind: str, quantity: str, damping: float | None, kronfluence: Any, tmp_path: Path
) -> None:
    found = scores(EKFAC(damping, quantity, fisher="empirical"), kind)
    sign = 1 if quantity == "loss" else -1  # a larger logit is better, a larger loss is worse
    expected = sign * kronfluence_by_hand(kind, quantity, damping, tmp_path)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_ekfac_is_near_the_exact_influence_in_unit_and_sign(kronfluence: Any) -> None:
    exact, found = (scores(one, "linear", count=300) for one in (Influence(0.05), EKFAC(0.05)))
    assert np.corrcoef(exact.ravel(), found.ravel())[0, 1] > 0.95
    assert 0.8 < np.abs(found).mean() / np.abs(exact).mean() < 1.25


def test_ekfac_of_a_layer_is_its_part_and_parts_add_up(kronfluence: Any) -> None:
    both = scores(EKFAC(0.1))
    parts = [scores(EKFAC(0.1, layers=one)) for one in (["0"], "last")]
    np.testing.assert_allclose(sum(parts), both, rtol=1e-4, atol=1e-5 * np.abs(both).max())
    assert np.abs(parts[0]).max() > 1e-3 * np.abs(both).max()


def test_ekfac_names_the_layers_that_it_leaves_out(kronfluence: Any) -> None:
    options: dict[str, Any] = {"train_data": data("convolution", 20), "loss": F.cross_entropy}
    found = attribute(EKFAC(), network("convolution"), data("convolution", 2, 1), **options)
    assert found.attrs["left_out"] == "3"
    assert (
        "left_out"
        not in attribute(
            EKFAC(), network("linear"), data("linear", 2), train_data=data("linear", 20), loss=F.cross_entropy
        ).attrs
    )
    with pytest.raises(ArgumentError, match=r"EK-FAC knows linear and 2-d convolution layers .* count, 3, none is one"):
        scores(EKFAC(layers=["3"]), "convolution")


def test_self_influence_by_ekfac_is_the_diagonal_and_makes_scores_relative(kronfluence: Any) -> None:
    train = data("perceptron", 20)
    options: dict[str, Any] = {"train_data": train, "loss": F.cross_entropy}
    own = self_influence(EKFAC(0.1), network("perceptron"), **options).values
    pairs = attribute(EKFAC(0.1), network("perceptron"), train, **options).values
    np.testing.assert_allclose(own, np.diagonal(pairs), **CLOSE)
    relative = attribute(Relative(EKFAC(0.1)), network("perceptron"), train, **options).values
    np.testing.assert_allclose(relative, pairs / np.sqrt(own), rtol=1e-3, atol=1e-5)


def test_ekfac_of_squared_error_draws_normal_labels(kronfluence: Any) -> None:
    train, targets = ((data("linear", *one)[0], data("linear", *one)[0][:, :3] ** 2) for one in ((300, 0), (5, 1)))
    given: dict[str, Any] = {"train_data": train, "loss": nn.MSELoss(reduction="sum")}
    exact, found = (attribute(one(0.05), network("linear"), targets, **given).values for one in (Influence, EKFAC))
    assert np.corrcoef(exact.ravel(), found.ravel())[0, 1] > 0.95
    assert 0.7 < np.abs(found).mean() / np.abs(exact).mean() < 1.4


def test_drawn_labels_follow_the_models_probabilities_and_not_the_batch() -> None:
    outputs = torch.tensor([[0.0, 1.0, -1.0, 2.0]]).repeat(4000, 1)
    loss = training_loss(F.cross_entropy, network("linear"), whence.as_examples(data("linear", 4)))
    found = drawn.drawn_labels(loss, outputs, range(4000), 0)
    shares = found.bincount(minlength=4) / 4000
    torch.testing.assert_close(shares, torch.softmax(outputs[0], 0), rtol=0, atol=0.03)
    some = list(range(200, 100, -1))
    assert torch.equal(drawn.drawn_labels(loss, outputs[:100], some, 0), found[some])
    assert not torch.equal(drawn.drawn_labels(loss, outputs, range(4000), 1), found)


def test_a_loss_whose_labels_cannot_be_drawn_is_refused_but_for_the_empirical_matrix(kronfluence: Any) -> None:
    train = (data("linear", 20)[0], data("linear", 20)[0][:, :3])
    given: dict[str, Any] = {"train_data": train, "loss": F.l1_loss}
    with pytest.raises(ArgumentError, match=r"cannot draw labels for the loss l1_loss: .* fisher='empirical'"):
        attribute(EKFAC(), network("linear"), train, **given)
    assert np.isfinite(attribute(EKFAC(fisher="empirical"), network("linear"), train, **given).values).all()


def test_an_ensemble_of_ekfac_is_the_mean(kronfluence: Any) -> None:
    second = as_trained(other("linear"), data("linear", 40), loss=F.cross_entropy)
    both = scores(Ensemble(EKFAC(0.1), [second]), "linear")
    each = [scores(EKFAC(0.1), "linear"), attribute(EKFAC(0.1), second, data("linear", 7, 1)).values]
    np.testing.assert_allclose(both, np.mean(each, 0), **CLOSE)
    assert np.abs(scores(GradDot(), "linear") - both).max() > 1e-3
