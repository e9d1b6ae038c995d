"""The slow, obvious reference: autograd, one example at a time."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from whence.gradients import PerExample, capture

Loss = Callable[[nn.Module, slice], Any]
"""The summed loss of the examples in a slice."""


def backward(loss: Tensor, **options: bool) -> None:
    """Call ``loss.backward()``, which torch does not annotate."""
    loss.backward(**options)


def one_by_one(model: nn.Module, loss: Loss, examples: int) -> dict[str, Tensor]:
    """Each example's gradient of every parameter, from a backward pass of its own."""
    found: dict[str, list[Tensor]] = {name: [] for name, _ in model.named_parameters()}
    for i in range(examples):
        model.zero_grad(set_to_none=True)
        backward(loss(model, slice(i, i + 1)))
        for name, parameter in model.named_parameters():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            found[name].append(gradient.to_dense().clone())
    model.zero_grad(set_to_none=True)
    return {name: torch.stack(rows) for name, rows in found.items()}


def captured(model: nn.Module, loss: Loss, names: list[str] | None = None) -> dict[str, PerExample]:
    """The same from one backward pass of the whole batch."""
    names = [name for name, _ in model.named_parameters()] if names is None else names
    with capture(model, names) as seen:
        backward(loss(model, slice(None)))
    return seen.gradients()


def tolerance(dtype: torch.dtype, terms: int) -> float:
    """Rounding of a sum of so many terms of size one, with room for a few operations each."""
    return 64 * torch.finfo(dtype).eps * terms


def assert_agree(found: dict[str, PerExample], expected: dict[str, Tensor], terms: int = 64) -> None:
    """Parts, scalar products and shapes are those of the reference."""
    assert set(found) == set(expected)
    for name, gradient in found.items():
        want = expected[name]
        allowed = tolerance(want.dtype, terms) * max(1.0, float(want.abs().max()) if want.numel() else 1.0)
        shape = want.shape[1:] or (1,)
        assert tuple(gradient.shape) == tuple(shape), name
        assert gradient.examples == len(want), name
        flat = want.reshape(len(want), shape[0], prod(shape[1:]))
        for start, stop in ((0, shape[0]), (shape[0] // 2, shape[0])):
            part = gradient.part(start, stop)
            torch.testing.assert_close(part, flat[:, start:stop].flatten(1), rtol=0, atol=allowed, msg=name)
            wide = torch.full((len(want), part.shape[1] + 3), float("nan"), dtype=want.dtype)
            gradient.part(start, stop, out=wide[:, 1 : 1 + part.shape[1]])
            torch.testing.assert_close(wide[:, 1:-2], part, rtol=0, atol=allowed, msg=name)
            assert bool(wide[:, [0, -2, -1]].isnan().all()), f"{name}: wrote outside of `out`"
        direction = torch.randn(want.shape[1:], dtype=want.dtype)
        dots = (flat.flatten(1) * direction.reshape(1, prod(shape))).sum(1)
        allowed *= max(1.0, direction.numel())
        torch.testing.assert_close(gradient.dot(direction), dots, rtol=0, atol=allowed, msg=name)
