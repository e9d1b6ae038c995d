"""The training loss of one example, as a function of its input and of the parameters that count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.utils import _pytree as pytree

from whence._errors import ArgumentError, LabelError
from whence._numbers import even_parts
from whence.attribution import Trained
from whence.datasets import call_model
from whence.runs import TrainingLoss, cast_floating, to_device

_TOGETHER = 256  # examples whose slopes are taken at once

Direction = Mapping[str, Tensor]
"""One number per parameter that counts, by the parameter's name."""

Entry = str | int | None
"""Which of several inputs is mapped: a key of their dict, a position in their tuple; None for inputs of one tensor."""


@final
@dataclass(frozen=True, eq=False)
class Surface:
    """A loss surface.

    Attributes:
        model: The trained model, in evaluation mode.
        loss: Of its training.
        parameters: Those that count.
        entry: Which of several inputs is the point. Labels are then pairs: the other inputs (held), and labels.
    """

    model: nn.Module
    loss: TrainingLoss
    parameters: dict[str, Tensor]
    entry: Entry = None

    def at(self, parameters: Direction, point: Tensor, label: Any) -> Tensor:
        """Return the loss of one example, a scalar, at some values of the parameters that count."""
        return self.together(parameters, point[None], pytree.tree_map(lambda one: one[None], label)).squeeze(0)

    def together(self, parameters: Direction, points: Tensor, labels: Any) -> Tensor:
        """Return the losses of several examples."""
        own = labels if self.entry is None else labels[1]
        return self.loss.per_example(self.outputs(parameters, points, labels), own)

    def outputs(self, parameters: Direction, points: Tensor, labels: Any) -> Any:
        """Return the model's outputs on several examples."""

        def called(*args: Any, **kwargs: Any) -> Any:
            return functional_call(self.model, dict(parameters), args, kwargs)

        return call_model(called, points if self.entry is None else _joined(points, labels[0], self.entry))


def with_slopes_held(surface: Surface, inputs: Tensor, labels: Any) -> tuple[Surface, Any]:
    """Return the surface of ⟨r, outputs⟩, and, to give as labels, each example's slope r of its loss in its outputs.

    At the example itself, gradients in the parameters are those of the loss; elsewhere r stays what it is there.

    Raises:
        ArgumentError: If the model's output is not one tensor.
    """
    slopes = []
    for part in even_parts(range(len(inputs)), _TOGETHER):
        some = pytree.tree_map(lambda one, part=part: one[part.start : part.stop], labels)
        with torch.no_grad():
            outputs = surface.outputs({}, inputs[part.start : part.stop], some)
        if not isinstance(outputs, Tensor):
            raise ArgumentError(
                f"Holding the loss's slope needs outputs in one tensor; this model gives {type(outputs).__name__}. "
                "Give a recipe with held=False."
            )
        with torch.enable_grad():
            outputs = outputs.requires_grad_()
            own = some if surface.entry is None else some[1]
            slopes.append(torch.autograd.grad(surface.loss.per_example(outputs, own).sum(), outputs)[0])

    def each(outputs: Tensor, slope: Tensor) -> Tensor:
        return (outputs * slope).flatten(1).sum(1)

    linear = TrainingLoss(f"{surface.loss.name}, its slope held", lambda *given: each(*given).sum(), each)
    held = torch.cat(slopes)
    return replace(surface, loss=linear), held if surface.entry is None else (labels[0], held)


def surface_of(trained: Trained, names: tuple[str, ...], entry: Entry = None) -> Surface:
    """Return the loss surface of a trained model over some of its parameters and one of its inputs."""
    live = dict(trained.model.named_parameters())
    return Surface(trained.model, trained.loss, {name: live[name].detach() for name in names}, entry)


def inputs_of(trained: Trained, ids: list[int], entry: Entry = None) -> tuple[Float[Tensor, "examples *input"], Any]:
    """Return inputs and labels of training examples, on the model's device and in its precision.

    Args:
        trained: The model and its data.
        ids: Of the examples.
        entry: Which of several inputs; labels are then pairs, see `Surface`.

    Raises:
        ArgumentError: If the input is not one tensor of finite floating-point numbers, or ``entry`` does not suit.
        LabelError: If there is no such input.
    """
    kind = next(one.dtype for one in trained.model.parameters() if one.is_floating_point())
    inputs, labels = cast_floating(to_device(trained.examples.batch(ids), trained.device), kind)
    several = isinstance(inputs, Mapping | tuple | list)
    if several:
        inputs, labels = _parted(inputs, labels, entry)
    elif entry is not None:
        raise ArgumentError(f"`entry` chooses one of several inputs, and here an input is one tensor; got {entry!r}.")
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.dim() < 2:
        given = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
        raise ArgumentError(
            "A region map needs inputs that can be differentiated, one floating-point tensor an example; "
            f"{f'entry {entry!r} is' if several else 'got'} {given}. Numbers of words have no regions of this kind: "
            "map an embedding's output instead, by a model that starts there."
        )
    if not (finite := inputs.flatten(1).isfinite().all(1)).all():
        raise ArgumentError(
            f"Training example {ids[int(finite.logical_not().nonzero()[0])]} has entries that are not finite: no map "
            "can be made of it, nor of the mean input. Mend it, or leave it out of the training data."
        )
    return inputs, labels


def _parted(inputs: Any, labels: Any, entry: Entry) -> tuple[Any, tuple[dict[Any, Any], Any]]:
    """Return one of several inputs, and the others with the labels.

    Raises:
        ArgumentError: If none is chosen.
        LabelError: If there is no such input.
    """
    known = dict(inputs) if isinstance(inputs, Mapping) else dict(enumerate(inputs))
    shown = ", ".join(map(repr, known))
    if entry is None:
        raise ArgumentError(
            f"Here an input is {len(known)} of them ({shown}), and a map is of one: say which by `entry`, such as "
            f"entry={next(iter(known))!r}. The others are held."
        )
    if isinstance(entry, bool) or entry not in known:
        raise LabelError(f"No entry {entry!r} among the inputs: there are {shown}.")
    return known[entry], ({name: one for name, one in known.items() if name != entry}, labels)


def _joined(points: Tensor, others: dict[Any, Any], entry: str | int) -> Any:
    """Return several inputs as the model takes them, by keyword or in order."""
    known = {**others, entry: points}
    return known if isinstance(entry, str) else tuple(known[place] for place in range(len(known)))


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
