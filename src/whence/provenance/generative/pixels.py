"""The control for exemplars: the training pictures that are nearest in pixels, which no network was asked for."""

from __future__ import annotations

from typing import Any

import torch
import xarray as xr
from torch import Tensor

from whence._errors import ArgumentError
from whence.datasets import as_examples
from whence.provenance.generative.checks import Shape, check_pictures, whole

_AT_ONCE = 512  # training pictures


def nearest_in_pixels(generated: xr.Dataset, data: Any, k: int = 5) -> xr.Dataset:
    """Return the training pictures at the smallest Euclidean distance from generated ones.

    Where a network's exemplars are not nearer, in any sense a reader can see, than these, it has told nothing that the
    pixels do not.

    Args:
        generated: Of `generate`, or anything with ``picture`` ("sample", "channel", "height", "width").
        data: The training data: anything `as_examples` takes.
        k: How many for each.

    Returns:
        ``train``, their ids, and ``distance``, dims ("sample", "rank"), the nearest first; of equals the first.

    Raises:
        ArgumentError: If ``k`` is not a whole number from 1 to the number of training examples.
        DataError: If training pictures cannot be read, or are not from 0 to 1.
        ShapeError: If they are of another shape than the generated ones.
    """
    examples, most = as_examples(data), whole("k", k, 1)
    if most > len(examples):
        raise ArgumentError(f"`k`, {most}, is more than the {len(examples)} training examples. Ask for fewer.")
    pictures = torch.from_numpy(generated["picture"].values)
    shape: Shape = (pictures.shape[1], pictures.shape[2], pictures.shape[3])
    own = pictures.flatten(1).to(torch.float64)
    distances = own.new_empty(len(own), 0)
    ids = torch.empty(len(own), 0, dtype=torch.int64)
    for rows in torch.arange(len(examples)).split(_AT_ONCE):
        known = check_pictures(examples.batch(rows)[0], shape, rows)
        distances = torch.cat([distances, _distances(own, known)], 1)
        ids = torch.cat([ids, rows.expand(len(own), -1)], 1)
        order = torch.argsort(distances, dim=1, stable=True)[:, :most]
        distances, ids = distances.gather(1, order), ids.gather(1, order)
    values = {"train": ids, "distance": distances}
    return xr.Dataset(
        {name: (("sample", "rank"), one.numpy()) for name, one in values.items()}, attrs={"unit": "Euclidean distance"}
    )


def _distances(own: Tensor, known: Tensor) -> Tensor:
    return torch.cdist(own, known.flatten(1).cpu().to(own.dtype), compute_mode="donot_use_mm_for_euclid_dist")
