"""Walking a run again gives the recorded training, bit by bit."""

from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from tests.runs.training import Recipe, noisy_model, own_norm_model, plain_model, tied_model
from whence import _errors as errors
from whence.runs import Run
from whence.runs.randomness import same_convolutions


def groups(model: nn.Module) -> Optimizer:
    first, *others = model.parameters()
    return SGD([{"params": [first], "lr": 0.2}, {"params": others, "weight_decay": 0.1}], lr=0.05, momentum=0.8)


def scheduled(_model: nn.Module, optimizer: Optimizer, step: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = 0.03 / (1 + 0.1 * step)


def freeze_midway(model: nn.Module, _optimizer: Optimizer, step: int) -> None:
    next(model.parameters()).requires_grad_(step % 3 != 0)


def freeze_first(model: nn.Module) -> Optimizer:
    first, *others = model.parameters()
    first.requires_grad_(False)
    return Adam(others, lr=0.02)


def validate(model: nn.Module, _optimizer: Optimizer, _step: int) -> None:
    model.eval()
    with torch.no_grad():
        model(torch.ones(3, 5))
    model.train()


def validate_carelessly(model: nn.Module, _optimizer: Optimizer, step: int) -> None:
    """Call in training mode: moves BatchNorm's buffers, draws dropout."""
    if step % 3 == 1:
        with torch.no_grad():
            model(torch.ones(3, 5) * step)
    if step % 4 == 1:
        model(torch.ones(3, 5) * step)


def half_frozen_norm(model: nn.Module, _optimizer: Optimizer, step: int) -> None:
    model[1].train(step % 2 == 0)  # type: ignore[index]


def unfreeze(model: nn.Module, optimizer: Optimizer, step: int) -> None:
    if step == 6:
        first = next(model.parameters()).requires_grad_(True)
        optimizer.add_param_group({"params": [first], "lr": 0.01})


def clip_norm(model: nn.Module, _optimizer: Optimizer) -> None:
    clip_grad_norm_(model.parameters(), 0.3)


def clip_value(model: nn.Module, _optimizer: Optimizer) -> None:
    clip_grad_value_(model.parameters(), 0.05)


def clip_norm_and_value(model: nn.Module, _optimizer: Optimizer) -> None:
    clip_grad_norm_(model.parameters(), 0.5)
    clip_grad_value_(model.parameters(), 0.1)


def clip_value_and_norm(model: nn.Module, _optimizer: Optimizer) -> None:
    clip_grad_value_(model.parameters(), 0.1)
    clip_grad_norm_(model.parameters(), 0.3)


def clip_each_layer(model: nn.Module, _optimizer: Optimizer) -> None:
    layers = (layer for layer in model.modules() if isinstance(layer, nn.Linear))
    for layer, bound in zip(layers, (0.1, 0.2), strict=True):
        clip_grad_norm_(layer.parameters(), bound)


def clip_one_layer(model: nn.Module, _optimizer: Optimizer) -> None:
    clip_grad_norm_(model[0].parameters(), 0.1)  # type: ignore[index]


def clip_each_parameter(model: nn.Module, _optimizer: Optimizer) -> None:
    for parameter in model.parameters():
        clip_grad_norm_(parameter, 0.05)


def clip_groups(_model: nn.Module, optimizer: Optimizer) -> None:
    for group, bound in zip(optimizer.param_groups, (0.05, 0.2), strict=True):
        clip_grad_norm_(group["params"], bound)


def clip_values_of_one_layer(model: nn.Module, _optimizer: Optimizer) -> None:
    clip_grad_value_(model[0].parameters(), 0.03)  # type: ignore[index]


def clip_one_layer_by_norm_and_the_other_by_value(model: nn.Module, _optimizer: Optimizer) -> None:
    clip_grad_norm_(model[0].parameters(), 0.1)  # type: ignore[index]
    clip_grad_value_(model[2].parameters(), 0.05)  # type: ignore[index]


def clip_each_layer_then_values(model: nn.Module, optimizer: Optimizer) -> None:
    clip_each_layer(model, optimizer)
    clip_grad_value_(model.parameters(), 0.05)


def negate_one(model: nn.Module, _optimizer: Optimizer) -> None:
    next(model.parameters()).grad.neg_()  # type: ignore[union-attr]


def decay_one(model: nn.Module, _optimizer: Optimizer) -> None:
    parameter = next(model.parameters())
    parameter.grad.add_(parameter.detach(), alpha=1e-3)  # type: ignore[union-attr]


def average(model: nn.Module, _optimizer: Optimizer) -> None:
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad /= 3


def positions(outputs: Tensor, labels: Tensor) -> Tensor:
    """Give one loss per example."""
    return F.cross_entropy(outputs, labels, reduction="none")


weighted = partial(F.cross_entropy, weight=torch.tensor([1.0, 3.0, 0.5]), label_smoothing=0.1)


class Double(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.double()


def double_model() -> nn.Module:
    return nn.Sequential(Double(), plain_model().double())


RECIPES = {
    "sgd": Recipe(optimizer=lambda m: SGD(m.parameters(), lr=0.1)),
    "sgd, everything": Recipe(
        optimizer=lambda m: SGD(m.parameters(), lr=0.1, momentum=0.9, dampening=0.2, weight_decay=0.01, maximize=True)
    ),
    "nesterov": Recipe(optimizer=lambda m: SGD(m.parameters(), lr=0.1, momentum=0.9, nesterov=True)),
    "rmsprop": Recipe(optimizer=lambda m: RMSprop(m.parameters(), lr=0.01, centered=True, momentum=0.5)),
    "adagrad": Recipe(optimizer=lambda m: Adagrad(m.parameters(), lr=0.1, lr_decay=0.1, weight_decay=0.01)),
    "adam": Recipe(),
    "amsgrad": Recipe(optimizer=lambda m: Adam(m.parameters(), lr=0.02, amsgrad=True, maximize=True)),
    "adamw": Recipe(optimizer=lambda m: AdamW(m.parameters(), lr=0.02, weight_decay=0.1)),
    "adamw, foreach": Recipe(optimizer=lambda m: AdamW(m.parameters(), lr=0.02, foreach=True)),
    "adam, fused": Recipe(optimizer=lambda m: Adam(m.parameters(), lr=0.02, fused=True)),
    "tensor lr": Recipe(optimizer=lambda m: Adam(m.parameters(), lr=torch.tensor(0.02))),
    "groups": Recipe(optimizer=groups),
    "added group": Recipe(optimizer=freeze_first, after_step=unfreeze),
    "schedule": Recipe(after_step=scheduled),
    "noise and norms": Recipe(model=noisy_model),
    "noise, validated": Recipe(model=noisy_model, after_step=validate),
    "noise, validated in training mode": Recipe(model=noisy_model, after_step=validate_carelessly),
    "own norm, validated in training mode": Recipe(model=own_norm_model, after_step=validate_carelessly),
    "noise, modes change": Recipe(model=noisy_model, after_step=half_frozen_norm),
    "tied": Recipe(model=tied_model),
    "tied, zero gradients": Recipe(model=tied_model, to_none=False, optimizer=lambda m: AdamW(m.parameters(), lr=0.02)),
    "frozen": Recipe(optimizer=freeze_first),
    "frozen midway": Recipe(after_step=freeze_midway),
    "clip by norm": Recipe(between=clip_norm),
    "clip by value": Recipe(between=clip_value),
    "clip by norm, then by value": Recipe(between=clip_norm_and_value),
    "clip by value, then by norm": Recipe(between=clip_value_and_norm),
    "clip each layer by norm": Recipe(between=clip_each_layer),
    "clip one layer by norm": Recipe(between=clip_one_layer),
    "clip each parameter by norm": Recipe(between=clip_each_parameter),
    "clip each group by norm": Recipe(optimizer=groups, between=clip_groups),
    "clip one layer by value": Recipe(between=clip_values_of_one_layer),
    "clip one layer by norm, one by value": Recipe(between=clip_one_layer_by_norm_and_the_other_by_value),
    "clip each layer by norm, then all by value": Recipe(between=clip_each_layer_then_values),
    "clip each layer of a double model": Recipe(model=double_model, between=clip_each_layer),
    "accumulate and clip each layer": Recipe(accumulate=2, divide=2.0, between=clip_each_layer),
    "accumulate and clip one layer by value": Recipe(accumulate=2, between=clip_values_of_one_layer),
    "accumulate, divide and clip one layer by value": Recipe(
        accumulate=2, divide=2.0, between=clip_values_of_one_layer
    ),
    "accumulate, divide by 3 and clip one layer": Recipe(accumulate=3, divide=3.0, between=clip_one_layer),
    "accumulate with a last smaller group, and clip by value": Recipe(
        accumulate=4, group_at_end=True, divide=4.0, between=clip_value
    ),
    "accumulate": Recipe(model=noisy_model, accumulate=2),
    "accumulate and divide by 3": Recipe(accumulate=3, divide=3.0),
    "accumulate and average after": Recipe(accumulate=3, between=average),
    "accumulate, divide by 2 and clip": Recipe(accumulate=2, divide=2.0, between=clip_norm),
    "loss of examples": Recipe(loss=positions, loss_of=lambda o, y: positions(o, y).mean()),
    "weighted loss": Recipe(loss=weighted, loss_of=weighted),
    "module loss": Recipe(loss=nn.CrossEntropyLoss(reduction="sum"), loss_of=nn.CrossEntropyLoss(reduction="sum")),
    "summed instead": Recipe(loss_of=lambda o, y: F.cross_entropy(o, y, reduction="sum"), batch_size=2),
    "autocast": Recipe(context=lambda: torch.autocast("cpu", dtype=torch.bfloat16)),
    "double": Recipe(model=double_model),
}
"""Trainings whose every snapshot is met bit by bit."""


@pytest.mark.parametrize("name", RECIPES)
def test_replay_meets_every_snapshot_bit_by_bit(name: str, tmp_path: Path) -> None:
    model, run = RECIPES[name].record(tmp_path / "run", snapshot_every=4)
    verification = run.verify()
    end = run.state_at(run.steps)
    assert run.steps >= 6
    assert (verification.exact, verification.steps) == (verification.snapshots, run.steps)
    assert verification.snapshots >= 2
    assert all(torch.equal(value, end.parameters[key]) for key, value in model.named_parameters())
    assert all(torch.equal(value, end.buffers[key]) for key, value in model.named_buffers())


CLOSE: dict[str, Recipe] = {
    "accumulate, divide by 3 and clip": Recipe(accumulate=3, divide=3.0, between=clip_norm),
    "examples of all microbatches": Recipe(
        accumulate=2, batch_size=3, loss_of=lambda o, y: F.cross_entropy(o, y, reduction="sum") / 7
    ),
    "accumulate and clip by value": Recipe(accumulate=2, divide=2.0, between=clip_value),
    "accumulate, divide by 3 and clip each layer": Recipe(accumulate=3, divide=3.0, between=clip_each_layer),
}
"""Trainings whose factor can only be told to rounding."""


@pytest.mark.parametrize("name", CLOSE)
def test_where_the_factor_is_told_to_rounding_replay_lands_within_rounding(name: str, tmp_path: Path) -> None:
    _, run = CLOSE[name].record(tmp_path / "run", snapshot_every=2)
    assert run.verify().deviation < 1e-4


def test_scale_turns_the_gradient_of_the_loss_into_the_one_used(tmp_path: Path) -> None:
    _, run = RECIPES["clip by norm"].record(tmp_path / "run")
    factors = [step.scale for step in run.replay(0, run.steps)]
    assert all(isinstance(factor, float) and 0 < factor <= 1 for factor in factors)
    assert any(factor < 1 for factor in factors if isinstance(factor, float))


def test_clipping_each_layer_gives_a_factor_for_each_parameter_and_one_for_each_layer(tmp_path: Path) -> None:
    _, run = RECIPES["clip each layer by norm"].record(tmp_path / "run")
    for step in run.replay(0, 3):
        assert isinstance(step.scale, dict)
        factors = {name: float(factor) for name, factor in step.scale.items()}
        assert factors["0.weight"] == factors["0.bias"] < 1
        assert factors["2.weight"] == factors["2.bias"] < 1
        assert factors["0.weight"] != factors["2.weight"]


def test_clipping_by_value_gives_a_diagonal_of_each_parameters_shape(tmp_path: Path) -> None:
    _, run = RECIPES["clip by value"].record(tmp_path / "run")
    for step in run.replay(0, 3):
        assert isinstance(step.scale, dict)
        shapes = {name: value.shape for name, value in step.parameters.items()}
        assert {name: factor.shape for name, factor in step.scale.items() if isinstance(factor, Tensor)} == shapes
        assert all((factor <= 1).all() for factor in step.scale.values() if isinstance(factor, Tensor))


def test_parameters_yielded_are_those_before_the_step_and_the_optimizer_is_after_it(tmp_path: Path) -> None:
    _, run = Recipe().record(tmp_path / "run")
    before = {step.index: step for step in run.replay(2, 9)}
    assert list(before) == list(range(2, 9))
    for index, step in before.items():
        state = run.state_at(index)
        assert all(torch.equal(value, state.parameters[name]) for name, value in step.parameters.items())
    for step in run.replay(2, 3):
        counts = {int(entry["step"]) for entry in step.optimizer.state.values()}
        assert counts == {3}


def test_any_start_gives_the_same_steps(tmp_path: Path) -> None:
    _, run = RECIPES["noise and norms"].record(tmp_path / "run", snapshot_every=5)
    whole = [step.parameters for step in run.replay(0, run.steps)]
    for start in (1, 4, 5, 6, 11):
        found = next(iter(run.replay(start, run.steps))).parameters
        assert all(torch.equal(found[name], value) for name, value in whole[start].items())


def test_around_is_entered_around_each_microbatch_and_its_values_are_seen(tmp_path: Path) -> None:
    entered: list[bool] = []

    @contextmanager
    def around(model: nn.Module) -> Any:
        entered.append(model.training)
        yield len(entered)

    _, run = RECIPES["accumulate"].record(tmp_path / "run")
    seen = [step.seen for step in run.replay(3, 5, around=around)]
    assert seen == [(1, 2), (3, 4)]


def test_replay_leaves_the_random_state_alone_also_on_error(tmp_path: Path) -> None:
    _, run = RECIPES["noise and norms"].record(tmp_path / "run")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for _ in run.replay(1, 6):
        torch.rand(3)  # what is done between steps does not reach them
        torch.set_rng_state(before)

    @contextmanager
    def failing(_model: nn.Module) -> Any:
        torch.rand(1)
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        list(run.replay(1, 6, around=failing))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_group_added_midway_is_among_the_trained_parameters(tmp_path: Path) -> None:
    _, run = RECIPES["added group"].record(tmp_path / "run")
    assert sorted(run.parameter_names) == sorted(name for name, _ in plain_model().named_parameters())
    assert run.manifest.trained == ("0.bias", "2.weight", "2.bias")
    updated = [step.updated for step in run.replay(4, 8)]
    assert [("0.weight" in names) for names in updated] == [False, False, True, True]


def test_segments_cover_all_steps_and_start_at_snapshots(tmp_path: Path) -> None:
    _, run = Recipe().record(tmp_path / "run", snapshot_every=5)
    segments = run.segments()
    assert [segment.start for segment in segments] == [0, 5, 10, 15]
    assert [segment.stop for segment in segments] == [5, 10, 15, run.steps]
    assert run.snapshots.steps() == (0, 5, 10, 15, 18)


def squared(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(outputs, labels) + (outputs**2).mean() * 0.1


def poke(model: nn.Module, _optimizer: Optimizer, step: int) -> None:
    if step == 6:
        with torch.no_grad():
            next(model.parameters()).mul_(1.1)


def poke_unseen(model: nn.Module, _optimizer: Optimizer, step: int) -> None:
    if step == 6:
        next(model.parameters()).data.mul_(1.1)


def noise(model: nn.Module, _optimizer: Optimizer) -> None:
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad += 0.01 * torch.randn_like(parameter)


def diverge(_model: nn.Module, optimizer: Optimizer, _step: int) -> None:
    optimizer.param_groups[0]["lr"] = float("inf")


REFUSED: dict[str, tuple[Recipe, str]] = {
    "another loss": (Recipe(loss_of=squared), r"Step 0 \(epoch 0\).*another loss.*cross_entropy"),
    "noise on gradients": (Recipe(between=noise), r"Step 0 \(epoch 0\).*changed in another way"),
    "one parameter negated": (Recipe(between=negate_one), r"Step 0 .*changed in another way"),
    "one parameter decayed": (Recipe(between=decay_one), r"Step 0 .*changed in another way"),
    "diverged": (Recipe(after_step=diverge), r"Step 2 .*not finite, so the training diverged"),
    "parameters changed": (
        Recipe(after_step=poke),
        r"Step 6 .*something other than the optimizer changed 0\.weight; such changes [^:]*$",
    ),
    "parameters changed unseen": (Recipe(after_step=poke_unseen), r"Step 6 .*changed by hand"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_walked_again_is_refused_naming_the_step_and_the_cause(name: str, tmp_path: Path) -> None:
    recipe, words = REFUSED[name]
    _, run = recipe.record(tmp_path / "run")
    with pytest.raises(errors.ReplayError, match=words):
        run.verify()


def test_steps_outside_of_the_run_are_refused(tmp_path: Path) -> None:
    _, run = Recipe(epochs=1).record(tmp_path / "run")
    wrong: list[Callable[[Run], object]] = [
        lambda found: list(found.replay(3, 7)),
        lambda found: found.state_at(7),
        lambda found: list(found.replay(2, 1)),
    ]
    for call in wrong:
        with pytest.raises(errors.ArgumentError, match="0 to 6"):
            call(run)
    with pytest.raises(errors.ArgumentError, match="No step 6"):
        run.record_of(6)


def test_convolutions_on_a_gpu_are_deterministic_while_a_run_is_made_and_as_they_were_after() -> None:
    cudnn: Any = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic
    cudnn.benchmark, cudnn.deterministic = True, False
    try:
        with same_convolutions(torch.device("cuda")):
            assert (cudnn.benchmark, cudnn.deterministic) == (False, True)
        assert (cudnn.benchmark, cudnn.deterministic) == (True, False)
        with same_convolutions(torch.device("cpu")):
            assert (cudnn.benchmark, cudnn.deterministic) == (True, False)
    finally:
        cudnn.benchmark, cudnn.deterministic = before
