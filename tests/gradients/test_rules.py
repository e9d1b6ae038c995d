"""Every rule gives what autograd gives, run example by example in float64."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.compiled.switch import without_kernels
from tests.compiled.test_walking import needs_compiler
from tests.gradients.reference import assert_agree, captured, one_by_one
from whence import compiled
from whence.gradients import Dense, Outer, PerExample, Scatter
from whence.gradients.convolution import at_once, by_kernel, padded, suits_kernel, written

few = settings(max_examples=8, deadline=None, derandomize=True, database=None)
batches = st.integers(1, 5)
seeds = st.integers(0, 2**16)


def check(layer: nn.Module, inputs: Tensor, *more: Any, axis: int = 0) -> dict[str, PerExample]:
    """Compare on a loss that weighs every output entry differently."""
    layer = layer.double()
    if inputs.is_floating_point():
        inputs = inputs.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
        coefficients = torch.randn_like(first(layer(inputs, *more)))

    def loss(model: nn.Module, rows: slice) -> Any:
        at = (slice(None),) * axis + (rows,)
        return (first(model(inputs[at], *more)) * coefficients[at]).sum()

    found = captured(layer, loss)
    assert_agree(found, one_by_one(layer, loss, inputs.shape[axis]), terms=max(64, coefficients.numel()))
    return found


def first(output: Any) -> Tensor:
    tensor = output[0] if isinstance(output, tuple) else output
    assert isinstance(tensor, Tensor)
    return tensor


@few
@given(batches, st.lists(st.integers(1, 4), max_size=2), st.booleans(), seeds)
def test_linear_with_any_leading_axes(examples: int, middle: list[int], bias: bool, seed: int) -> None:
    torch.manual_seed(seed)
    found = check(nn.Linear(3, 4, bias=bias), torch.randn(examples, *middle, 3))
    assert isinstance(found["weight"], Outer)


CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch's, about its own speed
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.data(), st.integers(1, 3), seeds)
def test_convolutions_with_groups_strides_dilations_and_paddings(data: st.DataObject, dims: int, seed: int) -> None:
    torch.manual_seed(seed)
    each = st.tuples(*[st.integers(1, 3)] * dims)
    kernel, stride, dilation = (data.draw(each) for _ in range(3))
    mode = data.draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    padding: Any = data.draw(st.sampled_from(["same", "valid", "numbers"]))
    if padding == "numbers":
        padding = data.draw(st.tuples(*[st.integers(0, 2)] * dims))
    if padding == "same":
        stride = (1,) * dims
    groups = data.draw(st.integers(1, 2))
    layer = CONVOLUTIONS[dims](
        2 * groups,
        data.draw(st.sampled_from([3, 5])) * groups,
        kernel,
        stride,
        padding,
        dilation,
        groups,
        bias=data.draw(st.booleans()),
        padding_mode=mode,
    )
    inputs = torch.randn(data.draw(batches), 2 * groups, *data.draw(st.tuples(*[st.integers(7, 9)] * dims)))
    with nullcontext() if data.draw(st.booleans()) else without_kernels():
        check(layer, inputs)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_one_product_with_all_patches_as_on_a_gpu_is_the_sum_of_a_product_an_offset(dims: int) -> None:
    for stride, dilation, padding in ((1, 1, 0), (2, 1, 1), (1, 2, 2)):
        layer = CONVOLUTIONS[dims](3, 4, 3, stride, padding, dilation).double()
        inputs = torch.randn(5, 3, *[8, 7, 9][:dims], dtype=torch.float64)
        gradients = torch.randn_like(layer(inputs))
        parts, whole = (form(layer, padded(layer, inputs), gradients).values for form in (written, at_once))
        torch.testing.assert_close(whole, parts, rtol=1e-12, atol=1e-12)


@needs_compiler
@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_compiled_kernel_is_taken_where_it_suits_and_gives_the_sum_of_a_product_an_offset(
    dims: int, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = CONVOLUTIONS[dims](4, 10, 3, 2, 1, dilation=2, groups=groups).double()
    inputs = torch.randn(5, 4, *[18, 17][:dims], dtype=torch.float64)
    gradients = torch.randn_like(layer(inputs))
    parts, whole = (form(layer, padded(layer, inputs), gradients).values for form in (written, by_kernel))
    torch.testing.assert_close(whole, parts, rtol=1e-12, atol=1e-12)
    kernel = Mock(wraps=compiled.convolution)
    monkeypatch.setattr(compiled, "convolution", kernel)
    check(layer, inputs)
    kernel.assert_called()


@pytest.mark.parametrize(
    ("layer", "examples"),
    [
        (nn.Conv2d(4, 8, 1), 9),  # one tap
        (nn.Conv2d(8, 8, 3, groups=8), 9),  # few rows a group
        (nn.Conv1d(1, 8, 3), 9),  # few columns
        (nn.Conv2d(4, 8, 3), 2),  # fewer examples than threads
    ],
    ids=str,
)
def test_where_products_are_faster_the_compiled_kernel_is_not_taken(
    layer: nn.Conv2d, examples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert suits_kernel(nn.Conv2d(4, 8, 3), 9)
    assert not suits_kernel(layer, examples)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convolutions_with_few_positions_stay_factored(dims: int) -> None:
    layer = CONVOLUTIONS[dims](16, 24, 3, stride=2, dilation=2)
    found = check(layer, torch.randn(3, 16, *[7] * dims))
    assert isinstance(found["weight"], Outer if dims < 3 else Dense | Outer)


@few
@given(batches, st.sampled_from([(), (3,), (2, 2)]), st.sampled_from([None, 0, -1]), seeds)
def test_embeddings_build_only_the_rows_asked_for(
    examples: int, middle: tuple[int, ...], padding: int | None, seed: int
) -> None:
    torch.manual_seed(seed)
    indices = torch.randint(0, 5, (examples, *middle))
    if not middle and examples > 1:
        indices[0] = 4  # not 0, 1, 2, ..., which would be refused
    found = check(nn.Embedding(5, 3, padding_idx=padding), indices)
    assert isinstance(found["weight"], Scatter)
    assert found["weight"].part(1, 3).shape == (examples, 6)


def test_embeddings_scaled_by_frequency_add_up_to_the_batch_gradient() -> None:
    layer = nn.Embedding(4, 2, scale_grad_by_freq=True).double()
    indices = torch.tensor([[0, 1, 1], [1, 3, 0]])
    coefficients = torch.randn(2, 3, 2, dtype=torch.double)
    found = captured(layer, lambda model, rows: (model(indices[rows]) * coefficients[rows]).sum())
    assert layer.weight.grad is not None
    torch.testing.assert_close(found["weight"].part(0, 4).sum(0), layer.weight.grad.flatten())


def test_sparse_embeddings_give_the_same() -> None:
    check(nn.Embedding(4, 2, sparse=True), torch.tensor([[0, 1, 1], [1, 3, 0]]))


NORMALIZATIONS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "LayerNorm": (lambda: nn.LayerNorm(4), (4,)),
    "LayerNorm over two axes": (lambda: nn.LayerNorm((3, 4)), (2, 3, 4)),
    "LayerNorm without bias": (lambda: nn.LayerNorm(4, bias=False), (5, 4)),
    "RMSNorm": (lambda: nn.RMSNorm(4), (4,)),
    "RMSNorm with an epsilon": (lambda: nn.RMSNorm((3, 4), eps=0.1), (2, 3, 4)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), (4, 3)),
    "GroupNorm without space": (lambda: nn.GroupNorm(2, 4), (4,)),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(2, affine=True), (2, 5)),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(2, affine=True), (2, 3, 3)),
    "InstanceNorm3d, running": (
        lambda: nn.InstanceNorm3d(2, affine=True, track_running_stats=True).eval(),
        (2, 2, 2, 2),
    ),
    "BatchNorm1d, eval": (lambda: seasoned(nn.BatchNorm1d(4)), (4,)),
    "BatchNorm1d over time, eval": (lambda: seasoned(nn.BatchNorm1d(4)), (4, 3)),
    "BatchNorm2d, eval": (lambda: seasoned(nn.BatchNorm2d(2)), (2, 3, 3)),
    "BatchNorm3d, eval": (lambda: seasoned(nn.BatchNorm3d(2)), (2, 2, 2, 2)),
}


def seasoned(layer: nn.Module) -> nn.Module:
    """Batch normalisation in evaluation mode with statistics of its own."""
    for buffer in layer.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2.0)
    return layer.eval()


@pytest.mark.parametrize("name", NORMALIZATIONS)
@settings(max_examples=3, deadline=None, derandomize=True, database=None)
@given(examples=batches, seed=seeds)
def test_normalizations(name: str, examples: int, seed: int) -> None:
    torch.manual_seed(seed)
    make, shape = NORMALIZATIONS[name]
    check(make(), torch.randn(examples, *shape))


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 5), (6, 3, 2, 2)])
@pytest.mark.parametrize("tracked", [True, False])
def test_batch_norm_in_training_shares_the_batch_gradient_by_position(shape: tuple[int, ...], tracked: bool) -> None:
    kinds: dict[int, Any] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}
    layer = kinds[len(shape)](3, track_running_stats=tracked).double()
    layer.train(tracked)  # without running statistics evaluation uses the batch's too
    x = torch.randn(shape, dtype=torch.double)
    e = torch.randn(shape, dtype=torch.double)
    found = captured(layer, lambda model, rows: (model(x[rows]) * e[rows]).sum())
    others = [0, *range(2, len(shape))]
    mean, variance = x.mean(others, keepdim=True), x.var(others, keepdim=True, correction=0)
    normal = (x - mean) / (variance + layer.eps).sqrt()
    for name, want in {"weight": e * normal, "bias": e}.items():
        got = found[name].part(0, 3)
        torch.testing.assert_close(got, want.reshape(*shape[:2], -1).sum(2), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(got.sum(0), getattr(layer, name).grad, rtol=1e-12, atol=1e-12)


class Scaled(nn.Module):
    """A module of the user's own, with a parameter without dimensions and a position table."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.places = nn.Parameter(torch.zeros(1, 6, 4))
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        longer = torch.cat([self.scale * x[:, :1], x], 1)
        return first(self.inner(longer + self.places[:, : longer.shape[1]]))


