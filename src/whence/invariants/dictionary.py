"""Features of a sparse autoencoder: as what is kept, and as what samples share with the query."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from whence._errors import ArgumentError, LabelError
from whence._numbers import even_parts, is_number, is_whole
from whence.invariants.autoencoders.layout import axis_of, device_of, rows_of
from whence.invariants.autoencoders.network import SparseAutoencoder, feature_values
from whence.invariants.autoencoders.result import TrainedAutoencoder, checked_trained
from whence.invariants.objective import Objective
from whence.invariants.result import InvariantSet
from whence.invariants.units import checked_module, frozen
from whence.kernel.representations import activations

_AT_ONCE = 64  # inputs whose codes are held together


def feature(model: nn.Module, trained: TrainedAutoencoder, index: int, *, pooled: bool = False) -> Objective:
    """Return what an autoencoder's feature gives as an objective: its code at every position of the layer.

    Where a feature is silent its code has no gradient. Searches for codes above 0 therefore follow the number before
    the nonlinearity, which is the code wherever that is above 0; certificates are of the code. A mean of codes that are
    silent everywhere is followed by the largest of these numbers.

    Args:
        model: Copied, in evaluation mode.
        trained: The autoencoder with its layer.
        index: Of the feature, from 0.
        pooled: Take the mean over all positions instead.

    Raises:
        LabelError: If the model has no such layer, or the autoencoder no such feature.
        ArgumentError: If it is no trained autoencoder, or the model no module.

    Source: EquiDiff, section 4.3.
    """
    autoencoder = _kept(trained, model)
    read = activations(frozen(model), trained.layer)
    if not is_whole(index) or not 0 <= index < autoencoder.features:
        raise LabelError(f"No feature {index!r}: the autoencoder has features 0 to {autoencoder.features - 1}.")

    def function(inputs: Any) -> Tensor:
        found = feature_values(read(inputs), autoencoder, index)
        return found.mean(1, keepdim=True) if pooled else found

    def before(inputs: Any) -> Tensor:
        seen = read(inputs)
        found = feature_values(seen, autoencoder, index, before=True)
        if not pooled:
            return found
        mean = feature_values(seen, autoencoder, index).mean(1, keepdim=True)
        return torch.where(mean > 0, mean, found.amax(1, keepdim=True))

    return Objective(function, f"feature {index} of {trained.layer}", stand_in=before)


def shared_features(
    model: nn.Module,
    trained: TrainedAutoencoder,
    found: InvariantSet,
    *,
    data: Tensor | np.ndarray | None = None,
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
        ArgumentError: If ``least`` is not from 0 to 1, there is no trained autoencoder, or the model is no module.
    """
    if not is_number(least) or not 0 <= least <= 1:
        raise ArgumentError(f"least is a share of the samples, 0 to 1; got {least!r}.")
    autoencoder = _kept(trained, model)
    read = activations(frozen(model), trained.layer)
    samples = _codes(read, autoencoder, found.inputs[torch.from_numpy(found.solved).to(found.inputs.device)])
    query = _codes(read, autoencoder, found.query[None])[0]
    columns = {"query": query, "share": (samples > 0).mean(0) if len(samples) else np.zeros(len(query))}
    columns["median"] = np.median(samples, axis=0) if len(samples) else np.zeros(len(query))
    if data is not None:
        columns["usual"] = (_codes(read, autoencoder, torch.as_tensor(data).to(found.inputs)) > 0).mean(0)
    shared = np.flatnonzero((query > 0) & (columns["share"] >= least))
    apart = columns["share"] - columns.get("usual", np.zeros(len(query)))
    order = shared[np.lexsort((-query[shared], -apart[shared]))]
    return xr.Dataset({name: ("feature", one[order]) for name, one in columns.items()}, {"feature": order})


def _kept(trained: TrainedAutoencoder, model: nn.Module) -> SparseAutoencoder:
    """Return a copy of the autoencoder where the model is, whose parameters take no gradients.

    Raises:
        ArgumentError: If it is no trained autoencoder, or the model no module.
    """
    checked_trained(trained)
    checked_module(model)
    return copy.deepcopy(trained.autoencoder).to(device_of(model)).eval().requires_grad_(False)


def _codes(read: Any, autoencoder: SparseAutoencoder, inputs: Tensor) -> Float[np.ndarray, "some features"]:
    """Return the largest code of each feature over the positions of each input."""
    found = [np.zeros((0, autoencoder.features), dtype=np.float32)]
    for part in even_parts(range(len(inputs)), _AT_ONCE):
        with torch.no_grad():
            seen = read(inputs[part.start : part.stop])
            rows = rows_of(seen, axis_of(seen, autoencoder.channel_axis, autoencoder.width))
            found.append(autoencoder.encode(rows).amax(1).cpu().numpy())
    return np.concatenate(found)
