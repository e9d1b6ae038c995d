"""Members and wrappers against slow references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import whence
from tests.attribution.networks import data, network, one_by_one
from tests.audit.training import blobs, tanh_net, trained
from whence._errors import ArgumentError, GradientError
from whence.attribution import (
    ClassBalanced,
    Counterfactual,
    Ensemble,
    GradCos,
    GradDot,
    Influence,
    NearestNeighbours,
    PathAudit,
    Random,
    Relative,
    RepresentationCos,
    RepresentationDot,
    SameClass,
    as_trained,
    attribute,
    audit_scores,
    influence,
)
from whence.runs import Run

EXACT: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-12}


def scores(attributor: Any, kind: str = "perceptron", **options: Any) -> np.ndarray:
    given = {"train_data": data(kind, 11), "loss": F.cross_entropy, **options}
    return attribute(attributor, network(kind), data(kind, 7, 1), **given).values


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    model = tanh_net()
    return trained(tmp_path_factory.mktemp("run") / "run", model, torch.optim.SGD(model.parameters(), 0.1), blobs())


@pytest.mark.parametrize("quantity", ["loss", "logit", "margin"])
def test_the_audit_and_the_counterfactual_of_a_run_are_those_of_the_library(quantity: str, run: Run) -> None:
    targets = blobs(5, seed=1)
    audit = whence.audit(run, targets, quantity=quantity)
    found = attribute(PathAudit(quantity), run, targets)
    np.testing.assert_array_equal(found.values, audit.influence.values)
    assert found.attrs["helps"] == audit.helps == (-1 if quantity == "loss" else 1)
    split = whence.audit(run, targets, quantity=quantity, by=("layer", "step"))
    summed = audit_scores(split)  # of an audit that is there already
    np.testing.assert_allclose(summed.values, found.values, rtol=1e-9, atol=1e-12)
    assert {**summed.attrs, "completeness": ""} == {**found.attrs, "completeness": ""}
    with pytest.raises(ArgumentError, match=r"This audit summed its training examples by label, .* 'label' in `by`\."):
        audit_scores(whence.audit(run, targets, quantity=quantity, by=("label",)))
    effects = whence.counterfactual(run, targets, quantity=quantity, smoothness=0)
    found = attribute(Counterfactual(quantity), run, targets)
    np.testing.assert_array_equal(found.values, effects.values)
    assert found.attrs["helps"] == (1 if quantity == "loss" else -1)


@pytest.mark.parametrize("quantity", ["loss", "logit", "margin"])
def test_the_example_that_the_counterfactual_says_helped_most_is_missed_when_it_is_gone(
    quantity: str, run: Run
) -> None:
    targets = blobs(5, seed=1)
    found = attribute(Counterfactual(quantity), run, targets)
    best = int((found.values * found.attrs["helps"]).sum(0).argmax())
    after = run.retrain(without=[best])
    logits = [model(targets[0]) for model in (as_trained(run).model, loaded(after.parameters))]
    values = [-F.cross_entropy(one, targets[1]) for one in logits]
    assert values[1] < values[0]


def loaded(state: Any) -> nn.Module:
    model = tanh_net()
    model.load_state_dict(state)
    return model


def test_representations_are_what_the_last_layer_gets_or_a_named_layer_gives() -> None:
    model = network("perceptron")
    for layer, depth in ((None, 2), ("0", 1), ("1", 2)):
        left, right = (model[:depth](data("perceptron", *one)[0]).detach() for one in ((7, 1), (11, 0)))  # type: ignore[index]
        np.testing.assert_allclose(scores(RepresentationDot(layer)), (left @ right.T).numpy(), **EXACT)
        cosine = F.cosine_similarity(left[:, None], right[None], dim=2)
        np.testing.assert_allclose(scores(RepresentationCos(layer)), cosine.numpy(), **EXACT)


def test_neighbours_are_minus_the_distance_of_inputs_or_activations() -> None:
    model = network("convolution")
    left, right = (data("convolution", *one)[0] for one in ((7, 1), (11, 0)))
    far = (left[:, None] - right[None]).square().sum(2).sqrt()
    np.testing.assert_allclose(scores(NearestNeighbours(), "convolution"), -far.numpy(), **EXACT)
    left, right = (model[:2](one).flatten(1).detach() for one in (left, right))  # type: ignore[index]
    far = (left[:, None] - right[None]).square().sum(2).sqrt()
    np.testing.assert_allclose(scores(NearestNeighbours("1"), "convolution"), -far.numpy(), **EXACT)


def test_integers_have_distances_too_and_several_inputs_have_none() -> None:
    left, right = (data("embedding", *one)[0].double() for one in ((7, 1), (11, 0)))
    far = (left[:, None] - right[None]).square().sum(2).sqrt()
    np.testing.assert_allclose(scores(NearestNeighbours(), "embedding"), -far.numpy(), rtol=1e-6)

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2, 3)

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.head(a + b)
            return out

    pairs = [((torch.ones(2), torch.ones(2)), 1), ((torch.ones(2), torch.zeros(2)), 0)]
    with pytest.raises(ArgumentError, match=r"Inputs are a tuple, not one tensor, .* Name a `layer`"):
        attribute(NearestNeighbours(), Two(), pairs, train_data=pairs, loss=F.cross_entropy)
    assert attribute(RepresentationCos(), Two(), pairs, train_data=pairs, loss=F.cross_entropy).shape == (2, 2)


def test_same_class_is_one_for_the_targets_label_and_zero_otherwise() -> None:
    expected = data("perceptron", 7, 1)[1][:, None] == data("perceptron", 11)[1]
    np.testing.assert_array_equal(scores(SameClass()), expected.numpy())
    train = (torch.randn(4, 6).double(), torch.randn(4, 3).double())
    with pytest.raises(ArgumentError, match=r"The training labels are not one whole number per example"):
        attribute(SameClass(), network("linear"), train, train_data=train, loss=nn.MSELoss())


def test_chance_depends_on_the_seed_and_has_mean_zero_and_variance_one() -> None:
    x, y = torch.randn(2000, 6, dtype=torch.float64), torch.zeros(2000, dtype=torch.long)
    found = [scores(Random(seed), "perceptron", train_data=(x, y)) for seed in (0, 1)]
    assert abs(np.corrcoef(found[0].ravel(), found[1].ravel())[0, 1]) < 5 / 14000**0.5
    assert abs(found[0].mean()) < 5 / 14000**0.5
    assert abs(found[0].var() - 1) < 5 * (2 / 14000) ** 0.5


def test_chance_takes_any_whole_seed_from_0_on_and_refuses_others() -> None:
    first, other = (scores(Random(seed), "perceptron") for seed in (2**60, 2**60 + 1))
    assert not np.array_equal(first, other)
    with pytest.raises(ArgumentError, match=r"`seed` is a whole number, at least 0; got -1"):
        scores(Random(-1), "perceptron")


def test_relative_scores_are_divided_by_the_examples_own_norm() -> None:
    model = network("perceptron")
    left, right = (one_by_one(model, data("perceptron", *one)) for one in ((7, 1), (11, 0)))
    np.testing.assert_allclose(scores(Relative(GradDot())), left @ F.normalize(right, dim=1).T, **EXACT)
    cosine = scores(GradCos())
    norms = left.norm(dim=1, keepdim=True).numpy()
    np.testing.assert_allclose(scores(Relative(GradDot())) / norms, cosine, **EXACT)


def test_relative_needs_scores_of_examples_on_themselves() -> None:
    with pytest.raises(ArgumentError, match=r"NearestNeighbours does not score examples on themselves"):
        scores(Relative(NearestNeighbours()))


@pytest.mark.parametrize("wrap", [Relative, ClassBalanced, lambda inner: Ensemble(inner, [])])
def test_a_class_is_not_wrapped(wrap: Any) -> None:
    with pytest.raises(ArgumentError, match=r"`attributor` is a method with its settings, such as GradDot\(\); got"):
        scores(wrap(GradDot))


def test_class_balanced_scores_have_mean_zero_in_every_class_and_keep_the_order_within_it() -> None:
    plain, balanced, labels = scores(GradDot()), scores(ClassBalanced(GradDot())), data("perceptron", 11)[1].numpy()
    for one in np.unique(labels):
        np.testing.assert_allclose(balanced[:, labels == one].mean(1), 0, atol=1e-12)
        shift = plain[:, labels == one] - balanced[:, labels == one]
        np.testing.assert_allclose(shift, shift[:, :1].repeat(shift.shape[1], 1), **EXACT)


def test_an_ensemble_is_the_mean_over_its_models_and_refuses_other_data() -> None:
    torch.manual_seed(9)
    second = nn.Linear(6, 3).double()
    train, targets = data("linear", 11), data("linear", 7, 1)
    models = [as_trained(one, train, loss=F.cross_entropy) for one in (network("linear"), second)]
    expected = np.mean([attribute(GradDot(), one, targets).values for one in models], 0)
    np.testing.assert_allclose(attribute(Ensemble(GradDot(), models[1:]), models[0], targets).values, expected, **EXACT)
    other = as_trained(second, data("linear", 11, 5), loss=F.cross_entropy)
    with pytest.raises(ArgumentError, match=r"Model 0 of the ensemble's others was trained on other data"):
        attribute(Ensemble(GradDot(), [other]), models[0], targets)


def ridge(damping: float) -> tuple[Any, ...]:
    """Return a least-squares problem at its optimum with weight decay, and its closed form."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(15, 4, generator=generator, dtype=torch.float64)
    y = x @ torch.randn(4, 1, generator=generator, dtype=torch.float64)
    y = y + torch.randn(15, 1, generator=generator, dtype=torch.float64)
    curvature = 2 * x.T @ x / 15 + damping * torch.eye(4, dtype=torch.float64)
    weight = torch.linalg.solve(curvature, 2 * x.T @ y / 15)
    model = nn.Linear(4, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(weight.T)
    t = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    return model, (x, y), (t, torch.zeros(6, 1, dtype=torch.float64)), curvature, weight


@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_influence_of_least_squares_is_its_closed_form(damping: float) -> None:
    model, train, targets, curvature, weight = ridge(damping)
    found = attribute(Influence(damping), model, targets, train_data=train, loss=nn.MSELoss())
    gradients = [2 * (x @ weight - y) * x for x, y in (train, targets)]
    expected = gradients[1] @ torch.linalg.solve(curvature, gradients[0].T)
    np.testing.assert_allclose(found.values, expected.numpy(), **EXACT)


@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_influence_over_the_number_of_examples_is_the_first_order_rise_of_the_loss_without_one(damping: float) -> None:
    model, (x, y), targets, _, _ = ridge(damping)
    found = attribute(Influence(damping), model, targets, train_data=(x, y), loss=nn.MSELoss()).values / 15
    step = 1e-5

    def loss_at(weights: torch.Tensor) -> torch.Tensor:
        curvature = 2 * (x.T * weights) @ x / 15 + damping * torch.eye(4, dtype=torch.float64)
        fitted = torch.linalg.solve(curvature, 2 * (x.T * weights) @ y / 15)
        found: torch.Tensor = (targets[0] @ fitted - targets[1]).square()[:, 0]
        return found

    for index in range(15):
        up, down = (torch.ones(15, dtype=torch.float64) for _ in range(2))
        up[index], down[index] = 1 + step, 1 - step
        rise = -(loss_at(up) - loss_at(down)) / (2 * step)
        np.testing.assert_allclose(found[:, index], rise.numpy(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", ["perceptron", "tied"])
def test_the_hessian_is_that_of_autograd(kind: str) -> None:
    model, train = network(kind), data(kind, 11)
    trained_model = as_trained(model, train, loss=F.cross_entropy)
    names = tuple(name for name, _ in model.named_parameters())
    live = dict(model.named_parameters())

    def loss(flat: torch.Tensor) -> torch.Tensor:
        pieces = influence.unflattened(flat, live)
        return F.cross_entropy(torch.func.functional_call(model, pieces, (train[0],)), train[1])

    expected = torch.autograd.functional.hessian(loss, torch.cat([one.detach().flatten() for one in live.values()]))
    torch.testing.assert_close(influence.hessian(trained_model, names), expected, rtol=1e-9, atol=1e-12)


def test_influence_equals_captums_exact_one() -> None:
    captum = pytest.importorskip("captum.influence._core.influence_function")
    model, train, targets = network("linear"), data("linear", 11), data("linear", 7, 1)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*train), batch_size=11)
    theirs = captum.NaiveInfluenceFunction(
        model, loader, "", lambda *_: 1.0, loss_fn=nn.CrossEntropyLoss(reduction="none"), hessian_reg=0.5
    ).influence(targets)
    mine = scores(Influence(0.5 / 11), "linear") / 11  # captum's Hessian is that of the sum
    np.testing.assert_allclose(mine, theirs.detach().numpy(), rtol=1e-4)


def test_what_the_hessian_cannot_do_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ArgumentError, match=r"The Hessian has the eigenvalue -\d.*e?-?\d*, so with damping 0 it is not"
    ):
        scores(Influence(0.0))
    with pytest.raises(ArgumentError, match=r"`damping` is a number, at least 0; got -1\.0"):
        scores(Influence(-1.0))
    monkeypatch.setattr(influence, "LARGEST", 20)
    with pytest.raises(ArgumentError, match=r"exact Hessian of 53 parameters is too large \(at most 20\)"):
        scores(Influence(1.0))


def test_an_operation_without_second_derivative_is_named() -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(x: torch.Tensor) -> torch.Tensor:
            return x.tanh()

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_backward(output)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = ctx.saved_tensors[0]
            return gradient * (1 - out * out)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = Once.apply(self.inner(x))  # type: ignore[no-untyped-call]
            return out

    train = data("linear", 5)
    with pytest.raises(GradientError, match=r"The Hessian of Model cannot be formed: "):
        attribute(Influence(1.0), Model().double(), train, train_data=train, loss=F.cross_entropy)
