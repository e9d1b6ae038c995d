"""Attributors that compare what a model, or the eye, sees of two examples: activations, or the inputs themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from whence._errors import ArgumentError
from whence.attribution.measures import Cosine, Distance, Dot, Measure
from whence.attribution.vectors import FittedVectors
from whence.datasets import call_model
from whence.kernel.parameters import check_layer
from whence.kernel.trained import Trained


@final
@dataclass(frozen=True)
class RepresentationCos:
    """Cosine of a layer's activations (Hanawa et al., 2021, section 2).

    It sees no labels: a similar example counts as a help also if its label is another.

    Args:
        layer: Name of the layer whose output is compared, flattened; None is what the last layer gets.
    """

    layer: str | None = None

    def fit(self, trained: Trained, *, memory_budget: int = 2**29) -> FittedVectors:
        """Compute the training examples' activations; see `Attributor.fit`."""
        read = _activations(trained.model, self.layer)
        return FittedVectors(trained, read, Cosine(), "representation cosine", "cosine", memory_budget)


@final
@dataclass(frozen=True)
class RepresentationDot:
    """Inner product of a layer's activations (Hanawa et al., 2021, section 2); as `RepresentationCos`.

    Args:
        layer: Name of the layer whose output is compared, flattened; None is what the last layer gets.
    """

    layer: str | None = None

    def fit(self, trained: Trained, *, memory_budget: int = 2**29) -> FittedVectors:
        """Compute the training examples' activations; see `Attributor.fit`."""
        read = _activations(trained.model, self.layer)
        return FittedVectors(trained, read, Dot(), "representation dot", "products of activations", memory_budget)


@final
@dataclass(frozen=True)
class NearestNeighbours:
    """Minus the distance, of inputs or of a layer's activations; exact.

    It sees no labels, as `RepresentationCos`. Where only the nearest are asked for, ``fit(trained).nearest(targets,
    ids, k)`` never forms the matrix of all distances, and takes an index (`FlatIndex`, `HNSWIndex`) if told to.

    Args:
        layer: Name of the layer whose output is compared, flattened; None compares the inputs.
        metric: ``"euclidean"``, or ``"cosine"`` for 1 - cosine.
    """

    layer: str | None = None
    metric: str = "euclidean"

    def fit(self, trained: Trained, *, memory_budget: int = 2**29) -> FittedVectors:
        """Read the training examples; see `Attributor.fit`.

        Raises:
            ArgumentError: If there is no such metric.
        """
        if self.metric not in _METRICS:
            raise ArgumentError(f"`metric` is {' or '.join(map(repr, _METRICS))}; got {self.metric!r}.")
        read = _inputs if self.layer is None else _activations(trained.model, self.layer)
        where = "of inputs" if self.layer is None else f"at {self.layer}"
        measure, unit = _METRICS[self.metric]
        return FittedVectors(trained, read, measure, f"nearest neighbours {where}", unit, memory_budget)


def _inputs(inputs: Any) -> Tensor:
    """Return the inputs themselves.

    Raises:
        ArgumentError: If they are not one tensor.
    """
    if not isinstance(inputs, Tensor):
        raise ArgumentError(
            f"Inputs are a {type(inputs).__name__}, not one tensor, so they have no distance. Name a `layer`, whose "
            "outputs are compared instead."
        )
    return inputs if inputs.is_floating_point() else inputs.to(torch.float32)


def _activations(model: nn.Module, layer: str | None) -> Callable[[Any], Tensor]:
    """Return what reads a layer's output, or the input of the last layer with parameters.

    Raises:
        LabelError: If there is no such layer.
    """
    if layer is None:
        last = [one for one in model.modules() if any(True for _ in one.parameters(recurse=False))][-1]
        return partial(_seen, model, last, True)
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
        given = f"{len(found)} calls" if len(found) != 1 else f"an output of type {type(found[0]).__name__}"
        raise ArgumentError(
            f"The layer {type(module).__name__} must be called once with a tensor to compare; there were {given}. "
            "Name another layer."
        )
    return found[0]


_METRICS: dict[str, tuple[Measure, str]] = {
    "euclidean": (Distance(), "minus distance"),
    "cosine": (Cosine(less=1.0), "minus distance, 1 - cosine"),
}
