"""Modes and coefficients against decompositions of the written-out matrix of gradients."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.attribution.networks import KINDS, data, network, one_by_one
from tests.audit.training import blobs, tanh_net, trained
from whence._errors import ArgumentError, DataError, GradientError
from whence.kernel import Modes, Trained, as_trained, coefficients, coefficients_of, modes, modes_for_energy

COUNT = 14  # training examples
EPS = torch.finfo(torch.float64).eps


def setting(kind: str) -> tuple[Trained, Tensor]:
    """Return a trained model and the written-out matrix of its training examples' gradients."""
    model, examples = network(kind), data(kind, COUNT)
    return as_trained(model, examples, loss=F.cross_entropy), one_by_one(model, examples)


def central_difference(found: Modes, examples: tuple[Tensor, Tensor], model: nn.Module, entry: int) -> Tensor:
    """Return the slope of every coefficient in one entry of the input; off by h² and eps/h, about 1e-10 each."""
    x, y = examples
    h = 1e-5
    step = torch.zeros_like(x)
    step[:, entry] = h
    ahead, behind = (one_by_one(model, (x + sign * step, y)) for sign in (1, -1))
    return (ahead - behind) @ found.directions.T / (2 * h)


@pytest.mark.parametrize("kind", KINDS)
def test_modes_are_the_singular_value_decomposition_of_the_written_out_gradients(kind: str) -> None:
    source, matrix = setting(kind)
    found = modes(source, count=4)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    gap = float((s[:4] - s[1:5]).min() / s[0])  # vectors are known to the precision of the matrix over the gap
    signs = (found.directions * v[:4]).sum(1)
    torch.testing.assert_close(found.singular_values, s[:4], rtol=1e-12, atol=0)
    torch.testing.assert_close(signs.abs(), torch.ones_like(signs), rtol=0, atol=100 * EPS / gap)
    torch.testing.assert_close(found.alignment, u[:, :4].sum(0) * signs.sign(), rtol=0, atol=COUNT * 100 * EPS / gap)
    assert found.energy == pytest.approx(float(matrix.square().sum()), rel=1e-12)
    assert found.layout.parameters == matrix.shape[1]
    assert len(found) == 4


@pytest.mark.parametrize("budget", [1, 2**29], ids=["one example at a time, formed anew", "kept"])
def test_a_budget_changes_the_way_and_not_the_modes(budget: int) -> None:
    source, _ = setting("convolution")
    found, other = modes(source, count=3, memory_budget=budget), modes(source, count=3)
    torch.testing.assert_close(found.directions, other.directions, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.drive, other.drive, rtol=1e-10, atol=0)


def test_gradients_are_formed_once_where_they_fit_the_budget_and_in_each_pass_where_not() -> None:
    source, _ = setting("perceptron")
    rows: list[int] = []
    source.model.register_forward_hook(lambda _model, args, _out: rows.append(len(args[0])))
    asked = []
    for budget in (2**29, 1):
        rows.clear()
        modes(source, count=3, iterations=2, memory_budget=budget)
        asked.append(sum(rows))
    once, anew = asked  # each began with the same few examples, to see sizes and shapes
    assert anew - once == 3 * COUNT


@pytest.mark.parametrize("iterations", [0, 2])
def test_directions_are_orthonormal_and_the_drive_is_the_gradient_of_all_examples_along_them(iterations: int) -> None:
    source, matrix = setting("perceptron")
    found = modes(source, count=5, oversampling=0, iterations=iterations)
    torch.testing.assert_close(
        found.directions @ found.directions.T, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-13
    )
    torch.testing.assert_close(found.drive, found.directions @ matrix.sum(0), rtol=1e-10, atol=1e-13)
    torch.testing.assert_close((matrix @ found.directions.T).norm(dim=0), found.singular_values, rtol=1e-11, atol=0)
    largest = found.directions.gather(1, found.directions.abs().argmax(1, keepdim=True))
    assert (largest > 0).all()


def test_each_iteration_brings_the_singular_values_nearer_from_below() -> None:
    model, examples = network("perceptron"), data("perceptron", 40)
    source = as_trained(model, examples, loss=F.cross_entropy)
    true = torch.linalg.svdvals(one_by_one(model, examples))[:6]
    errors = []
    for iterations in range(4):
        found = modes(source, count=6, oversampling=0, iterations=iterations)
        assert (found.singular_values <= true * (1 + 1e-12)).all()
        errors.append(float((true - found.singular_values).square().sum().sqrt()))
    assert errors[0] > 1.5 * errors[1] > 1.5**2 * errors[2] > 1.5**3 * errors[3]


def test_all_modes_hold_all_the_energy() -> None:
    source, _ = setting("linear")
    found = modes(source, count=COUNT)
    assert float(found.captured[-1]) == pytest.approx(1, abs=1e-12)
    assert modes_for_energy(found, [1 - 1e-9])[1 - 1e-9] <= COUNT


