"""Which parameters an attributor looks at: all that were trained, the last layer's, or those of named layers."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Literal

from torch import nn

from whence._errors import ArgumentError, LabelError
from whence.kernel.trained import Trained

Layers = Literal["all", "last"] | Sequence[str]
"""``"all"``, ``"last"`` (the last module with parameters of its own), or names of modules, each with all below it."""


def parameters_of(trained: Trained, layers: Layers) -> tuple[str, ...]:
    """Return the names of the trained parameters of some layers, in the model's order.

    A parameter that several layers share belongs to each of them, under one name; its gradient is that of all uses.

    Raises:
        LabelError: If there is no layer of a name.
        ArgumentError: If the layers have no trained parameter, or are not names.
    """
    names = _trained_names(trained)
    if isinstance(layers, str) and layers == "all":
        return names
    known = _by_layer(trained, names)
    if isinstance(layers, str) and layers == "last":
        last = known[-1][0]
        return _in_order(names, (name for layer, name in known if layer == last))
    if not _are_names(layers):
        raise ArgumentError(f"`layers` is 'all', 'last', or a list of names of layers; got {layers!r}.")
    for one in layers:
        check_layer(trained.model, one)
    found = _in_order(
        names, (name for layer, name in known if any(f"{layer}.".startswith(f"{one}.") for one in layers))
    )
    if not found:
        raise ArgumentError(
            f"The layers {', '.join(layers)} have no trained parameter. Those with some are "
            f"{', '.join(dict.fromkeys(layer for layer, _ in known))}."
        )
    return found


def _are_names(layers: object) -> bool:
    if not isinstance(layers, Sequence) or isinstance(layers, str):
        return False
    return len(layers) > 0 and all(isinstance(one, str) for one in layers)


def check_layer(model: nn.Module, layer: str) -> None:
    """Refuse the name of a layer that is not there.

    Raises:
        LabelError: If the model has no module of this name.
    """
    known = [name for name, _ in model.named_modules() if name]
    if layer not in known:
        near = difflib.get_close_matches(str(layer), known) or known[:3]
        raise LabelError(
            f"No layer {layer!r} in the model {type(model).__name__}; names near it: {', '.join(near) or 'none'}. "
            "See dict(model.named_modules())."
        )


def _in_order(names: tuple[str, ...], chosen: Iterable[str]) -> tuple[str, ...]:
    kept = set(chosen)
    return tuple(name for name in names if name in kept)


def _by_layer(trained: Trained, names: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return the layer and the name of each of some parameters, in the model's order, for every layer that has it."""
    first = {id(one): name for name, one in trained.model.named_parameters()}
    every = trained.model.named_parameters(remove_duplicate=False)
    return [(place.rpartition(".")[0], first[id(one)]) for place, one in every if first[id(one)] in names]


def _trained_names(trained: Trained) -> tuple[str, ...]:
    """Return the trained parameters, shared ones once, in the model's order."""
    live = dict(trained.model.named_parameters())
    kept = None if trained.run is None else set(trained.run.parameter_names)
    names = tuple(name for name, one in live.items() if (one.requires_grad if kept is None else name in kept))
    if not names:
        raise ArgumentError("No parameter of the model is trained (requires_grad), so none can be attributed.")
    return names
