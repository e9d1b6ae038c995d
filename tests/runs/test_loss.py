"""Every kind of loss gives its two forms: as in training, and one number per example."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.runs.training import noisy_model, plain_model
from whence import _errors as errors
from whence.datasets import as_examples
from whence.runs import check_shared, training_loss

INPUTS = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
CLASSES = torch.tensor([0, 2, 1, 1, 0, 2])
VALUES = torch.randn(6, 3, generator=torch.Generator().manual_seed(2))
SEQUENCES = torch.tensor([[0, 1], [2, -100], [1, 1], [-100, 0], [0, 2], [2, 2]])


def linear() -> nn.Module:
    torch.manual_seed(4)
    return nn.Linear(4, 3)


def narrow() -> nn.Module:
    return nn.Linear(4, 1)


def sequential() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (3, 2)))


def each(outputs: Tensor, labels: Tensor) -> Tensor:
    return ((outputs - labels) ** 2).sum(1)


def one_mean(outputs: Tensor, labels: Tensor) -> Tensor:
    return ((outputs - labels) ** 2).sum(1).mean()


def one_sum(outputs: Tensor, labels: Tensor) -> Tensor:
    return ((outputs - labels) ** 2).sum()


def contrast(outputs: Tensor, labels: Tensor) -> Tensor:
    return torch.logsumexp(outputs @ labels.T, 1).mean()


def spread(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs - labels).std(0)


def paired(outputs: Tensor, _labels: Tensor) -> Tensor:
    return F.cross_entropy(outputs @ outputs.T, torch.arange(len(outputs)), reduction="none")


def paired_mean(outputs: Tensor, _labels: Tensor, reduction: str = "mean") -> Tensor:
    return F.cross_entropy(outputs @ outputs.T, torch.arange(len(outputs)), reduction=reduction)


def at_least(count: int, loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a loss that refuses fewer rows."""

    def wanting(outputs: Tensor, labels: Tensor) -> Tensor:
        if len(outputs) < count:
            raise ValueError(f"needs {count} rows")
        return loss(outputs, labels)

    return wanting


def centred(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs - labels - (outputs - labels).mean(0)).square().sum(1)


def of_four(outputs: Tensor, labels: Tensor) -> Tensor:
    return each(outputs.view(4, 3), labels)


def shared(outputs: Tensor, labels: Tensor) -> Tensor:
    return each(outputs, labels) / len(outputs)


