"""Parts of a network as objectives: a layer, a unit of one, outputs."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from whence._errors import ArgumentError, LabelError, ShapeError
from whence._numbers import is_whole
from whence.datasets import call_model
from whence.invariants.objective import Objective
from whence.kernel.representations import activations

Places = int | Sequence[int] | Tensor | np.ndarray
"""Places of outputs, from 0: one or several."""


def frozen(model: nn.Module) -> nn.Module:
    """Return a copy of a model that answers each input by itself and whose parameters take no gradients.

    Raises:
        ArgumentError: If it is no module of torch.
    """
    checked_module(model)
    return copy.deepcopy(model).eval().requires_grad_(False)


def checked_module(model: Any) -> None:
    """Refuse a model that is no module of torch.

    Raises:
        ArgumentError: If it is none.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentError(f"A model is a torch.nn.Module; got a {type(model).__name__}.")


def logits(model: nn.Module, indices: Places | None = None) -> Objective:
    """Return the outputs of a model as an objective, all or some of them.

    Args:
        model: Copied, in evaluation mode; later changes of it do not reach the objective. Outputs that are no tensor
            are read by their ``logits``.
        indices: Of the outputs, from 0: one, several, or an array or tensor of them.

    Raises:
        ArgumentError: If indices are not one or more whole numbers, or the model is no module.
    """
    return _outputs(model, indices, lambda out: out, "logit")


def probabilities(model: nn.Module, indices: Places | None = None) -> Objective:
    """Return the softmax of a model's outputs as an objective, all or some of its probabilities.

    Args:
        model: As of `logits`.
        indices: Of the classes, from 0.

    Raises:
        ArgumentError: If indices are not one or more whole numbers, or the model is no module.
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


def _outputs(model: nn.Module, indices: Places | None, read: Callable[[Tensor], Tensor], word: str) -> Objective:
    known = frozen(model)
    chosen = None if indices is None else torch.tensor(_places(indices))

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


def _places(indices: Any) -> list[int]:
    """Return places of outputs that were given as one, several, or an array or tensor of them.

    Raises:
        ArgumentError: If they are not one or more whole numbers.
    """
    given = indices.tolist() if isinstance(indices, Tensor | np.ndarray | np.generic) else indices
    places = given if isinstance(given, Sequence) else [given]
    if not places or not all(map(is_whole, places)):
        raise ArgumentError(f"indices are one or more places of outputs; got {indices!r}.")
    return [int(one) for one in places]


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
        ArgumentError: If the index is no whole number from 0, the layer's name no word, or the model no module.

    Source: EquiDiff, section 4.2, which keeps the 49 places of a channel's map.
    """
    if index is not None and (not is_whole(index) or index < 0):
        raise ArgumentError(f"index is the place of a unit, from 0; got {index!r}.")
    if not isinstance(layer, str):
        raise ArgumentError(f"layer is a name of dict(model.named_modules()); got {layer!r}.")
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
        ArgumentError: If the name is no word, or the model no module.
    """
    checked_module(model)
    if not isinstance(name, str):
        raise ArgumentError(f"A unit is named in words, such as 'layer4.1656' or 'logit.3'; got {name!r}.")
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
