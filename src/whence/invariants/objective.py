"""Objectives: what an invariant keeps, one row of numbers for each input."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from whence._errors import ArgumentError, LabelError, ShapeError
from whence._numbers import is_number, is_whole
from whence.datasets import call_model
from whence.kernel.representations import activations
from whence.provenance.modes import evaluating

Distance = Callable[[Tensor, Tensor], Tensor]
TOLERANCE = 0.01  # EquiDiff, appendix .3.1


def root_mean_square(values: Float[Tensor, "batch values"], goal: Float[Tensor, " values"]) -> Float[Tensor, " batch"]:
    """Return how far the values of each input are from a goal: the root of the mean squared difference."""
    return (values - goal).square().mean(1).sqrt()


def greatest_difference(
    values: Float[Tensor, "batch values"], goal: Float[Tensor, " values"]
) -> Float[Tensor, " batch"]:
    """Return how far the values of each input are from a goal: the greatest of the differences."""
    return (values - goal).abs().amax(1)


@final
@dataclass(frozen=True, eq=False)
class Objective:
    """A function of the input, the invariant sets of which are looked for: IS(x*) = {x : L(x) = L(x*)}.

    EquiDiff, section 3.1, equation 3.1. Call it with a batch of inputs for their values, one row an input; the rows
    do not depend on each other.

    Attributes:
        function: From a batch of inputs to one or more numbers an input; never reduced over the batch. A module
            answers in evaluation mode and is left in the mode that it was in.
        name: What it is called in results, such as ``"fc2.3"``.
        distance: How far each row of values is from the query's; the residual that is reported.
        tolerance: The distance up to which an input counts as an invariant, in the objective's own unit.
        stand_in: A function that takes the same value wherever that is above 0, and has a gradient also elsewhere, as
            a number before its ReLU: searches follow it for those of the values that are to be above 0, certificates
            do not.

    Raises:
        ArgumentError: If the tolerance is not above 0.

    Example:
        >>> radius = Objective(lambda points: points.square().sum(1), "squared radius")
        >>> radius(torch.tensor([[3.0, 4.0], [0.0, 2.0]])).tolist()
        [[25.0], [4.0]]
    """

    function: Callable[[Any], Tensor]
    name: str
    distance: Distance = root_mean_square
    tolerance: float = TOLERANCE
    stand_in: Callable[[Any], Tensor] | None = None

    def __post_init__(self) -> None:
        if not is_number(self.tolerance) or self.tolerance <= 0:
            raise ArgumentError(f"tolerance is a distance above 0; got {self.tolerance!r}.")

    def __call__(self, inputs: Tensor) -> Float[Tensor, "batch values"]:
        """Return the values of inputs, in the inputs' type and on their device.

        Raises:
            ArgumentError: If the function does not give floating-point numbers.
            ShapeError: If it does not give a row for each input.
        """
        return self._rows(self.function, inputs)

    def searched(self, inputs: Tensor) -> Float[Tensor, "batch values"]:
        """Return the values that a search follows: those of the stand-in, if there is one.

        Raises:
            ArgumentError: If the function does not give floating-point numbers.
            ShapeError: If it does not give a row for each input.
        """
        return self._rows(self.stand_in or self.function, inputs)

    def away(self, values: Float[Tensor, "batch values"], goal: Float[Tensor, " values"]) -> Float[Tensor, " batch"]:
        """Return how far each row of values is from a goal, by the objective's own distance.

        Raises:
            ShapeError: If the distance does not give one number for each row.
        """
        found: Any = self.distance(values, goal)
        if not isinstance(found, Tensor) or tuple(found.shape) != (len(values),):
            given = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ShapeError(
                f"The distance of the objective {self.name} must return one number for each of {len(values)} rows of "
                f"values, never reduced over the batch; got {given}."
            )
        return found

    def _rows(self, function: Callable[[Any], Any], inputs: Tensor) -> Float[Tensor, "batch values"]:
        with evaluating(function) if isinstance(function, nn.Module) else nullcontext():
            values = function(inputs)
        if not isinstance(values, Tensor) or not values.is_floating_point():
            given = f"a tensor of {values.dtype}" if isinstance(values, Tensor) else f"{type(values).__name__}"
            raise ArgumentError(
                f"The objective {self.name} must return a tensor of floating-point numbers; got {given}."
            )
        if values.ndim == 0 or len(values) != len(inputs) or not values[:1].numel():
            raise ShapeError(
                f"The objective {self.name} must return one row for each of {len(inputs)} inputs, not empty and never "
                f"reduced over the batch; got shape {tuple(values.shape)}."
            )
        return values.reshape(len(inputs), -1).to(inputs)

    def within(self, tolerance: float) -> Objective:
        """Return the same objective with another tolerance.

        Raises:
            ArgumentError: If it is not above 0.
        """
        return replace(self, tolerance=tolerance)


def frozen(model: nn.Module) -> nn.Module:
    """Return a copy of a model that answers each input by itself and whose parameters take no gradients."""
    return copy.deepcopy(model).eval().requires_grad_(False)


def logits(model: nn.Module, indices: Sequence[int] | int | None = None) -> Objective:
    """Return the outputs of a model as an objective, all or some of them.

    Args:
        model: Copied, in evaluation mode; later changes of it do not reach the objective. Outputs that are no tensor
            are read by their ``logits``.
        indices: Of the outputs, from 0.

    Raises:
        ArgumentError: If indices are not one or more whole numbers.
    """
    return _outputs(model, indices, lambda out: out, "logit")


def probabilities(model: nn.Module, indices: Sequence[int] | int | None = None) -> Objective:
    """Return the softmax of a model's outputs as an objective, all or some of its probabilities.

    Args:
        model: As of `logits`.
        indices: Of the classes, from 0.

    Raises:
        ArgumentError: If indices are not one or more whole numbers.
    """
    return _outputs(model, indices, _softmax, "probability")


def _softmax(out: Tensor) -> Tensor:
    """Return probabilities.

    Raises:
        ShapeError: If the outputs are not of two or more classes: the softmax of one is 1 whatever the input.
    """
    if out.ndim < 2 or out.shape[1] < 2:
        raise ShapeError(
            f"Probabilities need the outputs of two or more classes; got shape {tuple(out.shape)}. Keep the output "
            "itself: logits(model)."
        )
    return out.softmax(1)


def _outputs(
    model: nn.Module, indices: Sequence[int] | int | None, read: Callable[[Tensor], Tensor], word: str
) -> Objective:
    known = frozen(model)
    places = [indices] if isinstance(indices, int) else None if indices is None else list(indices)
    if places is not None and not (places and all(map(is_whole, places))):
        raise ArgumentError(f"indices are one or more places of outputs; got {indices!r}.")
    chosen = None if places is None else torch.as_tensor(places)

    def function(inputs: Any) -> Tensor:
        out = call_model(known, inputs)
        out = getattr(out, "logits", out)
        if not isinstance(out, Tensor) or out.ndim < (1 if chosen is None and word == "logit" else 2):
            told = f"a tensor of shape {tuple(out.shape)}" if isinstance(out, Tensor) else f"a {type(out).__name__}"
            raise ArgumentError(
                f"{type(model).__name__} gives {told}, which has no {word} by number. Name a layer, or take an "
                "`Objective` of a function of your own."
            )
        found = read(out)
        if chosen is None:
            return found
        _check_index(int(chosen.max()), found.shape[1], f"{word} of {type(model).__name__}")
        _check_index(int(chosen.min()), found.shape[1], f"{word} of {type(model).__name__}")
        return found[:, chosen.to(found.device)]

    many = {"logit": "logits", "probability": "probabilities"}[word]
    said = many if chosen is None else f"{word if len(chosen) == 1 else many} {', '.join(map(str, chosen.tolist()))}"
    return Objective(function, said)


def neuron(model: nn.Module, layer: str, index: int | None = None, *, pooled: bool = False) -> Objective:
    """Return what a unit of a layer gives as an objective: one number, or its map over all places.

    A unit is an output of a linear layer, a channel of a convolution over images (axis 1 of four or more), or a place
    of the width of tokens (the last axis of fewer).

    Args:
        model: Copied, in evaluation mode.
        layer: The module's name, of ``dict(model.named_modules())``.
        index: Of the unit, from 0; the whole layer if left out.
        pooled: Take a unit's mean over all places instead of each place.

    Raises:
        LabelError: If there is no such layer; the message says which names are near.
        ArgumentError: If the index is no whole number from 0.

    Source: EquiDiff, section 4.2, which keeps the 49 places of a channel's map.
    """
    if index is not None and (not is_whole(index) or index < 0):
        raise ArgumentError(f"index is the place of a unit, from 0; got {index!r}.")
    read = activations(frozen(model), layer)

    def function(inputs: Any) -> Tensor:
        found = channels_last(read(inputs))
        if index is not None:
            _check_index(index, found.shape[-1], f"unit of {layer}")
            found = found[..., index : index + 1]
        return found.mean(dim=tuple(range(1, found.ndim - 1))) if pooled and found.ndim > 2 else found

    return Objective(function, layer if index is None else f"{layer}.{index}")


def named_unit(model: nn.Module, name: str, *, pooled: bool = False) -> Objective:
    """Return the objective that a name stands for: a layer, a layer's unit, or outputs of the model.

    Args:
        model: Copied, in evaluation mode.
        name: ``"layer4.1656"`` is unit 1656 of the module ``layer4``; ``"layer4"`` all of it; ``"logit.3"`` and
            ``"probability.3"`` one output, ``"logits"`` and ``"probabilities"`` all of them. A module's name goes
            before one of these.
        pooled: Take the mean over places of a unit that has a map.

    Raises:
        LabelError: If the model has no such module; the message says which names are near.
    """
    modules = dict(model.named_modules())
    if name in modules and name:
        return neuron(model, name, pooled=pooled)
    layer, _, index = name.rpartition(".")
    if index.isdecimal() and layer in modules and layer:
        return neuron(model, layer, int(index), pooled=pooled)
    outputs = {"logit": logits, "logits": logits, "probability": probabilities, "probabilities": probabilities}
    if name in ("logits", "probabilities"):
        return outputs[name](model)
    if index.isdecimal() and layer in ("logit", "probability"):
        return outputs[layer](model, [int(index)])
    wanted = layer if index.isdecimal() and layer else name
    near = (
        difflib.get_close_matches(wanted, [*filter(None, modules), *outputs], cutoff=0.5)
        or [*filter(None, modules)][:3]
    )
    raise LabelError(
        f"No unit {name!r}: {type(model).__name__} has no layer {wanted!r}; names near it: {', '.join(near)}. Name "
        "LAYER or LAYER.NUMBER of dict(model.named_modules()), logits, logit.NUMBER, probabilities or "
        "probability.NUMBER."
    )


def channels_last(found: Tensor) -> Tensor:
    """Return activations with units last: of a convolution's (batch, channels, ...), as they are for tokens."""
    return found.movedim(1, -1) if found.ndim > 3 else found


def _check_index(index: int, count: int, what: str) -> None:
    if not 0 <= index < count:
        raise LabelError(f"No {what} has the index {index}; there are {count}, from 0 to {count - 1}.")
