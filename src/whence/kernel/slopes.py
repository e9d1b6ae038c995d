"""Slopes of mode coefficients in the space of inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from whence._errors import ArgumentError, GradientError
from whence.audit.quantities import evaluate
from whence.datasets import call_model
from whence.gradients import differentiable_once_only, twice_differentiable
from whence.kernel.layout import Layout

LossPerExample = Callable[[Any, Any], Tensor]
"""(outputs, labels) -> one loss an example."""


@final
class Slopes:
    """Gradients to the inputs of v · h_n, with h_n the gradient of example n's loss, for any direction v.

    As no example's loss depends on another's input, one pass back through the gradient of all losses together gives
    every example's slope.

    Args:
        layout: The parameters.
        model: The model, in evaluation mode.
        loss_per_example: The loss.
        inputs: First axis the example.
        labels: One an example.

    Raises:
        ArgumentError: If no input is a floating-point tensor.
        GradientError: If the model cannot be differentiated twice.
    """

    def __init__(
        self, layout: Layout, model: nn.Module, loss_per_example: LossPerExample, inputs: Any, labels: Any
    ) -> None:
        self.inputs = pytree.tree_map(_leaf, inputs)
        self.leaves = [one for one in pytree.tree_leaves(self.inputs) if one.requires_grad]
        if not self.leaves:
            raise ArgumentError(
                "No input of the model is a floating-point tensor, so coefficients have no slope in it. Let the model "
                "start from what it makes of its words or numbers, such as their embedding."
            )
        held = {name: one.detach() for name, one in model.named_parameters()}
        chosen = {name: held.pop(name).requires_grad_() for name in layout.names}
        count = len(pytree.tree_leaves(labels)[0])
        with torch.enable_grad(), twice_differentiable(model):
            outputs = call_model(lambda *args, **named: functional_call(model, held | chosen, args, named), self.inputs)
            losses = evaluate(loss_per_example, outputs, labels, count)
            found = torch.autograd.grad(losses.sum(), list(chosen.values()), create_graph=True, allow_unused=True)
        gradients: list[Tensor | None] = list(found)
        self._gradients = {name: one for name, one in zip(chosen, gradients, strict=True) if one is not None}
        self._layout = layout
        wrong = differentiable_once_only([one for one in self._gradients.values() if one.requires_grad])
        if wrong is not None:
            raise GradientError(
                f"The loss gradients of {type(model).__name__} cannot be differentiated once more: {wrong} Write that "
                "part of the model without it."
            )

    def along(self, direction: Float[Tensor, " parameters"]) -> tuple[Tensor, ...]:
        """Return the slopes of all examples along a direction, one tensor a floating-point input."""
        parts = self._layout.split(direction)
        terms = [(one * parts[name]).sum() for name, one in self._gradients.items() if one.requires_grad]
        if not terms:
            return tuple(torch.zeros_like(leaf) for leaf in self.leaves)
        total = torch.stack(terms).sum()
        return torch.autograd.grad(total, self.leaves, retain_graph=True, allow_unused=True, materialize_grads=True)


def _leaf(given: Any) -> Any:
    """Return a floating-point tensor as one that gradients flow to; anything else as it is."""
    return given.detach().requires_grad_() if isinstance(given, Tensor) and given.is_floating_point() else given
