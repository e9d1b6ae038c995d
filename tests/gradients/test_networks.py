"""Whole networks, and the ways in which layers are used in them."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.gradients.reference import assert_agree, backward, captured, one_by_one, tolerance
from whence.gradients import Dense, Outer, Sum, capture


def classify(x: Tensor, y: Tensor) -> Any:
    return lambda model, rows: F.cross_entropy(model(x[rows]), y[rows], reduction="sum")


class Norms(nn.Module):
    """A small CNN with batch normalisation and ReLUs that write in place."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 3), nn.ReLU(inplace=True), nn.GroupNorm(2, 6), nn.ReLU(inplace=True), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Linear(24, 8), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        out = self.head(self.features(x))
        assert isinstance(out, Tensor)
        return out


def test_cnn_with_batch_norm_in_evaluation() -> None:
    model = Norms().double().eval()
    x, y = torch.randn(5, 1, 8, 8, dtype=torch.double), torch.arange(5) % 3
    assert_agree(captured(model, classify(x, y)), one_by_one(model, classify(x, y), 5))


def test_batch_norm_in_evaluation_inside_a_model_in_training() -> None:
    model = Norms().double().train()
    model.features[1].eval()
    model.head[2].eval()
    x, y = torch.randn(5, 1, 8, 8, dtype=torch.double), torch.arange(5) % 3
    assert_agree(captured(model, classify(x, y)), one_by_one(model, classify(x, y), 5))


def test_cnn_in_training_shares_out_exactly_the_batch_gradient() -> None:
    model = Norms().double().train()
    x, y = torch.randn(6, 1, 8, 8, dtype=torch.double), torch.arange(6) % 3
    found = captured(model, classify(x, y))
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        total = found[name].part(0, parameter.shape[0]).sum(0).view_as(parameter)
        torch.testing.assert_close(total, parameter.grad, rtol=0, atol=tolerance(torch.double, 512))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
def test_transformer_layer(training: bool, batch_first: bool, norm_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=batch_first, norm_first=norm_first)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).double().train(training)
    x = torch.randn(4, 4, 4, dtype=torch.double)  # as many positions as examples, so that axes could be confused

    def loss(model: nn.Module, rows: slice) -> Any:
        out = model(x[rows]) if batch_first else model(x[rows].movedim(0, 1)).movedim(1, 0)
        return (out * torch.arange(1.0, 5.0)).sin().sum()

    assert_agree(captured(model, loss), one_by_one(model, loss, 4), terms=512)


def test_transformer_layer_in_training_with_dropout_shares_out_the_batch_gradient() -> None:
    model = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.3, batch_first=True).double()
    x = torch.randn(5, 3, 4, dtype=torch.double)
    found = captured(model, lambda model, rows: model(x[rows]).square().sin().sum())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        total = found[name].part(0, parameter.shape[0]).sum(0).view_as(parameter)
        torch.testing.assert_close(total, parameter.grad, rtol=0, atol=tolerance(torch.double, 512))


