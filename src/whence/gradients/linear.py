"""The rule of linear layers."""

from __future__ import annotations

from math import prod
from typing import cast

from torch import nn

from whence.gradients.calls import Call
from whence.gradients.factored import Outer
from whence.gradients.per_example import Dense, PerExample


def linear(call: Call, wanted: frozenset[str]) -> dict[str, PerExample]:
    """Σ_l e_l ⊗ a_l for the weight, Σ_l e_l for the bias, over all axes l between batch and features."""
    layer = cast("nn.Linear", call.module)
    a, e = call.factors(layer.weight.dtype)
    examples = e.shape[0]
    positions = prod(e.shape[1:-1])
    e = e.reshape(examples, positions, layer.out_features)
    found: dict[str, PerExample] = {}
    if "weight" in wanted:
        a = a.reshape(examples, positions, layer.in_features)
        found["weight"] = Outer(e, a, layer.weight.shape)
    if "bias" in wanted:
        found["bias"] = Dense(e[:, 0] if positions == 1 else e.sum(1))
    return found
