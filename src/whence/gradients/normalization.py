"""The rules of normalisation layers: the weight scales and the bias shifts what was normalised."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whence.gradients.calls import Call
from whence.gradients.per_example import Dense, PerExample

Batch = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
Instance = nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d


def layer_norm(call: Call, wanted: frozenset[str]) -> dict[str, PerExample]:
    """Normalised over the trailing axes, which are the parameters' own."""
    layer = cast("nn.LayerNorm", call.module)
    a, e = call.factors(layer.weight.dtype)
    shape = list(layer.normalized_shape)
    return trailing(F.layer_norm(a, shape, eps=layer.eps), e, len(shape), wanted)


def rms_norm(call: Call, wanted: frozenset[str]) -> dict[str, PerExample]:
    """As `layer_norm`, without the mean."""
    layer = cast("nn.RMSNorm", call.module)
    a, e = call.factors(layer.weight.dtype)
    shape = list(layer.normalized_shape)
    # Without an epsilon torch takes that of the type it computes in.
    eps = torch.finfo(call.gradient.dtype).eps if layer.eps is None else layer.eps
    return trailing(F.rms_norm(a, shape, eps=eps), e, len(shape), wanted)


def group_norm(call: Call, wanted: frozenset[str]) -> dict[str, PerExample]:
    """Normalised over groups of channels and space."""
    layer = cast("nn.GroupNorm", call.module)
    a, e = call.factors(layer.weight.dtype)
    return channels(F.group_norm(a, layer.num_groups, eps=layer.eps), e, wanted)


def instance_norm(call: Call, wanted: frozenset[str]) -> dict[str, PerExample]:
    """Normalised over space, or by the running statistics where the layer keeps and uses them."""
    layer = cast("Instance", call.module)
    a, e = call.factors(layer.weight.dtype)
    if call.training or not layer.track_running_stats:
        return channels(F.instance_norm(a, eps=layer.eps), e, wanted)
    return channels(running(call, a, layer.eps), e, wanted)


def batch_norm(call: Call, wanted: frozenset[str]) -> dict[str, PerExample]:
    """Each example's own rows of the normalised input and of the output gradient.

    In training mode the batch's statistics couple the examples, so an example's gradient is not
    defined by itself; by position the shares still add up to the batch gradient exactly.
    In evaluation mode the statistics are constants and the shares are the examples' gradients.
    """
    layer = cast("Batch", call.module)
    a, e = call.factors(layer.weight.dtype)
    if call.training or "running_mean" not in call.buffers:
        normal = F.batch_norm(a, None, None, training=True, eps=layer.eps) if len(a) else a
        return channels(normal, e, wanted)
    return channels(running(call, a, layer.eps), e, wanted)


def running(call: Call, a: Tensor, eps: float) -> Tensor:
    """Return the input normalised by the layer's running statistics at the time of the call."""
    shape = (1, -1) + (1,) * (a.dim() - 2)
    mean = call.buffers["running_mean"].to(a.dtype).view(shape)
    variance = call.buffers["running_var"].to(a.dtype).view(shape)
    return (a - mean) / (variance + eps).sqrt()


def trailing(normal: Tensor, e: Tensor, dimensions: int, wanted: frozenset[str]) -> dict[str, PerExample]:
    """Sum over the axes between the examples and the parameters, which are the last axes."""
    between = tuple(range(1, e.dim() - dimensions))
    found: dict[str, PerExample] = {}
    if "weight" in wanted:
        found["weight"] = Dense((e * normal).sum(between) if between else e * normal)
    if "bias" in wanted:
        found["bias"] = Dense(e.sum(between) if between else e)
    return found


def channels(normal: Tensor, e: Tensor, wanted: frozenset[str]) -> dict[str, PerExample]:
    """Sum over space; the parameters stand along axis 1."""
    found: dict[str, PerExample] = {}
    if "weight" in wanted:
        found["weight"] = Dense((e * normal).flatten(2).sum(2) if e.dim() > 2 else e * normal)
    if "bias" in wanted:
        found["bias"] = Dense(e.flatten(2).sum(2) if e.dim() > 2 else e)
    return found
