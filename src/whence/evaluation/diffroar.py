"""DiffROAR: train again on the pixels that maps put first, and on those they put last; and blocks to try it on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from whence._errors import ArgumentError
from whence._files import checksum
from whence._numbers import check_seed
from whence._processes import kept_arrays
from whence._statistics import student_interval
from whence.audit.identity import identity_of
from whence.datasets import Examples, as_examples
from whence.evaluation.inputs import accuracy, as_count, as_images, as_maps, as_percents, check_pictures, named
from whence.evaluation.masks import masked, random_maps, top_pixels
from whence.evaluation.table import Table, table_of
from whence.evaluation.truth import checked_model

KEEP = (5, 10, 20, 40, 60)
_RANDOM = "random pixels"


@final
@dataclass(frozen=True)
class Blocks:
    """Images of two blocks one above the other, of which one is a digit and the other says nothing (BlockMNIST).

    Attributes:
        inputs: (images, channels, 2 × height, width).
        labels: Class of the digit.
        inside: Which pixels are the digit's, (images, 2 × height, width).
    """

    inputs: Float[Tensor, "images channels height width"]
    labels: Int[Tensor, " images"]
    inside: Bool[np.ndarray, "images height width"]


def block_digits(
    images: Float[Tensor, "images channels height width"], labels: Int[Tensor, " images"], *, seed: int = 0
) -> Blocks:
    """Put each image above or below a null block, a random half each (Shah et al., 2021, section 5).

    The null block is a cross in a frame, the same in all images, between their least and largest value.

    Args:
        images: Single images.
        labels: Their classes.
        seed: Decides which block is above.

    Raises:
        ShapeError: If these are no images, or none.
        ArgumentError: If the seed is none.
    """
    check_pictures(images)
    check_seed(seed)
    height, width = images.shape[2:]
    null = torch.full(images.shape[1:], float(images.min()), dtype=images.dtype)
    rows, columns = torch.arange(height).reshape(-1, 1), torch.arange(width)
    cross = (rows * width // height == columns) | ((height - 1 - rows) * width // height == columns)
    null[:, cross] = float(images.max())
    for edge in (0, -1):
        null[:, edge], null[:, :, edge] = float(images.max()), float(images.max())
    above = torch.from_numpy(np.random.default_rng(seed).random(len(images)) < 0.5)
    nulls, first = null.expand(images.shape), above.reshape(-1, 1, 1, 1)
    inputs = torch.cat([torch.where(first, images, nulls), torch.where(first, nulls, images)], 2)
    top = np.arange(2 * height) < height
    inside = np.where(above.numpy()[:, None], top, ~top)[:, :, None].repeat(width, 2)
    return Blocks(inputs, labels, inside)


def diffroar(
    train: Callable[[Tensor, Tensor, int], nn.Module],
    data: Any,
    test: Any,
    maps: Mapping[str, Any],
    *,
    keep: Sequence[float] = KEEP,
    seeds: int = 3,
    processes: int | None = None,
    path: str | Path | None = None,
) -> Table:
    """Compare networks trained on images with only their top, or only their bottom pixels left (Shah et al., 2021).

    Training and test images are masked alike, and what is removed becomes the training mean. Maps that order pixels by
    what a network can use give a positive difference; gradients of standard networks are known for a negative one.

    Args:
        train: Given images, labels and a seed, trains a new network.
        data, test: Training and test images: anything `as_examples` takes.
        maps: For each kind, the maps of all training images and of all test images, (images, height, width) each.
        keep: Percent of the pixels that are left.
        seeds: How many networks to train for each.
        processes: How many to train at once, each forked and on one thread, sharing the data until it is
            changed. None is all usable cores on Linux without a GPU, else one.
        path: A folder in which to keep each result as it is found: a call that was interrupted goes on there. Results
            are told apart by all arguments and by the code of ``train``, but not by what it calls or reads by name.

    Returns:
        A row each of ``keep``, a column a kind of map and one of random pixels (0 but for noise): accuracy with the top
        pixels less accuracy with the bottom ones, mean over seeds, with Student's interval over seeds.

    Raises:
        ArgumentError: If a percentage or number is none, maps are not finite or named as the control, or ``train``
            gives no network.
        ShapeError: If images or maps have another shape.
        DataError: If the data, or files of ``path``, cannot be read.
        DiskError: If the disk is full or refuses to write.
    """
    parts, many = (as_examples(data), as_examples(test)), as_count(seeds, "seeds")
    keep = as_percents(keep, "keep")
    images = [as_images(one) for one in parts]
    kinds = _kinds(maps, images)
    fill = images[0][0].mean(0)
    jobs = [
        (name, percent, best, seed)
        for percent in keep
        for name in kinds
        for seed in range(many)
        for best in (True, False)
    ]

    def make(place: int) -> NDArray[np.float64]:
        name, percent, best, seed = jobs[place]
        left = [masked(one[0], _kept(part, percent, best), fill) for one, part in zip(images, kinds[name], strict=True)]
        model = checked_model(train(left[0], images[0][1], seed))
        return accuracy(model, left[1], images[1][1])

    found = kept_arrays(
        make,
        _keys(identity_of(train), parts, kinds, jobs),
        folder=None if path is None else Path(path),
        processes=processes,
        description="training on parts of images",
    )
    values = np.concatenate(found).reshape(len(keep), len(kinds), many, 2)
    return table_of(
        [[student_interval(one[:, 0] - one[:, 1]) for one in row] for row in values],
        ("percent kept", list(keep)),
        ("map", list(kinds)),
        title=f"DiffROAR, {many} seed{'' if many == 1 else 's'}",
        measure="accuracy with the top pixels less that with the bottom ones",
        interval="over seeds",
        references={"no order": 0.0},
    )


def _kinds(maps: Mapping[str, Any], images: list[tuple[Tensor, Tensor]]) -> dict[str, list[NDArray[Any]]]:
    shapes = [(len(one[0]), int(one[0].shape[2]), int(one[0].shape[3])) for one in images]
    given = named(maps, "map")
    if _RANDOM in given:
        raise ArgumentError(f"{_RANDOM!r} is the name of the control. Give your map another name.")
    for name, pair in given.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ArgumentError(f"Maps {name!r} must be two arrays: of all training images, and of all test images.")
    read = {
        name: [as_maps(one, shape[0], shape[1:]) for one, shape in zip(pair, shapes, strict=True)]
        for name, pair in given.items()
    }
    return {**read, _RANDOM: [random_maps(shape, place) for place, shape in enumerate(shapes)]}


def _kept(maps: NDArray[Any], percent: float, best: bool) -> NDArray[np.bool_]:
    return top_pixels(maps if best else -maps, percent)


def _keys(train: str, parts: tuple[Examples, ...], kinds: dict[str, list[NDArray[Any]]], jobs: list[Any]) -> list[str]:
    data = [one.fingerprint for one in parts]
    sums = {name: [checksum(np.ascontiguousarray(one).tobytes()) for one in pair] for name, pair in kinds.items()}
    return [checksum(f"diffroar {train} {data} {sums[name]} {rest}".encode()) for name, *rest in jobs]
