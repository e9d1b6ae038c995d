"""Which rule forms the gradients of which layer."""

from __future__ import annotations

from torch import nn

from whence.gradients.attention import attention
from whence.gradients.calls import Rule
from whence.gradients.convolution import convolution
from whence.gradients.embedding import embedding
from whence.gradients.fallback import fallback
from whence.gradients.linear import linear
from whence.gradients.normalization import (
    batch_norm,
    group_norm,
    instance_norm,
    layer_norm,
    rms_norm,
)

RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: linear,
    nn.Conv1d: convolution,
    nn.Conv2d: convolution,
    nn.Conv3d: convolution,
    nn.Embedding: embedding,
    nn.LayerNorm: layer_norm,
    nn.RMSNorm: rms_norm,
    nn.GroupNorm: group_norm,
    nn.BatchNorm1d: batch_norm,
    nn.BatchNorm2d: batch_norm,
    nn.BatchNorm3d: batch_norm,
    nn.InstanceNorm1d: instance_norm,
    nn.InstanceNorm2d: instance_norm,
    nn.InstanceNorm3d: instance_norm,
    nn.MultiheadAttention: attention,
}
"""The rules; a subclass shares one if it computes and owns the same."""

COMPOSITE = (nn.MultiheadAttention,)
"""Modules that use their children's parameters without calling the children."""

SHARED_LOOKUP = (nn.Embedding,)
"""Modules that may be called once for the whole batch, with a leading axis of one."""

RECOMPUTING = frozenset({attention, fallback})
"""Rules that compute the layer again, and compare its outputs with those seen."""


def rule_of(module: nn.Module) -> Rule:
    """Return the rule of a module, or the fallback.

    A subclass with another ``forward``, and a module with parameters of its own besides ``weight``
    and ``bias`` (weight normalisation, parametrisations), take the fallback.
    """
    for base, rule in RULES.items():
        if isinstance(module, base) and type(module).forward is base.forward:
            plain = {name for name, _ in module.named_parameters(recurse=False)} <= {"weight", "bias"}
            if (plain or base in COMPOSITE) and not hasattr(module, "parametrizations"):
                return rule
    return fallback


def needs_random_state(module: nn.Module) -> bool:
    """Say whether the module's rule must repeat its random numbers."""
    return isinstance(module, nn.MultiheadAttention) and module.training and module.dropout > 0
