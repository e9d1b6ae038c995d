"""Per-example gradients: one rule a layer type, a generic fallback."""

from whence.gradients.capture import Captured, capture
from whence.gradients.combine import interleave, weighted_sum
from whence.gradients.factored import Outer, Scatter
from whence.gradients.per_example import Dense, PerExample, Sum
from whence.gradients.twice import (
    can_be_noticed,
    differentiable_once_only,
    in_transform,
    noticing_gradients,
    pulled_back,
    twice_differentiable,
)

__all__ = [
    "Captured",
    "Dense",
    "Outer",
    "PerExample",
    "Scatter",
    "Sum",
    "can_be_noticed",
    "capture",
    "differentiable_once_only",
    "in_transform",
    "interleave",
    "noticing_gradients",
    "pulled_back",
    "twice_differentiable",
    "weighted_sum",
]