def test_modes_of_some_examples_and_layers_are_those_of_these_rows_and_columns() -> None:
    source, _ = setting("perceptron")
    ids = [7, 2, 11, 5]
    found = modes(source, count=2, ids=ids, layers=["2"])
    x, y = data("perceptron", COUNT)
    part = one_by_one(network("perceptron"), (x[ids], y[ids]), names=["2.weight", "2.bias"])
    torch.testing.assert_close(found.singular_values, torch.linalg.svdvals(part)[:2], rtol=1e-12, atol=0)
    assert found.names == ("2.weight", "2.bias")
    assert found.examples == tuple(ids)


def test_how_many_modes_hold_a_share_is_counted_on_the_spectrum() -> None:
    source, matrix = setting("perceptron")
    found = modes(source, count=12)
    energies = torch.linalg.svdvals(matrix).square()
    expected = {share: int((energies.cumsum(0) < share * energies.sum()).sum()) + 1 for share in (0.5, 0.9, 0.95)}
    assert modes_for_energy(found, [0.5, 0.9, 0.95]) == expected


def test_too_few_modes_for_a_share_say_how_many_to_ask_for() -> None:
    source, _ = setting("perceptron")
    with pytest.raises(ArgumentError, match=r"The 1 modes hold 0\.\d+ of the energy, not 0\.999\..* count=\d+"):
        modes_for_energy(modes(source, count=1), [0.999])
    with pytest.raises(ArgumentError, match=r"above 0 and at most 1; got 90"):
        modes_for_energy(modes(source, count=1), [90])


@pytest.mark.parametrize("kind", KINDS)
def test_coefficients_are_inner_products_of_gradients_and_modes(kind: str) -> None:
    source, _ = setting(kind)
    found = modes(source, count=3)
    targets = data(kind, 6, seed=1)
    expected = one_by_one(network(kind), targets) @ found.directions.T
    got = coefficients(found, source, targets)
    torch.testing.assert_close(torch.from_numpy(got.values), expected, rtol=1e-10, atol=1e-13)
    assert got.dims == ("example", "mode")
    assert got.attrs["unit"] == "units of loss per unit step along the mode"
    some = coefficients(found, source, targets, ids=[4, 1], memory_budget=1)
    torch.testing.assert_close(torch.from_numpy(some.values), expected[[4, 1]], rtol=1e-10, atol=1e-13)
    assert some.example.values.tolist() == [4, 1]


def test_predicted_labels_are_the_answers_of_the_model() -> None:
    source, _ = setting("perceptron")
    found = modes(source, count=3)
    x, _ = data("perceptron", 6, seed=1)
    answers = network("perceptron")(x).argmax(1)
    expected = one_by_one(network("perceptron"), (x, answers)) @ found.directions.T
    for given in (x, (x, None), (x, answers)):
        got = coefficients(found, source, given, labels="predicted")
        torch.testing.assert_close(torch.from_numpy(got.values), expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_differentiable_coefficients_are_the_same_and_their_gradients_are_central_differences(kind: str) -> None:
    source, _ = setting(kind)
    found = modes(source, count=3)
    x, y = data(kind, 5, seed=2)
    got = coefficients_of(found, source.model, source.loss.per_example, x, y, chunk=2)
    expected = torch.from_numpy(coefficients(found, source, (x, y)).values)
    torch.testing.assert_close(got.detach(), expected, rtol=1e-10, atol=1e-13)
    if not x.is_floating_point():
        return

    leaf = x.clone().requires_grad_()
    values = coefficients_of(found, source.model, source.loss.per_example, leaf, y)
    slopes = [torch.autograd.grad(one.sum(), leaf, retain_graph=True)[0] for one in values.T]
    for entry in (0, 4):
        expected = central_difference(found, (x, y), network(kind), entry)
        torch.testing.assert_close(torch.stack([one[:, entry] for one in slopes], 1), expected, rtol=1e-6, atol=1e-8)


def test_differentiable_coefficients_of_a_model_that_mixes_examples_are_refused() -> None:
    source, _ = setting("convolution")
    found = modes(source, count=2)
    x, y = data("convolution", 3)
    with pytest.raises(GradientError, match=r"Sequential cannot be formed example by example.*model\.eval\(\)"):
        coefficients_of(found, network("convolution").train(), source.loss.per_example, x, y)
    with pytest.raises(ArgumentError, match=r"parameter '1.weight' of shape \(4, 1, 2, 2\); this Linear has no such"):
        coefficients_of(found, nn.Linear(6, 3).double(), source.loss.per_example, x, y)


def test_modes_of_a_run_stand_before_the_step_asked_for(tmp_path: Path) -> None:
    data_, model = blobs(), tanh_net()
    run = trained(tmp_path / "run", model, torch.optim.SGD(model.parameters(), 0.1), data_)
    found = modes(run, step=4, count=3)
    reference = tanh_net()
    reference.load_state_dict(run.state_at(4).parameters)
    matrix = one_by_one(reference, data_)
    torch.testing.assert_close(found.singular_values, torch.linalg.svdvals(matrix)[:3], rtol=1e-12, atol=0)
    assert found.step == 4
    torch.testing.assert_close(
        torch.from_numpy(coefficients(found, run, data_).values), matrix @ found.directions.T, rtol=1e-9, atol=1e-12
    )
    later = one_by_one(model, data_) @ found.directions.T
    at_end = coefficients(found, run, data_, step=run.steps)
    torch.testing.assert_close(torch.from_numpy(at_end.values), later, rtol=1e-9, atol=1e-12)
    assert modes(run, count=1).step == run.steps


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"count": 15}, r"1 to 14: 14 examples have gradients of 53 entries; got 15"),
        ({"count": 0}, r"1 to 14.*got 0"),
        ({"ids": [1, 2], "count": 3}, r"1 to 2: 2 examples"),
        ({"ids": [14]}, r"14 training examples \(0\.\.13\)"),
        ({"oversampling": -1, "count": 2}, r"`oversampling` is a whole number, at least 0; got -1"),
        ({"iterations": -2, "count": 2}, r"`iterations` is a whole number, at least 0; got -2"),
        ({"step": 3}, r"needs a recorded run; a trained model was given"),
    ],
)
def test_what_modes_cannot_do_is_refused_in_words(arguments: dict[str, object], words: str) -> None:
    source, _ = setting("perceptron")
    with pytest.raises(ArgumentError, match=words):
        modes(source, **arguments)  # type: ignore[arg-type]


