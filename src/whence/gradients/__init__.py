"""Per-example gradients: one rule a layer type, a generic fallback."""

from whence.gradients.capture import Captured, capture
from whence.gradients.combine import interleave, weighted_sum
from whence.gradients.factored import Outer, Scatter
from whence.gradients.per_example import Dense, PerExample, Sum

__all__ = ["Captured", "Dense", "Outer", "PerExample", "Scatter", "Sum", "capture", "interleave", "weighted_sum"]
