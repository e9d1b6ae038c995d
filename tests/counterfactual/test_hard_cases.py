"""Loops, losses and results that are easily got wrong in silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

import whence
from tests.audit.training import blobs, tanh_net, trained
from tests.counterfactual.test_derivative import AGREES, OPTIMIZERS, STEP, check_derivative, run_of
from whence._errors import ArgumentError, GradientError, ReplayError, UnsupportedLossError
from whence.counterfactual import removals, trust
from whence.counterfactual.question import Question
from whence.runs import Run, share_of

TARGETS = blobs(6, seed=1)
Change = Callable[[nn.Module, int], object]


def changed_run(path: Path, change: Change, make: Callable[[Any], Optimizer] | None = None, **options: Any) -> Run:
    """Return a run whose loop does something to the gradients of each step, told the step's number."""
    model, steps = tanh_net(), [0]
    optimizer = (make or OPTIMIZERS["momentum, dampened"])(model.parameters())

    def after(_number: int) -> None:
        change(model, steps[0])
        steps[0] += 1

    return trained(path, model, optimizer, blobs(), after_backward=after, **options)


def part(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name)


def drop_first_layer(model: nn.Module, step: int) -> None:
    if step >= 4:
        for parameter in part(model, "0").parameters():
            parameter.grad = None


@pytest.mark.parametrize("make", [lambda p: SGD(p, 0.1), lambda p: Adam(p, 0.02, eps=1e-3)])
def test_a_parameter_that_stands_still_shapes_the_others_gradients(
    make: Callable[[Any], Optimizer], tmp_path: Path
) -> None:
    check_derivative(changed_run(tmp_path / "run", drop_first_layer, make))


def test_a_layer_frozen_midway_shapes_the_others_gradients(tmp_path: Path) -> None:
    model = tanh_net()
    optimizer, data = SGD(model.parameters(), 0.1), blobs()
    with whence.record(tmp_path / "run", model, optimizer, data, loss=F.cross_entropy) as recorder:
        for epoch in range(3):
            part(model, "0").requires_grad_(epoch != 1)
            for x, y in recorder.batches(batch_size=5, shuffle=True, seed=1):
                optimizer.zero_grad(set_to_none=True)
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
    check_derivative(whence.open_run(tmp_path / "run", tanh_net(), data, loss=F.cross_entropy))


@pytest.mark.parametrize("make", [lambda p: SGD(p, 0.1, momentum=0.9), lambda p: Adam(p, 0.02, eps=1e-3)])
def test_a_layer_that_the_optimizer_gives_up_midway_counts_for_as_long_as_it_moved(make: Any, tmp_path: Path) -> None:
    model = tanh_net()
    parameters = list(model.parameters())
    optimizer, data = make([{"params": parameters[:2]}, {"params": parameters[2:]}]), blobs()
    with whence.record(tmp_path / "run", model, optimizer, data, loss=F.cross_entropy) as recorder:
        for epoch in range(3):
            if epoch == 1:
                part(model, "0").requires_grad_(requires_grad=False)
                del optimizer.param_groups[0]
            for x, y in recorder.batches(batch_size=5, shuffle=True, seed=1):
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
    check_derivative(whence.open_run(tmp_path / "run", tanh_net(), data, loss=F.cross_entropy))