def test_a_step_that_the_run_has_not_is_refused_with_those_it_has(tmp_path: Path) -> None:
    data_, model = blobs(), tanh_net()
    run = trained(tmp_path / "run", model, torch.optim.SGD(model.parameters(), 0.1), data_)
    with pytest.raises(ArgumentError, match=rf"0 to {run.steps} \({run.steps} is its end\); got {run.steps + 1}"):
        modes(run, step=run.steps + 1, count=1)


def test_examples_without_gradients_have_no_modes() -> None:
    model = network("linear")
    nn.init.zeros_(model.get_parameter("weight"))
    source = as_trained(model, data("linear", 4), loss=lambda outputs, labels: (0 * outputs).sum(1))
    with pytest.raises(ArgumentError, match=r"gradients of all 4 examples are zero"):
        modes(source, count=1)


def test_gradients_that_are_not_finite_have_no_modes() -> None:
    x, y = data("perceptron", COUNT)
    x[3] = float("nan")
    source = as_trained(network("perceptron"), (x, y), loss=F.cross_entropy)
    with pytest.raises(ArgumentError, match=r"Among the loss gradients of these 14 examples some are not finite"):
        modes(source, count=1)
    assert len(modes(source, count=1, ids=[0, 1, 2])) == 1


def test_a_model_of_lower_precision_is_refused_with_the_remedy() -> None:
    x, y = data("perceptron", COUNT)
    source = as_trained(network("perceptron").bfloat16(), (x.bfloat16(), y), loss=F.cross_entropy)
    with pytest.raises(ArgumentError, match=r"The model is in torch\.bfloat16, and modes need .* \(model\.float\(\)\)"):
        modes(source, count=1)


def test_labels_are_asked_for_with_the_reason() -> None:
    source, _ = setting("perceptron")
    found = modes(source, count=2)
    x, _ = data("perceptron", 3)
    for given in (x, (x, None)):
        with pytest.raises(ArgumentError, match=r"a loss needs a label for each example.* labels='predicted'"):
            coefficients(found, source, given)
    with pytest.raises(DataError, match="A str is not a dataset"):
        coefficients(found, source, "images")


def test_predicted_labels_need_classes() -> None:
    model = nn.Linear(2, 1).double()
    pair = torch.randn(5, 2, dtype=torch.float64), torch.randn(5, 1, dtype=torch.float64)
    source = as_trained(model, pair, loss=F.mse_loss)
    with pytest.raises(ArgumentError, match=r"needs outputs of shape .*; this one gives"):
        coefficients(modes(source, count=1), source, pair[0], labels="predicted")


def test_modes_of_another_model_are_refused() -> None:
    source, _ = setting("perceptron")
    other: Modes = dataclasses.replace(modes(source, count=2), names=("0.weight", "0.bias", "2.weight", "3.bias"))
    with pytest.raises(ArgumentError, match=r"with the parameter '3\.bias' of shape \(3,\); this Sequential has no"):
        coefficients(other, source, data("perceptron", 3))
