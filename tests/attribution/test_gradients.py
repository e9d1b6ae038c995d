"""Scores that compare gradients, against autograd run example by example in float64."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import whence
from tests.attribution.networks import KINDS, data, network, one_by_one
from tests.audit.training import blobs, tanh_net, trained
from whence import WhenceError
from whence._errors import ArgumentError, LabelError
from whence.attribution import (
    GradCos,
    GradDot,
    NearestNeighbours,
    PathSimilarity,
    Random,
    Relative,
    TracIn,
    as_trained,
    attribute,
    load_scores,
    self_influence,
)
from whence.attribution.protocol import check_method
from whence.gradients import capture
from whence.kernel import features, products
from whence.kernel.projection import projected
from whence.runs import Run

TIGHT: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-12}  # float64, sums of a few hundred products


def scores(attributor: Any, kind: str, **options: Any) -> Tensor:
    found = attribute(
        attributor, network(kind), data(kind, 7, 1), train_data=data(kind, 11), loss=F.cross_entropy, **options
    )
    return torch.from_numpy(found.values)


@pytest.mark.parametrize("kind", KINDS)
def test_grad_dot_is_the_inner_product_of_gradients(kind: str) -> None:
    model = network(kind)
    expected = one_by_one(model, data(kind, 7, 1)) @ one_by_one(model, data(kind, 11)).T
    torch.testing.assert_close(scores(GradDot(), kind), expected, **TIGHT)


@pytest.mark.parametrize("kind", KINDS)
def test_grad_cos_is_the_cosine_of_gradients(kind: str) -> None:
    model = network(kind)
    left, right = (F.normalize(one_by_one(model, one), dim=1) for one in (data(kind, 7, 1), data(kind, 11)))
    torch.testing.assert_close(scores(GradCos(), kind), left @ right.T, **TIGHT)


@pytest.mark.parametrize("quantity", ["logit", "margin"])
def test_a_step_on_an_example_raises_a_logit_or_margin_by_the_score(quantity: str) -> None:
    model = network("perceptron")
    expected = -one_by_one(model, data("perceptron", 7, 1), quantity) @ one_by_one(model, data("perceptron", 11)).T
    torch.testing.assert_close(scores(GradDot(quantity), "perceptron"), expected, **TIGHT)


def test_a_positive_score_is_of_an_example_whose_gradient_step_lowers_the_targets_loss() -> None:
    model, train, targets = network("perceptron"), data("perceptron", 11), data("perceptron", 7, 1)
    rate, found = 1e-6, scores(GradDot(), "perceptron")
    before = F.cross_entropy(model(targets[0]), targets[1], reduction="none")
    for index in range(11):
        stepped = copy.deepcopy(model)
        F.cross_entropy(stepped(train[0][index : index + 1]), train[1][index : index + 1]).backward()
        with torch.no_grad():
            for one in stepped.parameters():
                one.sub_(rate * one.grad if one.grad is not None else 0)
        fall = before - F.cross_entropy(stepped(targets[0]), targets[1], reduction="none")
        torch.testing.assert_close(fall / rate, found[:, index], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        ("last", ["5.weight", "5.bias"]),
        (["1"], ["1.weight", "1.bias"]),
        (["1", "3"], ["1.weight", "1.bias", "3.weight", "3.bias"]),
    ],
)
def test_chosen_layers_count_alone(layers: Any, names: list[str]) -> None:
    model = network("convolution")
    left, right = (one_by_one(model, data("convolution", *one), names=names) for one in ((7, 1), (11, 0)))
    torch.testing.assert_close(scores(GradDot(layers=layers), "convolution"), left @ right.T, **TIGHT)


@pytest.mark.parametrize("layers", ["last", ["out"], ["table"]])
def test_a_parameter_that_layers_share_belongs_to_each_of_them(layers: Any) -> None:
    model = network("tied")
    left, right = (one_by_one(model, data("tied", *one), names=["table.weight"]) for one in ((7, 1), (11, 0)))
    torch.testing.assert_close(scores(GradDot(layers=layers), "tied"), left @ right.T, **TIGHT)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attributor", [GradDot(), GradCos()], ids=["dot", "cos"])
def test_a_budget_of_one_byte_changes_nothing(attributor: Any, kind: str) -> None:
    torch.testing.assert_close(scores(attributor, kind, memory_budget=1), scores(attributor, kind), **TIGHT)


def test_frozen_parameters_do_not_count() -> None:
    model, train, targets = network("perceptron"), data("perceptron", 11), data("perceptron", 7, 1)
    model.get_submodule("0").requires_grad_(False)
    found = attribute(GradDot(), model, targets, train_data=train, loss=F.cross_entropy)
    names = ["2.weight", "2.bias"]
    expected = one_by_one(model, targets, names=names) @ one_by_one(model, train, names=names).T
    torch.testing.assert_close(torch.from_numpy(found.values), expected, **TIGHT)


@pytest.mark.parametrize("attributor", [GradDot(), GradCos(), Relative(GradDot())])
def test_an_example_that_is_no_number_has_scores_that_are_none(attributor: Any) -> None:
    inputs, labels = data("perceptron", 6)
    inputs[2, 0] = float("nan")
    given: dict[str, Any] = {"train_data": (inputs, labels), "loss": F.cross_entropy}
    found = attribute(attributor, network("perceptron"), data("perceptron", 3, 1), **given).values
    assert np.isnan(found).all(0).tolist() == [one == 2 for one in range(6)]
    assert np.isnan(self_influence(GradCos(), network("perceptron"), **given).values[2])


def test_an_example_with_gradient_zero_has_cosine_zero() -> None:
    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0]]))
    train = (torch.tensor([[1.0, 2.0], [1.0, 0.0]]).double(), torch.tensor([[1.0], [3.0]]).double())  # the first fits
    found = attribute(GradCos(), model, train, train_data=train, loss=nn.MSELoss())
    assert found.values.tolist() == [[0.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("kind", ["perceptron", "convolution", "positions", "embedding"])
def test_products_of_projected_gradients_are_right_on_average_over_seeds(kind: str) -> None:
    model = network(kind)
    names = [name for name, _ in model.named_parameters()]
    sides = []
    for count, seed in ((7, 1), (11, 0)):
        with capture(model, names) as seen:
            x, y = data(kind, count, seed)
            F.cross_entropy(model(x), y, reduction="sum").backward()
        sides.append(seen.gradients())
    exact = products.inner_products(sides[0], sides[1], {}, 2**20)
    found = torch.stack(
        [
            products.inner_products(projected(sides[0], 8, seed), projected(sides[1], 8, seed), {}, 2**20)
            for seed in range(60)
        ]
    )
    deviation = found.std(0) / 60**0.5
    assert deviation.max() > 1e-3  # it is an approximation
    assert ((found.mean(0) - exact) / deviation.clamp_min(1e-9)).abs().max() < 5  # normal: once in 20,000 runs


@pytest.mark.parametrize("attributor", [GradDot, GradCos])
def test_the_error_of_a_projection_is_stated(attributor: Any) -> None:
    options: dict[str, Any] = {"train_data": data("positions", 11), "loss": F.cross_entropy}
    found = attribute(attributor("logit", projection=32), network("positions"), data("positions", 7, 1), **options)
    exact = attribute(attributor("logit"), network("positions"), data("positions", 7, 1), **options)
    error = float(((found - exact) ** 2).sum() ** 0.5 / (exact**2).sum() ** 0.5)
    assert found.attrs["projection_error"] == pytest.approx(error, rel=1e-9)
    assert 0 < error < 1


def test_a_projection_to_as_many_numbers_as_there_are_is_none() -> None:
    torch.testing.assert_close(scores(GradDot(projection=1000), "positions"), scores(GradDot(), "positions"), **TIGHT)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    model: Any = tanh_net()
    optimizer = torch.optim.Adam(
        [{"params": model[:2].parameters(), "lr": 0.01}, {"params": model[2:].parameters(), "lr": 0.02}]
    )
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    return trained(tmp_path_factory.mktemp("run") / "run", model, optimizer, blobs(), scheduler=schedule)


def at(run: Run, step: int) -> nn.Module:
    model = tanh_net()
    model.load_state_dict(run.state_at(step).parameters)
    return model


def test_tracin_adds_gradient_products_times_the_learning_rates_of_the_steps_to_the_checkpoints(run: Run) -> None:
    targets, expected = blobs(5, seed=1), torch.zeros(5, 12, dtype=torch.float64)
    for step in (3, 9):
        for group in run.record_of(step - 1).settings:
            left, right = (one_by_one(at(run, step), one, names=list(group.names)) for one in (targets, blobs()))
            expected += group.options["lr"] * left @ right.T
    found = attribute(TracIn([9, 3]), run, targets)
    torch.testing.assert_close(torch.from_numpy(found.values), expected, **TIGHT)
    assert found.attrs["unit"] == "nats of target loss"


def test_tracin_can_project_too(run: Run) -> None:
    assert 0 < attribute(TracIn(2, projection=3), run, blobs(5, seed=1)).attrs["projection_error"] < 2


def test_path_similarity_is_the_preconditioned_kernel_as_a_cosine(run: Run) -> None:
    targets = blobs(5, seed=1)
    both = tuple(torch.cat([one, two]) for one, two in zip(targets, blobs(), strict=True))
    kernel = torch.zeros(17, 17, dtype=torch.float64)
    for step in (4, 8):
        optimizer = run.training_state_at(step).optimizer
        pieces = []
        for group in run.record_of(step - 1).settings:
            for name in group.names:
                state, count = optimizer[name], step
                root = (state["exp_avg_sq"] / (1 - 0.999**count)).sqrt() + 1e-8
                pieces.append((group.options["lr"] * 0.1 / (1 - 0.9**count) / root).flatten())
        model = at(run, step)
        names = [name for group in run.record_of(step - 1).settings for name in group.names]
        gradients = one_by_one(model, (both[0], both[1]))
        order = [name for name, _ in model.named_parameters()]
        weights = torch.cat([pieces[names.index(name)] for name in order])
        kernel += gradients * weights @ gradients.T
    scale = kernel.diagonal().sqrt()
    expected = (kernel / scale / scale[:, None])[:5, 5:]
    found = attribute(PathSimilarity([4, 8]), run, targets)
    torch.testing.assert_close(torch.from_numpy(found.values), expected, rtol=1e-9, atol=1e-12)


def test_the_path_kernel_of_the_training_data_is_positive_semidefinite_with_similarity_one_to_itself(run: Run) -> None:
    found = torch.from_numpy(attribute(PathSimilarity(3), run, blobs()).values)
    torch.testing.assert_close(found.diagonal(), torch.ones(12, dtype=torch.float64), **TIGHT)
    assert torch.linalg.eigvalsh(found).min() > -1e-10


def test_self_scores_are_the_diagonal(run: Run) -> None:
    fitted = TracIn(2).fit(as_trained(run))
    expected = torch.from_numpy(attribute(TracIn(2), run, blobs()).values).diagonal()
    torch.testing.assert_close(fitted.self_scores(), expected, **TIGHT)


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
def test_grad_dot_over_states_equals_captums_tracin_over_all_layers_and_the_last(run: Run) -> None:
    influence = pytest.importorskip("captum.influence")
    train, targets, steps = blobs(), blobs(5, seed=1), [3, 9]
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*train), batch_size=4)
    loss = nn.CrossEntropyLoss(reduction="sum")

    def load(model: nn.Module, step: int) -> float:
        model.load_state_dict(run.state_at(step).parameters)
        return 1.0

    for layers, ours in ((None, "all"), (["4"], "last")):
        theirs = influence.TracInCP(tanh_net(), loader, steps, load, layers, loss, sample_wise_grads_per_batch=True)
        mine = sum(
            torch.from_numpy(
                attribute(GradDot(layers=ours), at(run, one), targets, train_data=train, loss=F.cross_entropy).values
            )
            for one in steps
        )
        torch.testing.assert_close(theirs.influence(targets).detach(), mine, rtol=1e-4, atol=1e-8)


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
@pytest.mark.parametrize(("layers", "ours"), [(None, "all"), (["0", "4"], ["0", "4"]), (["4"], "last")])
def test_tracin_over_checkpoints_of_a_run_equals_captums(layers: Any, ours: Any, tmp_path: Path) -> None:
    influence = pytest.importorskip("captum.influence")
    train, targets, steps = blobs(), blobs(5, seed=1), [3, 6, 9]  # the ends of epochs of three steps
    rates = dict(zip(steps, (0.2, 0.1, 0.05), strict=True))
    optimizer = torch.optim.SGD((model := tanh_net()).parameters(), 0.2)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    run = trained(tmp_path / "run", model, optimizer, train, scheduler=schedule)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*train), batch_size=4)
    loss = nn.CrossEntropyLoss(reduction="sum")

    def load(model: nn.Module, step: int) -> float:
        model.load_state_dict(run.state_at(step).parameters)
        return rates[step]

    theirs = influence.TracInCP(tanh_net(), loader, steps, load, layers, loss, sample_wise_grads_per_batch=True)
    mine = attribute(TracIn(steps, layers=ours), run, targets)
    torch.testing.assert_close(theirs.influence(targets).detach(), torch.from_numpy(mine.values), rtol=1e-4, atol=1e-8)


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
def test_grad_dot_of_a_last_layer_without_bias_equals_captums_fast_tracin() -> None:
    influence = pytest.importorskip("captum.influence")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3, bias=False)).double()
    train, targets = blobs(), blobs(5, seed=1)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*train), batch_size=4)
    theirs = influence.TracInCPFast(model, model[2], loader, [0], lambda *_: 1.0, nn.CrossEntropyLoss(reduction="sum"))
    mine = attribute(GradDot(layers="last"), model, targets, train_data=train, loss=F.cross_entropy)
    torch.testing.assert_close(theirs.influence(targets).detach(), torch.from_numpy(mine.values), rtol=1e-4, atol=1e-8)


def test_new_targets_are_scored_without_the_training_side_being_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = GradDot().fit(as_trained(network("perceptron"), data("perceptron", 11), loss=F.cross_entropy))
    seen: list[int] = []
    before = features.Features._gradients

    def counted(self: Any, moment: Any, part: range) -> Any:
        seen.append(len(part))
        return before(self, moment, part)

    monkeypatch.setattr(features.Features, "_gradients", counted)
    fitted.scores(whence.as_examples(data("perceptron", 7, 1)), [0, 4])
    assert sum(seen) == 3  # one to measure, and the two targets


@pytest.mark.parametrize("checkpoints", [0, 10, [], [0], [3, 3], [10]])
def test_checkpoints_that_the_run_has_not_are_refused(checkpoints: Any, run: Run) -> None:
    assert run.steps == 9
    with pytest.raises(ArgumentError, match=r"`checkpoints` .* (9 steps: give 1 to 9|1 to 9, the steps of this run)"):
        attribute(TracIn(checkpoints), run, blobs())


@pytest.mark.parametrize("method", [TracIn(), PathSimilarity()])
def test_a_method_that_needs_a_run_says_so(method: Any) -> None:
    with pytest.raises(ArgumentError, match=r"needs a recorded run; a trained model was given\. Record the training"):
        scores(method, "perceptron")


def test_a_layer_that_is_not_there_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(LabelError, match=r"No layer 'tabel' in the model Words; names near it: table"):
        scores(GradDot(layers=["tabel"]), "tied")
    with pytest.raises(ArgumentError, match=r"The layers 1 have no trained parameter\. Those with some are 0, 2"):
        scores(GradDot(layers=["1"]), "perceptron")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory_budget": 0}, r"`memory_budget` is a whole number of bytes, at least 1; got 0"),
        ({"loss": None}, r"A trained model needs its data and its loss"),
        ({"ids": [7]}, r"`ids` must name some of the 7 targets \(0\.\.6\)"),
        (
            {"attributor": GradDot("entropy")},
            r"No quantity 'entropy'\. Choose 'loss', 'logit', 'margin', 'probability'",
        ),
        (
            {"attributor": GradDot(layers="first")},
            r"`layers` is 'all', 'last', or a list of names of layers; got 'first'",
        ),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"attributor": GradDot(), "loss": F.cross_entropy, **options}
    with pytest.raises(WhenceError, match=message):
        attribute(
            given.pop("attributor"),
            network("perceptron"),
            data("perceptron", 7, 1),
            train_data=data("perceptron", 9),
            **given,
        )


@pytest.mark.parametrize("given", [GradDot, "GradDot"])
def test_a_name_or_class_in_place_of_a_method_is_refused(given: object) -> None:
    with pytest.raises(
        ArgumentError, match=r"`attributor` is a method with its settings, such as GradDot\(\); got (GradDot|str)"
    ):
        check_method(given)


def test_a_budget_that_is_none_is_refused_by_fit_and_by_self_influence_too() -> None:
    trained = as_trained(network("linear"), data("linear", 5), loss=F.cross_entropy)
    for call in (GradDot().fit, NearestNeighbours().fit, partial(self_influence, GradDot())):
        with pytest.raises(ArgumentError, match=r"`memory_budget` is a whole number of bytes, at least 1; got 0"):
            call(trained, memory_budget=0)


def test_scores_below_a_file_are_refused_before_they_are_computed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    given: dict[str, Any] = {"train_data": data("linear", 5), "loss": F.cross_entropy}
    with pytest.raises(ArgumentError, match=r"file cannot be a folder: a file stands there\. Choose another path"):
        attribute(Random(-1), network("linear"), data("linear", 3), path=tmp_path / "file" / "scores", **given)


def test_scores_come_back_from_disk_with_their_unit_and_sign(tmp_path: Path) -> None:
    path = tmp_path / "scores"
    found = attribute(
        GradDot("margin"),
        network("linear"),
        data("linear", 3, 1),
        train_data=data("linear", 5),
        loss=F.cross_entropy,
        path=path,
    )
    again = load_scores(path)
    assert again.identical(found)
    assert again.attrs["unit"] == "units of target margin per unit of learning rate"
    assert again.attrs["sign"] == "positive = the example helped the target"
    with pytest.raises(whence.WhenceError, match=r"Something stands at .* already"):
        attribute(
            GradDot(),
            network("linear"),
            data("linear", 3, 1),
            train_data=data("linear", 5),
            loss=F.cross_entropy,
            path=path,
        )
    with pytest.raises(whence.WhenceError, match=r"No scores at .*: there is no such folder"):
        load_scores(tmp_path / "none")