class Branching(nn.Module):
    """A module that looks at values, which vmap refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([row * self.weight if row.sum().item() > 0 else row - self.weight for row in x])


FALLBACKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "own module": (Scaled, (5, 4)),
    "branching": (Branching, (3,)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(2, 3, 3, stride=2), (2, 4, 4)),
    "PReLU": (lambda: nn.PReLU(3), (3, 2)),
    "LSTM": (lambda: nn.LSTM(3, 4, batch_first=True), (5, 3)),
    "GRU, two layers, both ways": (lambda: nn.GRU(3, 2, num_layers=2, bidirectional=True, batch_first=True), (4, 3)),
    "RNN": (lambda: nn.RNN(3, 4, batch_first=True), (5, 3)),
    "LSTMCell": (lambda: nn.LSTMCell(3, 4), (3,)),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), (3,)),
    "spectral norm": (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4)).eval(), (2, 3)),
}


@pytest.mark.parametrize("name", FALLBACKS)
@pytest.mark.parametrize("examples", [1, 4])
def test_fallback(name: str, examples: int) -> None:
    make, shape = FALLBACKS[name]
    check(make(), torch.randn(examples, *shape))


def test_fallback_with_two_inputs() -> None:
    other = torch.randn(4, 2, dtype=torch.double)
    layer = nn.Bilinear(3, 2, 5).double()
    x = torch.randn(4, 3, dtype=torch.double)

    def loss(model: nn.Module, rows: slice) -> Any:
        return first(model(x[rows], other[rows])).sin().sum()

    assert_agree(captured(layer, loss), one_by_one(layer, loss, 4))


def test_an_lstm_in_float32_has_the_gradients_it_has_in_float64() -> None:
    layer, x = nn.LSTM(3, 4, batch_first=True), torch.randn(5, 6, 3)

    def loss(model: nn.Module, rows: slice) -> Any:
        return model(x[rows].to(next(model.parameters()).dtype))[0].square().sum()

    found = captured(layer, loss)
    expected = one_by_one(copy.deepcopy(layer).double(), loss, 5)
    assert_agree(found, {name: value.float() for name, value in expected.items()})


@pytest.mark.parametrize("used", ["sequence", "state", "both"])
@pytest.mark.parametrize("batch_first", [True, False])
def test_recurrent_layers_through_any_output(used: str, batch_first: bool) -> None:
    layer = nn.LSTM(3, 4, batch_first=batch_first).double()
    x = torch.randn(5, 5, 3, dtype=torch.double)
    state = (torch.randn(1, 5, 4, dtype=torch.double), torch.randn(1, 5, 4, dtype=torch.double))

    def loss(model: nn.Module, rows: slice) -> Any:
        now = x[rows] if batch_first else x[:, rows]
        out, (h, c) = model(now, tuple(s[:, rows] for s in state))
        terms = {"sequence": out.square().sum(), "state": (h * c).sum()}
        return terms["sequence"] + terms["state"] if used == "both" else terms[used]

    assert_agree(captured(layer, loss), one_by_one(layer, loss, 5))