class Tied(nn.Module):
    """A language model whose output layer is its embedding, with positions looked up once for all."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 4)
        self.places = nn.Embedding(5, 4)
        self.out = nn.Linear(4, 7, bias=False)
        self.out.weight = self.words.weight

    def forward(self, words: Tensor) -> Tensor:
        places = self.places(torch.arange(words.shape[1]).unsqueeze(0))
        out = self.out((self.words(words) + places).tanh())
        assert isinstance(out, Tensor)
        return out


def test_a_tied_embedding_adds_both_uses_under_one_name() -> None:
    model = Tied().double()
    words = torch.randint(0, 7, (4, 5))

    def loss(model: nn.Module, rows: slice) -> Any:
        return F.cross_entropy(model(words[rows]).transpose(1, 2), (words[rows] + 1) % 7, reduction="sum")

    found = captured(model, loss)
    assert isinstance(found["words.weight"], Sum)
    assert_agree(found, one_by_one(model, loss, 4))
    by_its_other_name = captured(model, loss, ["out.weight"])
    torch.testing.assert_close(by_its_other_name["out.weight"].part(0, 7), found["words.weight"].part(0, 7))


def test_a_layer_called_several_times_adds_up() -> None:
    class Repeated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.step = nn.Linear(3, 3)
            self.norm = nn.LayerNorm(3)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(3):
                x = self.norm(self.step(x)).tanh()
            return x.sum(1)

    model = Repeated().double()
    x = torch.randn(4, 2, 3, dtype=torch.double)
    found = captured(model, lambda model, rows: model(x[rows]).sin().sum())
    assert isinstance(found["step.weight"], Outer)
    assert isinstance(found["norm.weight"], Dense)
    assert_agree(found, one_by_one(model, lambda model, rows: model(x[rows]).sin().sum(), 4))


def test_frozen_unused_and_unasked_parameters_are_absent() -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused, self.frozen = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
            self.detached = nn.Linear(2, 2)
            self.frozen.requires_grad_(False)
            self.used.bias.requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.detached(x)
            out = self.frozen(self.used(x)) + self.unused(x).detach()
            assert isinstance(out, Tensor)
            return out

    model = Partly()
    found = captured(model, lambda model, rows: model(torch.randn(3, 2)[rows]).sum())
    assert set(found) == {"used.weight"}
    assert captured(model, lambda model, rows: model(torch.randn(3, 2)[rows]).sum(), []) == {}


def test_in_place_operations_around_a_layer() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.one(x).relu_()  # writes over the first layer's output
            out = self.two(out)
            out += 1.0
            out.mul_(2.0)
            return out.tanh()

    model = InPlace().double()
    x = torch.randn(4, 3, dtype=torch.double)
    loss = classify(x, torch.tensor([0, 1, 2, 0]))
    assert_agree(captured(model, loss), one_by_one(model, loss, 4))


@pytest.mark.parametrize("examples", [0, 1])
def test_the_smallest_batches(examples: int) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2).eval(), nn.PReLU(), nn.Flatten(), nn.Linear(32, 4),
        nn.LayerNorm(4), nn.Unflatten(1, (2, 2)), nn.TransformerEncoderLayer(2, 1, 4, 0.0, batch_first=True),
    ).double()  # fmt: skip
    x = torch.randn(examples, 1, 4, 4, dtype=torch.double)
    found = captured(model, lambda model, rows: model(x[rows]).square().sum())
    for name, parameter in model.named_parameters():
        assert found[name].part(0, parameter.shape[0]).shape == (examples, parameter.numel())
    if examples:
        assert_agree(found, one_by_one(model, lambda model, rows: model(x[rows]).square().sum(), examples))


def test_non_contiguous_inputs() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 2)).double()
    x = torch.randn(4, 4, 2, 5, dtype=torch.double).permute(3, 2, 0, 1)
    e = torch.randn(2, 5, dtype=torch.double).T
    assert not x.is_contiguous()
    assert not e.is_contiguous()
    loss = lambda model, rows: (model(x[rows]) * e[rows]).sum()  # noqa: E731
    assert_agree(captured(model, loss), one_by_one(model, loss, 5))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_single_precision(memory_format: torch.memory_format) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    x = torch.randn(5, 2, 4, 4).to(memory_format=memory_format)
    loss = classify(x, torch.tensor([0, 1, 1, 0, 1]))
    assert_agree(captured(model, loss), one_by_one(model, loss, 5), terms=64)


def test_under_autocast_gradients_come_in_the_parameters_type() -> None:
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.PReLU(), nn.Flatten(), nn.Linear(12, 4), nn.LayerNorm(4))
    x, y = torch.randn(8, 2, 6), torch.arange(8) % 4
    exact = one_by_one(model, classify(x, y), 8)
    with torch.autocast("cpu", torch.bfloat16), capture(model, list(exact)) as seen:
        loss = F.cross_entropy(model(x), y, reduction="sum")
        backward(loss)
    for name, gradient in seen.gradients().items():
        part = gradient.part(0, gradient.shape[0])
        assert part.dtype == torch.float32
        error = (part - exact[name].flatten(1)).norm() / exact[name].norm()
        assert error < 16 * torch.finfo(torch.bfloat16).eps, name


def test_two_backward_passes_in_one_block_add_up() -> None:
    model = nn.Linear(3, 2).double()
    x = torch.randn(4, 3, dtype=torch.double)
    with capture(model, ["weight", "bias"]) as seen:
        out = model(x)
        backward(out.sin().sum(), retain_graph=True)
        backward(out.cos().sum())
    expected = one_by_one(model, lambda model, rows: (model(x[rows]).sin() + model(x[rows]).cos()).sum(), 4)
    assert_agree(seen.gradients(), expected)


def test_a_mean_divides_each_examples_gradient_by_the_batch_size() -> None:
    model = nn.Linear(3, 2).double()
    x, y = torch.randn(4, 3, dtype=torch.double), torch.tensor([0, 1, 1, 0])
    found = captured(model, lambda model, rows: F.cross_entropy(model(x[rows]), y[rows]))
    expected = one_by_one(model, classify(x, y), 4)
    assert_agree(found, {name: gradient / 4 for name, gradient in expected.items()})


def test_keyword_arguments_and_dict_inputs() -> None:
    class Keyed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.out = nn.Embedding(5, 3), nn.Linear(3, 2)

        def forward(self, *, words: Tensor, mask: Tensor) -> Tensor:
            out = self.out(input=self.words(input=words) * mask[..., None]).sum(1)
            assert isinstance(out, Tensor)
            return out

    model = Keyed().double()
    words, mask = torch.randint(0, 5, (4, 3)), torch.rand(4, 3).double()

    def loss(model: nn.Module, rows: slice) -> Any:
        out = model(words=words[rows], mask=mask[rows])
        assert isinstance(out, Tensor)
        return out.sin().sum()

    assert_agree(captured(model, loss), one_by_one(model, loss, 4))


class Doubled(nn.Linear):
    """A linear layer that computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_a_subclass_that_computes_something_else_does_not_take_the_rule() -> None:
    model = nn.Sequential(Doubled(3, 2)).double()
    loss = classify(torch.randn(4, 3, dtype=torch.double), torch.tensor([0, 1, 1, 0]))
    assert_agree(captured(model, loss), one_by_one(model, loss, 4))


