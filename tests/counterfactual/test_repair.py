"""What to remove so that an answer becomes right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import whence
from tests.audit.training import blobs
from tests.counterfactual.test_derivative import OPTIMIZERS, run_of
from whence._errors import ArgumentError
from whence.counterfactual import margin, repairs
from whence.runs import ModelState, Run

TARGETS = blobs(12, seed=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_of(tmp_path_factory.mktemp("repair") / "run", OPTIMIZERS["SGD"], epochs=6)


def margins(run: Run, state: ModelState) -> torch.Tensor:
    outputs = torch.func.functional_call(run.model, {**state.parameters, **state.buffers}, (TARGETS[0],))
    return margin(outputs, TARGETS[1]).detach()


def test_a_margin_is_positive_exactly_where_the_answer_is_right() -> None:
    outputs = torch.tensor([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0]])
    assert margin(outputs, torch.tensor([1, 2])).tolist() == [1.0, -1.0]


def test_a_repair_is_predicted_by_the_effects_and_proved_by_training_again(run: Run) -> None:
    begun = margins(run, run.state_at(run.steps))
    wrong = (begun < 0).nonzero().flatten().tolist()
    assert len(wrong) >= 2
    found = repairs(run, TARGETS, wrong, k=2, retrained=1)
    effects = whence.counterfactual(run, TARGETS, quantity=margin, ids=wrong, smoothness=0).values
    for place, target in enumerate(wrong):
        repair, order = found[target], np.argsort(-effects[place], kind="stable")
        assert repair.margin == pytest.approx(float(begun[target]))
        assert list(repair.removal.ids) == order[:2].tolist()
        predicted = float(begun[target]) + effects[place][order[:2]].sum()
        assert repair.removal.predicted == pytest.approx(predicted)
        if repair.flip is not None:
            size = len(repair.flip.ids)
            ends = float(begun[target]) + np.cumsum(effects[place][order])
            assert ends[size - 1] > 0
            assert (ends[: size - 1] <= 0).all()
        assert (repair.removal.retrained is None) == (place > 0)
    first = found[wrong[0]].removal
    true = margins(run, run.retrain(without=first.ids))[wrong[0]]
    assert first.retrained == pytest.approx(float(true))


def test_without_targets_there_is_nothing_to_repair(run: Run) -> None:
    assert repairs(run, TARGETS, [], k=2) == {}


def test_removing_more_than_there_is_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"Between 1 and 12 training examples can be removed; got 13"):
        repairs(run, TARGETS, [0], k=13)
