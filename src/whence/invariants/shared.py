"""Features of a sparse autoencoder that samples share with the query."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from whence._errors import ArgumentError
from whence._numbers import even_parts, is_number
from whence.invariants.autoencoders.layout import axis_of, rows_of
from whence.invariants.autoencoders.network import SparseAutoencoder
from whence.invariants.autoencoders.result import TrainedAutoencoder
from whence.invariants.objective import frozen
from whence.invariants.result import InvariantSet
from whence.kernel.representations import activations

_AT_ONCE = 64  # inputs whose codes are held together


def shared_features(
    model: nn.Module,
    trained: TrainedAutoencoder,
    found: InvariantSet,
    *,
    data: Tensor | None = None,
    least: float = 0.5,
) -> xr.Dataset:
    """Return the features that are active on the query and on most of the solved samples.

    Args:
        model: The network.
        trained: An autoencoder of one of its layers.
        found: The query and its samples.
        data: Other inputs, such as real ones: how often a feature is active anyway.
        least: The share of the samples that a feature must be active on.

    Returns:
        By ``feature``, those that tell the samples from other inputs most first: ``query``, its largest code over
        positions on the query; ``share`` of the samples it is active on; ``median``, of its largest codes there; with
        data ``usual``, the share of other inputs it is active on.

    Raises:
        LabelError: If the model has no such layer.
        ArgumentError: If ``least`` is not from 0 to 1.
    """
    if not is_number(least) or not 0 <= least <= 1:
        raise ArgumentError(f"least is a share of the samples, 0 to 1; got {least!r}.")
    read, autoencoder = activations(frozen(model), trained.layer), _kept(trained)
    samples = _codes(read, autoencoder, found.inputs[torch.from_numpy(found.solved).to(found.inputs.device)])
    query = _codes(read, autoencoder, found.query[None])[0]
    columns = {"query": query, "share": (samples > 0).mean(0) if len(samples) else np.zeros(len(query))}
    columns["median"] = np.median(samples, axis=0) if len(samples) else np.zeros(len(query))
    if data is not None:
        columns["usual"] = (_codes(read, autoencoder, data) > 0).mean(0)
    shared = np.flatnonzero((query > 0) & (columns["share"] >= least))
    apart = columns["share"] - columns.get("usual", np.zeros(len(query)))
    order = shared[np.lexsort((-query[shared], -apart[shared]))]
    return xr.Dataset({name: ("feature", one[order]) for name, one in columns.items()}, {"feature": order})


def _kept(trained: TrainedAutoencoder) -> SparseAutoencoder:
    """Return a copy of the autoencoder whose parameters take no gradients."""
    return copy.deepcopy(trained.autoencoder).eval().requires_grad_(False)


def _codes(read: Any, autoencoder: SparseAutoencoder, inputs: Tensor) -> Float[np.ndarray, "some features"]:
    """Return the largest code of each feature over the positions of each input."""
    found = [np.zeros((0, autoencoder.features), dtype=np.float32)]
    for part in even_parts(range(len(inputs)), _AT_ONCE):
        with torch.no_grad():
            seen = read(inputs[part.start : part.stop])
            rows = rows_of(seen, axis_of(seen, autoencoder.channel_axis, autoencoder.width))
            found.append(autoencoder.encode(rows).amax(1).cpu().numpy())
    return np.concatenate(found)