@pytest.mark.filterwarnings("ignore:.*weight_norm")  # torch deprecates it; trained models still have it
def test_weights_computed_from_other_parameters_before_the_call() -> None:
    model = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 2))).double()
    loss = classify(torch.randn(4, 3, dtype=torch.double), torch.tensor([0, 1, 1, 0]))
    found = captured(model, loss)
    assert set(found) == {"0.bias", "0.weight_g", "0.weight_v"}
    assert_agree(found, one_by_one(model, loss, 4))


def test_a_hook_of_the_users_that_replaces_a_layers_output() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.PReLU()).double()
    model[0].register_forward_hook(lambda _layer, _args, out: out.sin())
    loss = classify(torch.randn(4, 3, dtype=torch.double), torch.tensor([0, 1, 2, 0]))
    assert_agree(captured(model, loss), one_by_one(model, loss, 4))


def test_hooks_are_gone_after_the_block_and_no_graph_is_kept() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    with capture(model, ["0.weight", "1.bias"]) as seen:
        backward(model(torch.ones(3, 2)).sum())
    assert hooks(model) == 0
    for gradient in seen.gradients().values():
        assert not gradient.part(0, 1).requires_grad
    with pytest.raises(ZeroDivisionError), capture(model, ["0.weight"]):
        raise ZeroDivisionError
    assert hooks(model) == 0


def hooks(model: nn.Module) -> int:
    """Hooks on modules and parameters."""
    on_modules = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    return on_modules + sum(len(p._backward_hooks or {}) for p in model.parameters())