class Tied(nn.Module):
    """Reads words by the same table with which it tells the next, called as a function."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.between = nn.Embedding(5, 4), nn.Linear(4, 4)
        self.double()

    def forward(self, words: Tensor) -> Tensor:
        return F.linear(self.between(self.table(words).mean(1)).tanh(), self.table.weight)


@pytest.mark.parametrize("quantity", ["loss", "logit"])
def test_a_weight_used_past_its_layer_is_differentiated_as_any_other(quantity: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    words, following = torch.randint(0, 5, (12, 3), generator=generator), torch.arange(12) % 5
    data = words.unsqueeze(2).expand(-1, -1, 2).flatten(1), following
    targets = (data[0][:4], following[:4])
    model = Tied()
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.3, momentum=0.5), data)
    order = [torch.cat(list(run.record_of(step).batches)) for step in range(run.steps)]

    def end(weights: Tensor) -> np.ndarray:
        again = Tied()
        optimizer = SGD(again.parameters(), 0.3, momentum=0.5)
        for ids in order:
            optimizer.zero_grad()
            each = F.cross_entropy(again(data[0][ids]), following[ids], reduction="none")
            (weights[ids] * each).mean().backward()
            optimizer.step()
        outputs = again(targets[0])
        logits = outputs.gather(1, targets[1][:, None])[:, 0]
        found = F.cross_entropy(outputs, targets[1], reduction="none") if quantity == "loss" else logits
        return found.detach().numpy()

    effects = whence.counterfactual(run, targets, quantity=quantity, smoothness=0)
    for example in range(3):
        step = STEP * torch.eye(12, dtype=torch.float64)[example]
        slope = -(end(1 + step) - end(1 - step)) / (2 * STEP)
        np.testing.assert_allclose(effects.values[:, example], slope, rtol=0, atol=AGREES * abs(slope).max())


def test_an_entry_that_is_its_parameters_only_one_may_be_clipped(tmp_path: Path) -> None:
    x, _ = blobs()
    y = torch.randn(12, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()

    def squared(outputs: Tensor, labels: Tensor) -> Tensor:
        return (outputs - labels).square().sum(1)

    run = trained(
        tmp_path / "run",
        model,
        SGD(model.parameters(), 0.02),
        (x, y),
        loss=lambda outputs, labels: squared(outputs, labels).mean(),
        after_backward=lambda _n: nn.utils.clip_grad_value_(model.parameters(), 0.3),
    )
    assert run.clipping().bound == pytest.approx(0.3)
    found = whence.counterfactual(run, (x, y), ids=[0, 1], smoothness=0).values
    for one in range(3):
        ends = [run.retrain(weights={one: 1 + sign * STEP}) for sign in (1, -1)]
        up, down = (
            squared(torch.func.functional_call(run.model, end.parameters, (x[:2],)), y[:2]).detach() for end in ends
        )
        true = -((up - down) / (2 * STEP)).numpy()
        np.testing.assert_allclose(found[:, one], true, rtol=0, atol=AGREES * np.abs(found).max())


def test_accumulation_divided_by_the_loop_and_clipped_by_value_is_trained_again_as_recorded(tmp_path: Path) -> None:
    run = run_of(
        tmp_path / "run",
        OPTIMIZERS["momentum, dampened"],
        batch_size=4,
        accumulate=2,
        clip=lambda model: lambda _step: nn.utils.clip_grad_value_(model.parameters(), 0.05),
    )
    again, recorded = run.retrain().parameters, run.state_at(run.steps).parameters
    for name, one in recorded.items():
        torch.testing.assert_close(again[name], one, rtol=0, atol=1e-9)
    check_derivative(run)


def norm_then_value(model: nn.Module, _step: int) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), 0.25)
    nn.utils.clip_grad_value_(model.parameters(), 0.08)


def one_layer_slower(model: nn.Module, _step: int) -> None:
    for parameter in part(model, "2").parameters():
        if parameter.grad is not None:
            parameter.grad *= 0.1


def tighter_bound_later(model: nn.Module, step: int) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), 0.3 if step < 4 else 0.1)


@pytest.mark.parametrize("change", [norm_then_value, one_layer_slower, tighter_bound_later])
def test_a_loop_that_no_rule_explains_is_not_trained_again_otherwise(change: Change, tmp_path: Path) -> None:
    run = changed_run(tmp_path / "run", change)
    with pytest.raises(ReplayError, match=r"cannot be told"):
        run.retrain(without=[1])


def test_a_gradient_that_the_loop_takes_away_moves_nothing(tmp_path: Path) -> None:
    def zero(model: nn.Module, _step: int) -> None:
        for parameter in part(model, "2").parameters():
            if parameter.grad is not None:
                parameter.grad.zero_()

    run = changed_run(tmp_path / "run", zero, lambda p: SGD(p, 0.1))
    found = whence.counterfactual(run, TARGETS, smoothness=0)
    assert np.isfinite(found).all()
    still = changed_run(tmp_path / "still", lambda model, _s: drop(part(model, "2")), lambda p: SGD(p, 0.1))
    other = whence.counterfactual(still, TARGETS, smoothness=0)
    np.testing.assert_allclose(found, other, rtol=0, atol=1e-12)


def drop(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.grad = None


@pytest.mark.parametrize("mean", [True, False])
def test_the_share_of_losses_that_cancel_is_told_by_their_gradients(mean: bool) -> None:
    outputs = torch.tensor([[1.0, -1.0, 2.0], [-2.0, 1.0, -1.0]], dtype=torch.float64, requires_grad=True)
    each = outputs.sum(1)
    each = each - each.detach().mean()  # losses of both signs that add up to 0
    per_position = each.sum() / 6 if mean else each.sum()
    assert share_of(per_position, each, outputs, 1) == pytest.approx(1 / 6 if mean else 1.0)


@pytest.mark.parametrize(("dtype", "apart"), [(torch.float32, 1e-3), (torch.float64, 1e-9)])
def test_the_share_of_almost_equal_class_weights_is_not_that_of_a_mean(dtype: torch.dtype, apart: float) -> None:
    torch.manual_seed(0)
    outputs, labels = torch.randn(600, 3, dtype=dtype), torch.randint(0, 3, (600,))
    weights = torch.tensor([1.0, 1.0, 1.0 + apart], dtype=dtype)
    whole = F.cross_entropy(outputs, labels, weights)
    each = F.cross_entropy(outputs, labels, weights, reduction="none")
    share = 1 / float(weights.double()[labels].sum())
    assert abs(share - 1 / 600) > 0.1 * apart / 600
    assert share_of(whole, each, outputs, 1) == pytest.approx(share, rel=1e-2 * apart)


def test_the_share_of_class_weights_is_not_taken_for_that_of_a_mean_in_bfloat16() -> None:
    torch.manual_seed(0)
    outputs, labels = torch.randn(60, 3, dtype=torch.bfloat16), torch.randint(0, 3, (60,))
    weights = torch.tensor([1.0, 1.0, 1.25], dtype=torch.bfloat16)
    each = F.cross_entropy(outputs, labels, weights, reduction="none")
    found = share_of(F.cross_entropy(outputs, labels, weights), each, outputs, 1)
    share = 1 / float(weights.double()[labels].sum())
    assert abs(share - 1 / 60) > 0.05 / 60
    assert found == pytest.approx(share, rel=4 * torch.finfo(torch.bfloat16).eps)


def test_a_loss_that_weighs_an_example_it_was_not_tried_on_is_refused(tmp_path: Path) -> None:
    x, _ = blobs(60)
    y = torch.linspace(-1, 1, 60, dtype=torch.float64)[:, None]

    def weighing(outputs: Tensor, labels: Tensor) -> Tensor:
        weights = 1 + 4 * (labels == y[12]).to(outputs)
        return (weights * (outputs - labels).square()).sum() / weights.sum()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.1), (x, y), loss=weighing, epochs=1)
    with pytest.raises(UnsupportedLossError, match=r"weighing is neither a mean nor a sum over examples: on a batch"):
        whence.counterfactual(run, (x, y), ids=[0], smoothness=0)
    with pytest.raises(UnsupportedLossError, match=r"weighing is neither a mean nor a sum over examples: on a batch"):
        run.retrain(without=range(60))


@pytest.mark.parametrize("count", [7, 64, 600, 6000])
def test_the_share_of_a_mean_is_not_rounded(count: int) -> None:
    torch.manual_seed(0)
    outputs, labels = torch.randn(count, 10), torch.randint(0, 10, (count,))
    each = F.cross_entropy(outputs, labels, reduction="none")
    assert share_of(F.cross_entropy(outputs, labels), each, outputs, 1) == 1 / count


def test_an_embedding_that_scales_its_gradient_is_refused_by_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 4, scale_grad_by_freq=True), nn.Flatten(), nn.Linear(8, 3)).double()
    x = torch.randint(0, 5, (12, 2), generator=torch.Generator().manual_seed(0))
    data = (x, blobs()[1])
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.1), data, epochs=1)
    with pytest.raises(GradientError, match="'0' is an Embedding with scale_grad_by_freq"):
        whence.counterfactual(run, data, smoothness=0)


# Results that were put in another order, cut, saved, or asked for twice


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_of(tmp_path_factory.mktemp("hard") / "run", OPTIMIZERS["SGD"])


@pytest.fixture(scope="module")
def effects(run: Run) -> xr.DataArray:
    return whence.counterfactual(run, TARGETS, smoothness=0)


def test_the_order_of_the_axes_and_of_the_examples_does_not_matter(effects: xr.DataArray) -> None:
    shuffled = effects.sortby(effects.sel(target=1)).T
    one, other = (whence.check(each, [[1, 2]], seeds=0).data for each in (effects, shuffled))
    xr.testing.assert_equal(one, other)
    assert removals(shuffled, 2).ids == removals(effects, 2).ids


def test_one_target_alone_is_checked(effects: xr.DataArray) -> None:
    one = whence.check(effects.sel(target=1), [[1, 2]], seeds=0).data
    np.testing.assert_array_equal(
        one["retrained"], whence.check(effects, [[1, 2]], seeds=0).data["retrained"].sel(target=[1])
    )
    assert removals(effects.sel(target=1), 2).ids == (removals(effects, 2).ids[1],)


def test_effects_without_some_training_examples_are_refused(effects: xr.DataArray) -> None:
    with pytest.raises(ArgumentError, match="of 5 training examples; the run has 12"):
        whence.check(effects.isel(train=range(5)), 1)


def test_random_sets_beside_sets_of_one_size_are_different(effects: xr.DataArray) -> None:
    found = whence.check(effects, [[1, 2], [3, 4], [5, 6]], seeds=2)
    assert len(set(found.removals)) == 9


def scaled_logit(factor: float) -> Callable[[Any, Any], Tensor]:
    def logit(outputs: Tensor, _labels: Tensor) -> Tensor:
        return factor * outputs[:, 0]

    return logit


def test_two_functions_of_one_name_do_not_share_what_was_found(run: Run, tmp_path: Path) -> None:
    kept = tmp_path / "check.json"
    for factor in (1.0, -3.0):
        found = whence.counterfactual(run, TARGETS, quantity=scaled_logit(factor), smoothness=0)
        ours = whence.check(found, [[3]], seeds=0, path=kept).data["retrained"]
        fresh = whence.check(found, [[3]], seeds=0).data["retrained"]
        np.testing.assert_array_equal(ours, fresh)


def test_a_function_called_as_a_quantity_is_not_taken_for_it(run: Run) -> None:
    def loss(outputs: Tensor, _labels: Tensor) -> Tensor:
        return outputs[:, 0]

    found = whence.counterfactual(run, TARGETS, quantity=loss, smoothness=0).assign_attrs(id="from disk")
    with pytest.raises(ArgumentError, match="'loss' was a function, which is not kept"):
        whence.check(found, 1, run=run, targets=TARGETS)


def test_a_run_opened_again_is_known(run: Run, effects: xr.DataArray) -> None:
    again = whence.open_run(run.path, tanh_net(), blobs(), loss=F.cross_entropy)
    found = whence.check(effects, [[3]], seeds=0, run=again)
    np.testing.assert_array_equal(found.data["retrained"], whence.check(effects, [[3]], seeds=0).data["retrained"])


def test_ties_are_no_correlation() -> None:
    changes = np.arange(8.0)[:, None]
    data = xr.Dataset({"predicted": (("set", "target"), 0 * changes), "retrained": (("set", "target"), changes)})
    assert np.isnan(whence.Check(data, ()).correlation)


@pytest.mark.parametrize("errors", [[0.05, float("nan")], [float("nan"), 0.05]])
def test_a_retraining_that_diverges_is_not_smooth(errors: list[float]) -> None:
    assert trust.verdict(errors, 2).startswith("not smooth: ")


MIXED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "taken from the mean": lambda outputs, _labels: outputs.sum(1) - outputs.mean(),
    "summed over targets": lambda outputs, _labels: outputs.sum(0),
    "beside the one before": lambda outputs, _labels: outputs[:, 0] * outputs[:, 1].roll(1).detach() + outputs.max(),
}


@pytest.mark.parametrize("name", MIXED)
def test_a_quantity_that_mixes_targets_is_refused(name: str, run: Run) -> None:
    with pytest.raises(ArgumentError, match=r"of target \d hangs on the outputs for target \d, too: .* own row alone"):
        whence.counterfactual(run, TARGETS, quantity=MIXED[name], ids=[0, 4, 5], smoothness=0)


def test_a_quantity_may_bring_something_for_each_target(run: Run) -> None:
    along = torch.arange(18.0, dtype=torch.float64).reshape(6, 3)
    found = whence.counterfactual(run, TARGETS, quantity=lambda o, _labels: (o * along).sum(1), smoothness=0)
    one = whence.counterfactual(run, TARGETS, quantity=lambda o, _labels: o @ along[2], smoothness=0, ids=[2])
    np.testing.assert_allclose(found.sel(target=[2]), one, rtol=1e-9)


class Noisy(nn.Module):
    """Adds noise to what is between two layers while it trains, drawn in the type of its inputs."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(3, 5, dtype=dtype), nn.Linear(5, 3, dtype=dtype)

    def forward(self, inputs: Tensor) -> Tensor:
        """Draw, and add."""
        hidden = torch.tanh(self.first(inputs))
        found: Tensor = self.last(hidden + 0.5 * torch.randn_like(hidden) if self.training else hidden)
        return found


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_noise_that_another_precision_draws_otherwise_is_refused(accumulate: int, tmp_path: Path) -> None:
    data, model = blobs(20, dtype=torch.float32), Noisy(torch.float32)
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.1), data, batch_size=5, accumulate=accumulate)
    assert np.isfinite(whence.counterfactual(run, data, ids=[0], smoothness=0)).all()
    with pytest.raises(ReplayError, match=r"differs from the replayed one .* likely `precision`: .* leave it out"):
        whence.counterfactual(run, data, ids=[0], smoothness=0, precision="float64")


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_in_float64_may_be_walked_in_float32(accumulate: int, tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", OPTIMIZERS["SGD"], accumulate=accumulate)
    one, other = (whence.counterfactual(run, TARGETS, smoothness=0, precision=name) for name in ("float32", "float64"))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-4 * float(np.abs(other).max()))


