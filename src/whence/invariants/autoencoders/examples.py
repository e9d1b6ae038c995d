"""The examples that activate features of a sparse autoencoder most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from whence._errors import ArgumentError
from whence._numbers import is_whole
from whence._progress import progress
from whence.invariants.autoencoders.figures import bytes_of
from whence.invariants.autoencoders.layout import axis_of, grid_of
from whence.invariants.autoencoders.network import SparseAutoencoder, values_of
from whence.invariants.autoencoders.source import Reader
from whence.kernel.answers import read_examples

_AXES = {0: (), 1: ("position",), 2: ("row", "column")}


def top_activating(
    model: nn.Module,
    layer: str,
    autoencoder: SparseAutoencoder,
    data: Any,
    features: Sequence[int] | Tensor | np.ndarray | int,
    k: int = 10,
    *,
    memory_budget: int = 2**29,
) -> xr.Dataset:
    """Return the examples that activate some features most, each example at the position where it does so most.

    Data are gone through once; of all codes only the best so far are held.

    Args:
        model: The model, read in evaluation mode and left as it was.
        layer: Name of the module that the autoencoder is of.
        autoencoder: The autoencoder.
        data: Anything `as_examples` takes, or inputs without labels.
        features: Which features: one, several, or an array or tensor of them.
        k: How many examples of each.
        memory_budget: Bytes that activations and codes of a batch may take.

    Returns:
        Variables ``example`` (id; -1 where no more examples activate the feature) and ``activation`` (the code, over
        the autoencoder's scale), dims ("feature", "rank"), largest first, the lower id first where equal; ``row`` and
        ``column`` of a convolution's map, ``position`` of a transformer's tokens.

    Raises:
        LabelError: If there is no such layer or feature.
        ArgumentError: If k is not from 1 to the number of examples, the model cannot be called with the data, the
            budget is no whole number above 0, or the autoencoder is none.
        ShapeError: If the layer is not as wide as the autoencoder.
        DataError: If the data cannot be read.
    """
    given: Any = features.tolist() if isinstance(features, Tensor | np.ndarray) else features
    chosen = list(given) if isinstance(given, Sequence) else [given]
    if not chosen:
        raise ArgumentError("`features` is empty: name at least one feature.")
    examples = read_examples(data, "predicted")
    if not is_whole(k) or not 1 <= k <= len(examples):
        raise ArgumentError(f"`k` is a number of examples, 1 to {len(examples)}; got {k!r}.")
    reader = Reader(model, layer, examples)
    best: tuple[Tensor, Tensor, Tensor] | None = None
    with torch.no_grad(), progress("top activating examples", len(examples)) as advance:
        for ids in reader.batches(bytes_of(reader, autoencoder), memory_budget):
            values, places = values_of(reader(ids), autoencoder, chosen, before=False).max(1)
            rows = torch.arange(ids.start, ids.stop, device=values.device).expand(len(chosen), -1)
            best = _best(best, (values.T, rows, places.T), k)
            advance(len(ids))
    if best is None:  # data are never empty
        raise ArgumentError("There are no examples.")
    axis = axis_of(reader.sample, autoencoder.channel_axis, autoencoder.width)
    return _labelled(best, chosen, layer, grid_of(reader.sample, axis))


def _best(
    held: tuple[Tensor, Tensor, Tensor] | None, found: tuple[Tensor, Tensor, Tensor], k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the k largest of values (features, examples) held and found, with their ids and places."""
    values, ids, places = found if held is None else (torch.cat(pair, 1) for pair in zip(held, found, strict=True))
    order = values.argsort(stable=True, dim=1, descending=True)[:, :k]
    return values.gather(1, order), ids.gather(1, order), places.gather(1, order)


def _labelled(
    best: tuple[Tensor, Tensor, Tensor], features: list[int], layer: str, grid: tuple[int, ...]
) -> xr.Dataset:
    values, ids, places = (one.cpu().numpy() for one in best)
    none, dims = values <= 0, ("feature", "rank")
    variables = {"example": (dims, np.where(none, -1, ids)), "activation": (dims, values)}
    names = _AXES.get(len(grid)) or tuple(f"axis_{number}" for number in range(len(grid)))
    size = math.prod(grid)
    for name, length in zip(names, grid, strict=True):
        size //= length
        variables[name] = (dims, np.where(none, -1, places // size % length))
    found = xr.Dataset(variables, {"feature": features, "rank": np.arange(1, values.shape[1] + 1)}, {"layer": layer})
    found["activation"].attrs["unit"] = "code, in units of the autoencoder's scale"
    return found
