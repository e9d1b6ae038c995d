"""Parameters may come and go in the optimizer while it trains."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

import whence
from tests.runs.training import FEATURES, Recipe, data, equal, plain_model
from whence._errors import UnsupportedOptimizerError

ALL = ("0.weight", "0.bias", "2.weight", "2.bias")
GIVEN_UP = ("2.weight", "2.bias", "0.weight", "0.bias")
Change = Callable[[Any, Any], None]


def layers(model: Any) -> list[Any]:
    return [{"params": list(model[0].parameters())}, {"params": list(model[2].parameters())}]


def by_layer(model: nn.Module) -> Optimizer:
    return SGD(layers(model), lr=0.3, momentum=0.9)


def together(model: nn.Module) -> Optimizer:
    return Adam(model.parameters(), lr=0.02)


def last_layer(model: nn.Module) -> Optimizer:
    return SGD(list(model.parameters())[2:], lr=0.1, momentum=0.9)


def named(model: Any) -> Optimizer:
    return AdamW(model[2].named_parameters(), lr=0.02)


def delete(model: Any, optimizer: Optimizer) -> None:
    model[0].requires_grad_(requires_grad=False)
    del optimizer.param_groups[0]


def take_back(model: Any, optimizer: Any) -> None:
    model[0].requires_grad_(requires_grad=True)
    optimizer.add_param_group({"params": list(model[0].parameters()), "lr": 0.1})


def replace(model: Any, optimizer: Optimizer) -> None:
    optimizer.param_groups[0]["params"] = list(model[2].parameters())


def swap(model: Any, optimizer: Optimizer) -> None:
    optimizer.param_groups[0]["params"] = list(model[0].parameters())


def extend(model: Any, optimizer: Optimizer) -> None:
    optimizer.param_groups[0]["params"] += list(model[0].parameters())


def move(model: Any, optimizer: Optimizer) -> None:
    moved = optimizer.param_groups[0]["params"].pop()
    optimizer.add_param_group({"params": [moved], "lr": 0.1})


def add_named(model: Any, optimizer: Optimizer) -> None:
    optimizer.add_param_group({"params": list(model[0].named_parameters())})


COMING_AND_GOING: dict[str, tuple[Callable[[nn.Module], Optimizer], dict[int, Change], tuple[str, ...]]] = {
    # optimizer, what is done after which step, the trained parameters
    "group deleted": (by_layer, {7: delete}, GIVEN_UP),
    "group deleted and taken back": (by_layer, {5: delete, 11: take_back}, GIVEN_UP),
    "list replaced": (together, {7: replace}, GIVEN_UP),
    "list replaced by one as long": (last_layer, {7: swap}, ALL),
    "list extended": (last_layer, {7: extend}, GIVEN_UP),
    "moved to another group": (together, {7: move}, ALL),
    "named group added": (named, {7: add_named}, GIVEN_UP),
}


@pytest.mark.parametrize("name", COMING_AND_GOING)
def test_parameters_that_come_and_go_are_walked_again_and_audited(name: str, tmp_path: Path) -> None:
    optimizer, changes, trained = COMING_AND_GOING[name]

    def after(model: nn.Module, live: Optimizer, step: int) -> None:
        model.zero_grad()  # also what the optimizer does not hold
        changes.get(step, lambda _model, _optimizer: None)(model, live)

    model, run = Recipe(optimizer=optimizer, after_step=after).record(tmp_path / "run")
    verification = run.verify()
    assert verification.exact == verification.snapshots == 5
    assert run.parameter_names == trained
    targets = (torch.randn(3, FEATURES, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2]))
    audit = whence.audit(run, targets)
    losses = [F.cross_entropy(one(targets[0]), targets[1], reduction="none") for one in (model, plain_model())]
    changed = (losses[0] - losses[1]).detach().numpy()
    assert audit.completeness.true_change.values == pytest.approx(changed, abs=1e-5)
    assert audit.influence.sum("train").values == pytest.approx(changed, abs=0.02)


def halted(path: Path) -> None:
    """Go on with a run for two steps, without the group of its first layer."""
    model = plain_model()
    optimizer = by_layer(model)

    def halt(_model: nn.Module, _optimizer: Optimizer, step: int) -> None:
        if step == 2:
            raise ZeroDivisionError

    with whence.record(path, model, optimizer, data(), loss=F.cross_entropy, resume=True) as recorder:
        delete(model, optimizer)
        Recipe(after_step=halt).train(model, optimizer, [recorder.batches(4)])


def test_a_run_whose_optimizer_gave_parameters_up_is_gone_on_with(tmp_path: Path) -> None:
    def train(path: Path, epochs: range) -> nn.Module:
        model = plain_model()
        optimizer = by_layer(model)
        with whence.record(path, model, optimizer, data(), loss=F.cross_entropy, resume=True) as recorder:
            for epoch in epochs:
                Recipe().train(model, optimizer, [recorder.batches(4)])
                if epoch == 0:
                    delete(model, optimizer)
        return model

    train(tmp_path / "two", range(1))
    with pytest.raises(ZeroDivisionError):
        halted(tmp_path / "two")
    resumed = train(tmp_path / "two", range(1, 2))
    assert equal(resumed, train(tmp_path / "whole", range(2)))
    assert Recipe().open(tmp_path / "two").verify().deviation == 0.0


NUMBERS: dict[str, tuple[Any, float]] = {
    "numpy's float32": (np.float32(0.1), float(np.float32(0.1))),
    "numpy's int64": (np.int64(1), 1),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_learning_rate_that_is_another_kind_of_number_is_kept_as_one(name: str, tmp_path: Path) -> None:
    given, kept = NUMBERS[name]

    def after(_model: nn.Module, optimizer: Optimizer, _step: int) -> None:
        optimizer.param_groups[0]["lr"] = given

    recipe = Recipe(optimizer=lambda model: SGD(model.parameters(), lr=0.1, momentum=0.5), after_step=after, epochs=1)
    _, run = recipe.record(tmp_path / "run")
    found = run.record_of(2).settings[0].options["lr"]
    assert (found, type(found)) == (kept, type(kept))
    assert run.verify().deviation < 1e-6


def test_an_option_that_is_no_number_is_refused_at_its_step(tmp_path: Path) -> None:
    def after(_model: nn.Module, optimizer: Optimizer, _step: int) -> None:
        optimizer.param_groups[0] |= {"weight_decay": Decimal(0), "note": Decimal(0)}

    recipe = Recipe(after_step=after)
    with pytest.raises(UnsupportedOptimizerError, match=r"'weight_decay' of Adam is Decimal\('0'\), a Decimal, which"):
        recipe.record(tmp_path / "run")
    assert recipe.open(tmp_path / "run").steps == 1
