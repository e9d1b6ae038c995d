"""Mode coefficients as a function of the inputs, for attacks and cures that follow its slope."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from whence._errors import GradientError
from whence.datasets import call_model
from whence.gradients import twice_differentiable
from whence.kernel.modes import Modes
from whence.kernel.slopes import LossPerExample, Slopes

_CHECKED = 2  # examples whose slopes are compared with those of plain autograd
_SAME = (
    30  # times the root of the type's precision: slopes that differ by no more, relative to their norm, are the same
)


def coefficients_of(
    modes: Modes,
    model: nn.Module,
    loss_per_example: LossPerExample,
    inputs: Any,
    labels: Any,
    *,
    chunk: int = 128,
) -> Float[Tensor, "examples modes"]:
    """Return mode coefficients as a tensor through which gradients flow back to the inputs.

    For an attack or a cure in input space (PLGK, algorithm 2). The examples' gradients are formed by ``torch.func``
    and stay in the graph: examples × parameters numbers. Where gradients are to flow, those of the first examples are
    compared with what plain autograd gives, as ``torch.func`` passes over parts of some functions in silence.

    Args:
        modes: The modes.
        model: The model whose modes they are, in evaluation mode.
        loss_per_example: (outputs, labels) -> one loss an example; a run's ``loss.per_example``.
        inputs: What the model is called with, first axis the example.
        labels: One an example.
        chunk: Examples whose gradients are formed at once.

    Raises:
        ArgumentError: If the model has not the parameters of the modes.
        GradientError: If the model cannot be differentiated example by example, or not twice.
    """
    modes.layout.check(model)
    found = _batched(modes, model, loss_per_example, inputs, labels, chunk)
    if found.requires_grad:
        _check(modes, model, loss_per_example, inputs, labels)
    return found


def _batched(
    modes: Modes, model: nn.Module, loss_per_example: LossPerExample, inputs: Any, labels: Any, chunk: int
) -> Float[Tensor, "examples modes"]:
    held = {name: one.detach() for name, one in model.named_parameters()}
    chosen = {name: held.pop(name) for name in modes.names}

    def loss_of(parameters: dict[str, Tensor], x: Any, y: Any) -> Tensor:
        x, y = pytree.tree_map(lambda leaf: leaf.unsqueeze(0), (x, y))
        outputs = call_model(lambda *args, **named: functional_call(model, held | parameters, args, named), x)
        return loss_per_example(outputs, y).sum()

    try:
        with twice_differentiable(model), _Composed():
            formed = vmap(grad(loss_of), (None, 0, 0), chunk_size=chunk)(chosen, inputs, labels)
    except (RuntimeError, NotImplementedError, ValueError, TypeError, IndexError) as error:
        raise GradientError(
            f"The gradients of {type(model).__name__} cannot be formed example by example: {error} Put the model into "
            "evaluation mode (model.eval()). Operations in place, branches on values and autograd functions without a "
            "batching rule are not supported here; they are by coefficients(), without gradients to the inputs."
        ) from error
    gradients = modes.layout.joined(formed)
    return gradients @ modes.directions.to(gradients).T


@final
class _Composed(TorchFunctionMode):
    """Computes some normalisations step by step.

    Under ``vmap``, torch takes mean and deviation of its own layer and instance normalisation for constants where
    their gradient is differentiated once more.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace the normalisations' functions and leave all others."""
        replacement = _COMPOSED.get(func)
        found = NotImplemented if replacement is None else replacement(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {})) if found is NotImplemented else found


def _layer_norm(
    input: Tensor,  # noqa: A002 - torch's name, which may be given by keyword
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_backend: Any,
    **_options: Any,
) -> Tensor:
    return _affine(_normalised(input, range(-len(normalized_shape), 0), eps), weight, bias)


def _instance_norm(
    input: Tensor,  # noqa: A002 - as above
    running_mean: Tensor | None = None,  # noqa: ARG001 - averages, which are not taken here
    running_var: Tensor | None = None,  # noqa: ARG001 - as above
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,  # noqa: ARG001 - as above
    eps: float = 1e-5,
) -> Any:
    if not use_input_stats:
        return NotImplemented
    shape = (-1, *[1] * (input.dim() - 2))
    scale, shift = (None if one is None else one.reshape(shape) for one in (weight, bias))
    return _affine(_normalised(input, range(2, input.dim()), eps), scale, shift)


def _normalised(values: Tensor, axes: range, eps: float) -> Tensor:
    centered = values - values.mean(tuple(axes), keepdim=True)
    return centered * (centered.square().mean(tuple(axes), keepdim=True) + eps).rsqrt()


def _affine(values: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    scaled = values if scale is None else values * scale
    return scaled if shift is None else scaled + shift


_COMPOSED: dict[Any, Callable[..., Any]] = {
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.instance_norm: _instance_norm,
}


def _check(modes: Modes, model: nn.Module, loss_per_example: LossPerExample, inputs: Any, labels: Any) -> None:
    """Compare the slopes of a few examples, along a mix of all modes, with those of plain autograd.

    Raises:
        GradientError: If they differ, or plain autograd cannot form them.
    """
    x, y = pytree.tree_map(lambda leaf: leaf[:_CHECKED].detach(), (inputs, labels))
    mix = torch.linspace(1, 2, len(modes), dtype=torch.float64)
    along = Slopes(modes.layout, model, loss_per_example, x, y)
    with torch.enable_grad():
        values = _batched(modes, model, loss_per_example, along.inputs, y, _CHECKED)
    ours = torch.autograd.grad(values @ mix.to(values), along.leaves, torch.ones_like(values[:, 0]))
    theirs = along.along(mix.to(values) @ modes.directions.to(values))
    size = max(float(one.norm()) for one in theirs)
    apart = max(float((one - other).norm()) for one, other in zip(ours, theirs, strict=True))
    if not apart <= _SAME * torch.finfo(values.dtype).eps ** 0.5 * size:
        raise GradientError(
            f"The slopes of mode coefficients of {type(model).__name__} come out otherwise by torch.func than by plain "
            f"autograd (apart by {apart:.2g}, of size {size:.2g}), so a part of the model is not differentiated twice "
            "there. Write that part of elementary operations."
        )