def squeezed(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(outputs.squeeze(), labels, reduction="none")


WEIGHT = torch.tensor([1.0, 5.0, 0.2])
SQUARES = ((linear()(INPUTS) - VALUES) ** 2).detach()
CROSS = F.cross_entropy(linear()(INPUTS), CLASSES, reduction="none").detach()
LOSSES: dict[str, tuple[Any, Callable[[], nn.Module], Tensor, Tensor, Tensor]] = {
    # loss, model, labels, the loss of the batch, one loss per example
    "function": (F.cross_entropy, linear, CLASSES, CROSS.mean(), CROSS),
    "module": (nn.CrossEntropyLoss(), linear, CLASSES, CROSS.mean(), CROSS),
    "module that sums": (nn.CrossEntropyLoss(reduction="sum"), linear, CLASSES, CROSS.sum(), CROSS),
    "module of each": (nn.CrossEntropyLoss(reduction="none"), linear, CLASSES, CROSS.mean(), CROSS),
    "partial that sums": (partial(F.cross_entropy, reduction="sum"), linear, CLASSES, CROSS.sum(), CROSS),
    "class weights": (
        nn.CrossEntropyLoss(weight=WEIGHT),
        linear,
        CLASSES,
        (CROSS * WEIGHT[CLASSES]).sum() / WEIGHT[CLASSES].sum(),
        CROSS * WEIGHT[CLASSES],
    ),
    "several values": (nn.MSELoss(), linear, VALUES, SQUARES.mean(), SQUARES.sum(1)),
    "callable of each": (each, linear, VALUES, SQUARES.sum(1).mean(), SQUARES.sum(1)),
    "callable that wants several": (squeezed, linear, CLASSES, CROSS.mean(), CROSS),
    "callable that wants two": (at_least(2, each), linear, VALUES, SQUARES.sum(1).mean(), SQUARES.sum(1)),
    "callable that wants four": (at_least(4, each), linear, VALUES, SQUARES.sum(1).mean(), SQUARES.sum(1)),
    "callable mean": (one_mean, linear, VALUES, SQUARES.sum(1).mean(), SQUARES.sum(1)),
    "callable sum": (one_sum, linear, VALUES, SQUARES.sum(), SQUARES.sum(1)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_both_forms_of_a_loss(name: str) -> None:
    loss, make, labels, whole, singles = LOSSES[name]
    model = make()
    found = training_loss(loss, model, as_examples((INPUTS, labels)))
    outputs = model(INPUTS)
    torch.testing.assert_close(found(outputs, labels), whole)
    torch.testing.assert_close(found.per_example(outputs, labels), singles)


def test_the_loss_of_an_example_with_positions_is_their_sum_without_the_ignored() -> None:
    model = sequential()
    found = training_loss(nn.CrossEntropyLoss(label_smoothing=0.1), model, as_examples((INPUTS, SEQUENCES)))
    outputs = model(INPUTS)
    kept = [
        [
            F.cross_entropy(outputs[i, :, place], SEQUENCES[i, place], label_smoothing=0.1)
            for place in range(2)
            if SEQUENCES[i, place] >= 0
        ]
        for i in range(6)
    ]
    singles = torch.stack([torch.stack(losses).sum() for losses in kept])
    torch.testing.assert_close(found.per_example(outputs, SEQUENCES), singles)
    torch.testing.assert_close(found(outputs, SEQUENCES), singles.sum() / sum(map(len, kept)))


REFUSED: dict[str, tuple[Any, Any, str]] = {
    "contrastive": (contrast, VALUES, r"The loss contrast is neither a mean nor a sum over examples: .*4 examples"),
    "pairs, of each": (paired, VALUES, r"The loss paired mixes the examples of a batch: .* one by one"),
    "pairs, reduced": (paired_mean, VALUES, r"The loss paired_mean mixes the examples of a batch"),
    "pairs, at least two": (at_least(2, paired), VALUES, r"The loss .*wanting mixes .* each in place of the others"),
    "pairs, at least four": (at_least(4, paired), VALUES, r"The loss .*wanting mixes .* each in place of the others"),
    "centred, at least two": (at_least(2, centred), VALUES, r"The loss .*wanting mixes .* each in place of the others"),
    "divided by their number, at least two": (
        at_least(2, shared),
        VALUES,
        r"The loss .*wanting mixes .* the others, 8 times",
    ),
    "of four only": (
        of_four,
        VALUES,
        r"The loss of_four .* 4 examples, but neither on one of them nor on 8 rows",
    ),
    "mean of at least two": (
        at_least(2, one_mean),
        VALUES,
        r"The loss .*wanting gives one number for a batch, and none for a single example: needs 2 rows. .*per example",
    ),
    "spread out": (
        F.mse_loss,
        VALUES[:, 0],
        r"mse_loss compares .*outputs of shape \(4, 1\) and labels of shape \(4,\) are spread out to \(4, 4\)",
    ),
    "wrong shape": (spread, VALUES, r"The loss spread gives values of shape \(3,\) for 4 examples"),
    "wrong labels": (F.cross_entropy, VALUES[:, :2], r"The loss cross_entropy cannot be called as loss\("),
    "three arguments": (nn.TripletMarginLoss(), VALUES, r"TripletMarginLoss.* cannot be called as"),
    "no callable": ("mse", VALUES, r"loss must be a callable .*; got 'mse'"),
}


def weighted(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(outputs, labels, WEIGHT.to(outputs))


@pytest.mark.parametrize(
    "labels",
    [
        torch.arange(3).repeat_interleave(30),
        torch.zeros(90, dtype=torch.int64).index_fill(0, torch.tensor([5, 31]), 2),
    ],
)
def test_a_weighted_mean_is_refused_though_the_first_examples_weigh_the_same(labels: Tensor) -> None:
    data = as_examples((torch.randn(90, 4, generator=torch.Generator().manual_seed(1)), labels))
    with pytest.raises(errors.UnsupportedLossError, match=r"weighted is neither a mean nor a sum .* weight="):
        training_loss(weighted, linear(), data)


def crossed(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(outputs, labels)


def parts_of(loss: Any, dtype: torch.dtype, labels: Tensor, scale: float = 1.0) -> tuple[Any, Tensor, Tensor, Tensor]:
    """Return a loss that was tried on examples of one label, with what it gives for others."""
    alike = as_examples((INPUTS, torch.zeros(6, dtype=torch.int64)))
    found = training_loss(loss, linear(), alike)
    outputs = scale * torch.randn(len(labels), 3, generator=torch.Generator().manual_seed(1))
    outputs = outputs.to(dtype).requires_grad_()
    return found, found(outputs, labels), found.per_example(outputs, labels), outputs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_batch_on_which_a_loss_turns_out_to_weigh_is_refused(dtype: torch.dtype) -> None:
    found = parts_of(weighted, dtype, CLASSES)
    with pytest.raises(
        errors.UnsupportedLossError, match=r"weighted is neither .* on a batch of 6 its gradient.*weight="
    ):
        check_shared(*found)


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0, 1e3])  # the last ones have losses that are rounding, and exactly 0
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_batch_of_a_mean_is_no_weighted_one(dtype: torch.dtype, scale: float) -> None:
    labels = torch.arange(3).repeat(40)
    check_shared(*parts_of(crossed, dtype, labels, scale))
    right = parts_of(F.cross_entropy, dtype, labels, scale)[3].detach().argmax(1)
    check_shared(*parts_of(crossed, dtype, right, scale))


@pytest.mark.filterwarnings("ignore:Using a target size")  # torch's own words on what is refused
@pytest.mark.parametrize("name", REFUSED)
def test_a_loss_that_cannot_be_shared_out_is_refused_by_name(name: str) -> None:
    loss, labels, words = REFUSED[name]
    with pytest.raises(errors.UnsupportedLossError, match=words):
        training_loss(loss, narrow() if name == "spread out" else linear(), as_examples((INPUTS, labels)))


def test_a_model_that_does_not_fit_the_data_is_told_so() -> None:
    with pytest.raises(errors.RecordingError, match=r"Sequential cannot be called with the inputs.*into the dataset"):
        training_loss(F.cross_entropy, plain_model(), as_examples((INPUTS, CLASSES)))


class TakesOneDict(nn.Module):
    """Takes its inputs as one dict."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 4)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Look into the dict."""
        found: Tensor = self.inner(batch["values"])
        return found


def test_a_model_that_takes_a_dict_as_one_argument_is_told_how_it_was_called() -> None:
    rows = [({"values": INPUTS[i], "weights": INPUTS[i]}, int(CLASSES[i])) for i in range(4)]
    words = (
        r"entries are given by name: model\(values=\.\.\., weights=\.\.\.\)\): .*unexpected keyword argument 'values'"
    )
    with pytest.raises(errors.RecordingError, match=words):
        training_loss(F.cross_entropy, TakesOneDict(), as_examples(rows))


class Counting(nn.Module):
    """Counts its calls in a buffer, in evaluation mode too, and draws."""

    calls: Tensor
    last: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("last", torch.zeros(1, 5))
        self.inner = noisy_model()

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        self.last = inputs[:1].detach()
        outputs: Tensor = self.inner(inputs)
        return outputs + torch.rand(1)


def test_trying_a_loss_leaves_modes_buffers_and_random_state_as_they_were() -> None:
    model = Counting()
    model.inner[1].eval()  # type: ignore[index]
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    training_loss(F.cross_entropy, model, as_examples((torch.ones(6, 5), CLASSES)))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
