"""Parts, scalar products and types of per-example gradients are those of the written-out tensor."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.gradients.reference import assert_agree
from whence._errors import ShapeError
from whence.gradients import Dense, Outer, PerExample, Scatter, Sum

SHAPE = (4, 2, 3)


def made(kind: str, examples: int, positions: int) -> tuple[PerExample, Tensor]:
    """Gradients in one form, and written out entry by entry."""
    dense = torch.randn(examples, *SHAPE, dtype=torch.double)
    e, a = torch.randn(examples, positions, 4).double(), torch.randn(examples, positions, 6).double()
    indices = torch.randint(0, 4, (examples, positions))
    outer, table = torch.zeros_like(dense), torch.zeros_like(dense)
    for i in range(examples):
        for at in range(positions):
            outer[i] += torch.outer(e[i, at], a[i, at]).view(SHAPE)
            table[i, indices[i, at]] += a[i, at].view(SHAPE[1:])
    shape = torch.Size(SHAPE)
    forms: dict[str, tuple[PerExample, Tensor]] = {
        "Dense": (Dense(dense), dense),
        "Outer": (Outer(e, a, shape), outer),
        "Scatter": (Scatter(indices, a, shape), table),
    }
    forms["Sum"] = (Sum(tuple(form for form, _ in forms.values())), dense + outer + table)
    return forms[kind]


@pytest.mark.parametrize("kind", ["Dense", "Outer", "Scatter", "Sum"])
@settings(max_examples=10, deadline=None, derandomize=True, database=None)
@given(examples=st.integers(0, 4), positions=st.integers(1, 5), seed=st.integers(0, 2**16))
def test_every_form_equals_the_tensor_it_stands_for(kind: str, examples: int, positions: int, seed: int) -> None:
    torch.manual_seed(seed)
    gradient, tensor = made(kind, examples, positions)
    assert_agree({"p": gradient}, {"p": tensor})
    assert gradient.part(2, 2).shape == (examples, 0)
    single = gradient.to(torch.float32)
    assert single.part(0, 4).dtype == torch.float32
    torch.testing.assert_close(single.part(0, 4).double(), tensor.flatten(1), rtol=1e-5, atol=1e-5)
    assert single.dot(torch.ones(SHAPE, dtype=torch.double)).dtype == torch.float32


@pytest.mark.parametrize("kind", ["Dense", "Outer", "Scatter", "Sum"])
def test_a_direction_of_another_shape_names_both_shapes(kind: str) -> None:
    gradient, _ = made(kind, 2, 3)
    with pytest.raises(
        ShapeError, match=r"must have the parameter's shape \(4, 2, 3\); got \(4, 6\)\. Give one tensor"
    ):
        gradient.dot(torch.ones(4, 6))
