"""Compiled gradients of a convolution's weight against autograd, example by example, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from tests.compiled.test_walking import DTYPES, needs_compiler
from whence._errors import ShapeError
from whence.compiled import convolution

pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@given(
    examples=st.integers(1, 3),
    rows=st.integers(1, 35),
    channels=st.integers(1, 3),
    positions=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    kernel=pairs,
    stride=pairs,
    dilation=pairs,
)
def test_convolution_is_the_gradient_of_each_examples_own_weight(
    dtype: torch.dtype,
    examples: int,
    rows: int,
    channels: int,
    positions: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
) -> None:
    sizes = [
        (position - 1) * step + (size - 1) * apart + 2  # one more than is seen
        for position, step, size, apart in zip(positions, stride, kernel, dilation, strict=True)
    ]
    a = torch.randn(examples, channels, *sizes, dtype=dtype)
    own = torch.zeros(examples, rows, channels, *kernel, dtype=torch.float64, requires_grad=True)
    outputs = torch.stack(
        [F.conv2d(x, weight, stride=stride, dilation=dilation) for x, weight in zip(a.double(), own, strict=True)]
    )
    e = torch.randn(outputs.shape, dtype=dtype)
    (expected,) = torch.autograd.grad((outputs * e.double()).sum(), own)
    sizes_of_terms = e.double().abs().flatten(2).sum(2).amax() * a.double().abs().amax()
    bound = e[0, 0].numel() * torch.finfo(dtype).eps * float(sizes_of_terms)
    torch.testing.assert_close(convolution(a, e, kernel, stride, dilation).double(), expected, rtol=0.0, atol=bound)


@needs_compiler
def test_sums_over_many_positions_err_as_few_roundings() -> None:
    a, e = torch.rand(1, 1, 300, 300), torch.rand(1, 4, 298, 298)
    found = convolution(a, e, (3, 3), (1, 1), (1, 1)).double()
    expected = torch.einsum("byxkl,bryx->brkl", a[0].double().unfold(1, 3, 1).unfold(2, 3, 1), e.double())[:, :, None]
    # no sum is of more than 256 positions, or of more such sums than there are lines
    bound = (256 + 298) * torch.finfo(torch.float32).eps / 2
    assert float(((found - expected) / expected).abs().max()) <= bound
    assert bound < 0.01 * 298 * 298 * torch.finfo(torch.float32).eps / 2, (
        "one sum over all could err by a hundred times"
    )


@needs_compiler
@pytest.mark.parametrize("shape", [(1, 1, 30, 30), (1, 4, 2, 1)])
def test_output_gradients_of_another_input_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"see inputs of as many examples and of at least .* Give the input as it is"):
        convolution(torch.zeros(1, 1, 3, 3), torch.zeros(shape), (3, 3), (1, 1), (1, 1))


@needs_compiler
@pytest.mark.parametrize("positions", [(0, 2), (2, 0)])
def test_a_sum_over_no_positions_is_zero(positions: tuple[int, int]) -> None:
    found = convolution(torch.ones(1, 1, 5, 5), torch.ones(1, 4, *positions), (3, 3), (1, 1), (1, 1))
    assert torch.equal(found, torch.zeros(1, 4, 1, 3, 3))
