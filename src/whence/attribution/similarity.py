"""Attributors that compare what a model, or the eye, sees of two examples: activations, or the inputs themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from whence._errors import ArgumentError
from whence.attribution.measures import Cosine, Distance, Dot, Measure
from whence.attribution.vectors import FittedVectors
from whence.kernel.representations import activations
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
        read = activations(trained.model, self.layer)
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
        read = activations(trained.model, self.layer)
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
        if str(self.metric) not in _METRICS:
            raise ArgumentError(f"`metric` is {' or '.join(map(repr, _METRICS))}; got {self.metric!r}.")
        read = _inputs if self.layer is None else activations(trained.model, self.layer)
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


_METRICS: dict[str, tuple[Measure, str]] = {
    "euclidean": (Distance(), "minus distance"),
    "cosine": (Cosine(less=1.0), "minus distance, 1 - cosine"),
}
