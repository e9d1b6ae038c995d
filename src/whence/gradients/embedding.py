"""The rule of embeddings."""

from __future__ import annotations

from math import prod
from typing import cast

import torch
from torch import nn

from whence._errors import GradientError
from whence.gradients.calls import Call
from whence.gradients.factored import Scatter
from whence.gradients.per_example import PerExample


def embedding(call: Call, wanted: frozenset[str]) -> dict[str, PerExample]:
    """e_l added to row index_l for every position l; the padding row gets nothing.

    With ``scale_grad_by_freq`` the frequencies are those of the whole batch, as in training.

    Raises:
        GradientError: If the indices look like positions rather than one index an example.
    """
    refuse_positions(call)
    layer = cast("nn.Embedding", call.module)
    e = call.gradient.movedim(call.axis, 0).to(layer.weight.dtype)
    indices = call.input.movedim(call.axis, 0).reshape(e.shape[0], prod(e.shape[1:-1])).long()
    e = e.reshape(*indices.shape, layer.embedding_dim)
    if layer.padding_idx is not None:
        e = e * (indices != layer.padding_idx)[..., None]
    if layer.scale_grad_by_freq:
        counts = torch.bincount(indices.reshape(-1), minlength=layer.num_embeddings)
        e = e / counts[indices][..., None]
    return {"weight": Scatter(indices, e, layer.weight.shape)} if wanted else {}


def refuse_positions(call: Call) -> None:
    """Refuse the indices 0, 1, 2, ... without an example axis, as many as there are examples by coincidence.

    Raises:
        GradientError: If they are.
    """
    indices = call.input
    if indices.dim() == 1 and len(indices) > 1 and torch.equal(indices, torch.arange(len(indices)).to(indices)):
        raise GradientError(
            f"Layer {call.name!r} (Embedding) looked up 0, 1, ..., {len(indices) - 1}, which may be positions or one "
            "index an example. Give positions an axis for the examples: torch.arange(length).unsqueeze(0)."
        )
