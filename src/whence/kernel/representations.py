"""What a layer of a model sees of its inputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from whence._errors import ArgumentError
from whence.datasets import call_model
from whence.kernel.parameters import check_layer


def activations(model: nn.Module, layer: str | None) -> Callable[[Any], Tensor]:
    """Return what reads a layer's output, or the input of the last layer with parameters.

    Raises:
        LabelError: If there is no such layer.
        ArgumentError: If none is named and the model has no parameters.
    """
    if layer is None:
        owners = [one for one in model.modules() if any(True for _ in one.parameters(recurse=False))]
        if not owners:
            raise ArgumentError(
                f"{type(model).__name__} has no layer with parameters, so no last one whose input is compared. Name a "
                "`layer` of dict(model.named_modules())."
            )
        return partial(_seen, model, owners[-1], True)
    check_layer(model, layer)
    return partial(_seen, model, model.get_submodule(layer), False)


def _seen(model: nn.Module, module: nn.Module, entering: bool, inputs: Any) -> Tensor:
    """Call the model and return what entered or left a module.

    Raises:
        ArgumentError: If the module is not called, or its output is no tensor.
    """
    found: list[Any] = []

    def see(_module: nn.Module, args: Any, out: Any) -> None:
        found.append(args[0] if entering else out)

    handle = module.register_forward_hook(see)
    try:
        call_model(model, inputs)
    finally:
        handle.remove()
    if len(found) != 1 or not isinstance(found[0], Tensor):
        given = (
            f"was called {len(found)} times" if len(found) != 1 else f"{_gave(entering)} a {type(found[0]).__name__}"
        )
        raise ArgumentError(
            f"The layer {type(module).__name__} must be called once with a tensor to compare; it {given}. Name another "
            "layer."
        )
    return found[0]


def _gave(entering: bool) -> str:
    return "was given" if entering else "gave"
