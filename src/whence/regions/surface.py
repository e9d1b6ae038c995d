"""The training loss of one example, as a function of its input and of the parameters that count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.utils import _pytree as pytree

from whence._errors import ArgumentError
from whence._numbers import even_parts
from whence.attribution import Trained
from whence.runs import TrainingLoss, cast_floating, to_device

_TOGETHER = 256  # examples whose slopes are taken at once

Direction = Mapping[str, Tensor]
"""One number per parameter that counts, by the parameter's name."""


@final
@dataclass(frozen=True, eq=False)
class Surface:
    """A loss surface.

    Attributes:
        model: The trained model, in evaluation mode.
        loss: Of its training.
        parameters: Those that count.
    """

    model: nn.Module
    loss: TrainingLoss
    parameters: dict[str, Tensor]

    def at(self, parameters: Direction, point: Tensor, label: Any) -> Tensor:
        """Return the loss of one example, a scalar, at some values of the parameters that count."""
        outputs = functional_call(self.model, dict(parameters), (point[None],))
        return self.loss.per_example(outputs, pytree.tree_map(lambda one: one[None], label)).squeeze(0)

    def together(self, parameters: Direction, points: Tensor, labels: Any) -> Tensor:
        """Return the losses of several examples."""
        return self.loss.per_example(functional_call(self.model, dict(parameters), (points,)), labels)


def with_slopes_held(surface: Surface, inputs: Tensor, labels: Any) -> tuple[Surface, Tensor]:
    """Return the surface of ⟨r, outputs⟩, and each example's slope r of its loss in its outputs, to give as its label.

    At the example itself, gradients in the parameters are those of the loss; elsewhere r stays what it is there.

    Raises:
        ArgumentError: If the model's output is not one tensor.
    """
    slopes = []
    for part in even_parts(range(len(inputs)), _TOGETHER):
        some = pytree.tree_map(lambda one, part=part: one[part.start : part.stop], labels)
        with torch.no_grad():
            outputs = surface.model(inputs[part.start : part.stop])
        if not isinstance(outputs, Tensor):
            raise ArgumentError(
                f"Holding the loss's slope needs outputs in one tensor; this model gives {type(outputs).__name__}. "
                "Give a recipe with held=False."
            )
        with torch.enable_grad():
            outputs = outputs.requires_grad_()
            slopes.append(torch.autograd.grad(surface.loss.per_example(outputs, some).sum(), outputs)[0])

    def each(outputs: Tensor, slope: Tensor) -> Tensor:
        return (outputs * slope).flatten(1).sum(1)

    linear = TrainingLoss(f"{surface.loss.name}, its slope held", lambda *given: each(*given).sum(), each)
    return Surface(surface.model, linear, surface.parameters), torch.cat(slopes)


def surface_of(trained: Trained, names: tuple[str, ...]) -> Surface:
    """Return the loss surface of a trained model over some of its parameters."""
    live = dict(trained.model.named_parameters())
    return Surface(trained.model, trained.loss, {name: live[name].detach() for name in names})


def inputs_of(trained: Trained, ids: list[int]) -> tuple[Float[Tensor, "examples *input"], Any]:
    """Return inputs and labels of training examples, on the model's device and in its precision.

    Raises:
        ArgumentError: If an input is not one tensor of floating-point numbers.
    """
    inputs, labels = to_device(trained.examples.batch(ids), trained.device)
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.dim() < 2:
        given = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
        raise ArgumentError(
            f"A region map needs inputs that can be differentiated, one floating-point tensor an example; got {given}. "
            "Numbers of words have no regions of this kind: map an embedding's output instead, by a model that starts "
            "there."
        )
    kind = next(one.dtype for one in trained.model.parameters() if one.is_floating_point())
    return inputs.to(kind), cast_floating(labels, kind)


def bytes_of_a_pass(surface: Surface, points: Tensor, labels: Any) -> int:
    """Return how many bytes a forward pass of some examples keeps for the backward pass, parameters not counted."""
    weights = {one.data_ptr() for one in surface.model.parameters()}
    kept = {points.data_ptr(): points.numel() * points.itemsize}

    def keep(one: Tensor) -> Tensor:
        if one.data_ptr() not in weights:
            kept[one.data_ptr()] = one.numel() * one.itemsize
        return one

    with torch.enable_grad(), saved_tensors_hooks(keep, lambda one: one):
        surface.together(surface.parameters, points.detach().clone().requires_grad_(), labels)
    return sum(kept.values())
