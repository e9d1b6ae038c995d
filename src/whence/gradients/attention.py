"""The rule of multi-head attention: four projections around what has no parameters."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from whence.gradients.calls import Call
from whence.gradients.factored import Outer
from whence.gradients.per_example import Dense, PerExample


@final
@dataclass(frozen=True, eq=False)
class Projected:
    """Queries, keys or values after their projection, all (positions, examples, features)."""

    source: Float[Tensor, "positions examples inputs"]
    target: Float[Tensor, "positions examples features"]
    weight: Float[Tensor, "features inputs"]


def attention(call: Call, wanted: frozenset[str]) -> dict[str, PerExample]:
    """Outer products for the projections of queries, keys and values, and for the output's.

    What lies between them is computed again, with the same random numbers if there is dropout, and
    differentiated with respect to the projected queries, keys and values.
    """
    layer = cast("nn.MultiheadAttention", call.module)
    given = inspect.signature(layer.forward).bind(*call.arguments[0], **call.arguments[1])
    given.apply_defaults()
    options = given.arguments
    with call.same_autocast():
        inputs = projections(layer, call, options)
        extra = [b.detach().expand(1, inputs[0].target.shape[1], -1) for b in extra_keys(layer)]
        leaves = [one.target for one in inputs] + extra
        with torch.enable_grad(), replayed(call):
            leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
            context, weights = attend(call, leaves, options)
            output = F.linear(context, layer.out_proj.weight.detach(), layer.out_proj.bias)
    call.check_repeats([output.movedim(1, call.axis), weights])
    e = call.gradients.get(0, torch.zeros_like(output)).movedim(call.axis, 1)
    into = [e.to(context.dtype) @ layer.out_proj.weight.detach().to(context.dtype)]
    outputs = [context]
    if weights is not None and 1 in call.gradients:
        outputs, into = [*outputs, weights], [*into, call.gradients[1]]
    back = torch.autograd.grad(outputs, leaves, into, materialize_grads=True)
    found: dict[str, PerExample] = {
        "out_proj.weight": outer(e, context.detach(), layer.out_proj.weight),
        "out_proj.bias": Dense(e.sum(0).to(layer.out_proj.weight.dtype)),
        **input_gradients(layer, inputs, back),
    }
    return {name: gradient for name, gradient in found.items() if name in wanted}


def projections(layer: nn.MultiheadAttention, call: Call, options: dict[str, Any]) -> list[Projected]:
    """Return queries, keys and values as the layer projects them."""
    if layer.in_proj_weight is not None:
        weights = list(layer.in_proj_weight.detach().chunk(3))
    else:
        separate = (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)
        weights = [cast("Tensor", weight).detach() for weight in separate]
    biases: list[Tensor | None] = [None] * 3
    if layer.in_proj_bias is not None:
        biases = list(layer.in_proj_bias.detach().chunk(3))
    found = []
    for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
        source = cast("Tensor", options[name]).movedim(call.axis, 1)
        found.append(Projected(source, F.linear(source, weight, bias), weight))
    return found


def extra_keys(layer: nn.MultiheadAttention) -> list[Tensor]:
    """Return the learned key and value that are attended besides the given ones, if there are any."""
    return [] if layer.bias_k is None or layer.bias_v is None else [layer.bias_k, layer.bias_v]


def attend(call: Call, leaves: list[Tensor], options: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    """Return what torch's own attention does between the projections, and the weights if asked for."""
    layer = cast("nn.MultiheadAttention", call.module)
    query, key, value, *extra = leaves
    masks = {name: options[name] for name in ("key_padding_mask", "attn_mask")}
    causal = bool(options["is_causal"])
    if extra:
        key, value = torch.cat([key, extra[0]]), torch.cat([value, extra[1]])
        masks = {name: None if mask is None else F.pad(mask, (0, 1)) for name, mask in masks.items()}
        causal = False
    identity = torch.eye(layer.embed_dim, dtype=query.dtype, device=query.device)
    projections = {f"{name}_proj_weight": identity for name in "qkv"}
    context, weights = F.multi_head_attention_forward(
        query, key, value, layer.embed_dim, layer.num_heads,
        None, None, None, None, layer.add_zero_attn, layer.dropout, identity, None,
        training=call.training, need_weights=options["need_weights"], is_causal=causal,
        average_attn_weights=options["average_attn_weights"], use_separate_proj_weight=True,
        **masks, **projections,
    )  # fmt: skip
    return context, weights


@contextmanager
def replayed(call: Call) -> Iterator[None]:
    """Draw the random numbers of the call again, and leave the generator as it was."""
    if call.random_state is None:
        yield
        return
    device = call.device
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        if devices:
            torch.cuda.set_rng_state(call.random_state, device)
        else:
            torch.set_rng_state(call.random_state)
        yield


def input_gradients(
    layer: nn.MultiheadAttention, inputs: list[Projected], back: tuple[Tensor, ...]
) -> dict[str, PerExample]:
    """Return the gradients of the input projections and of the learned key and value."""
    dtype = layer.out_proj.weight.dtype
    found: dict[str, PerExample] = {}
    found["in_proj_bias"] = Dense(torch.cat([e.sum(0) for e in back[:3]], 1).to(dtype))
    if layer.in_proj_weight is not None:
        found["in_proj_weight"] = packed(inputs, back, layer.in_proj_weight)
    else:
        for name, one, e in zip("qkv", inputs, back, strict=False):
            found[f"{name}_proj_weight"] = outer(e, one.source, one.weight)
    for name, e in zip(("bias_k", "bias_v"), back[3:], strict=False):
        found[name] = Dense(e.movedim(1, 0).unsqueeze(1).to(dtype))
    return found


def packed(inputs: list[Projected], back: tuple[Tensor, ...], weight: Tensor) -> PerExample:
    """Return the gradients of the three projections that are stacked in one weight."""
    if all(same(one.source, inputs[0].source) for one in inputs):
        return outer(torch.cat(back[:3], 2), inputs[0].source, weight)
    width = weight.shape[1]
    rows = [F.pad(e, (at * width, (2 - at) * width)) for at, e in enumerate(back[:3])]
    return outer(torch.cat(rows), torch.cat([one.source for one in inputs]), weight)


def outer(e: Tensor, a: Tensor, weight: Tensor) -> Outer:
    """Return Σ_l e_l ⊗ a_l of tensors with positions first and examples second."""
    return Outer(e.movedim(1, 0).to(weight.dtype), a.movedim(1, 0).to(weight.dtype), weight.shape)


def same(a: Tensor, b: Tensor) -> bool:
    """Say whether two tensors are the same view of the same memory."""
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()