def far(outputs: Tensor, _labels: Tensor) -> Tensor:
    """Return how far outputs are from where they are: a root, at 0."""
    return (outputs - outputs.detach()).square().sum(1).sqrt()


def test_a_quantity_without_a_finite_gradient_is_refused(run: Run) -> None:
    with pytest.raises(ArgumentError, match=r"gradient of the far is not finite for 6 targets, such as \[0, 1, 2, 3\]"):
        whence.counterfactual(run, TARGETS, quantity=far)


def test_effects_that_are_no_numbers_are_not_smooth(run: Run) -> None:
    question = Question.of(run, TARGETS, lambda outputs, _labels: 0 * outputs[:, 0], None, None)
    found = trust.measure(run, question, np.full((6, 12), np.nan), 1, torch.float64, removed=False)
    assert found["verdict"].startswith("not smooth: ")


def test_a_parameter_that_is_clipped_whole_does_not_hide_the_loops_constant(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 3)).double()
    bounds: list[float] = []

    def clip(_step: int) -> None:
        gradient = model[0].bias.grad
        assert isinstance(gradient, Tensor)
        bounds.append(bounds[0] if bounds else 0.9 * float(gradient.abs().min()))
        nn.utils.clip_grad_value_(model.parameters(), bounds[0])

    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.1), blobs(), epochs=2, after_backward=clip)
    found = run.clipping()
    assert found.bound == pytest.approx(bounds[0])
    assert found.constants == {1: 1.0}
