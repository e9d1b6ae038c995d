"""A picture of each pair on disk: what the map shows, beside the control."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from PIL import Image

from whence._errors import ArgumentError, LabelError
from whence._files import make_folder, write_atomically
from whence.datasets import Examples, as_examples
from whence.regions.pictures import overlay, side_by_side


def draw_maps(
    maps: xr.DataArray,
    control: xr.DataArray,
    targets: Any,
    train_data: Any,
    folder: str | Path,
    *,
    beside: Mapping[str, xr.DataArray] | None = None,
) -> list[Path]:
    """Draw each region map over its training image, beside the target and beside the control that never saw it.

    Args:
        maps: Of `region_map`.
        control: Of `own_saliency`, with every training example of the maps.
        targets, train_data: The data that the ids are of: anything `as_examples` takes.
        folder: Where to write ``target-T-train-N.png`` for each pair; made if it is not there.
        beside: Maps of the targets by name, of `grad_cam` and `integrated_gradients`: drawn over the target, last.

    Returns:
        The files, one a pair, in the order of the maps.

    Raises:
        ArgumentError: If maps, control or a map beside them are something else, targets or training examples are no
            images, or ``folder`` is a file.
        LabelError: If the control lacks one of the training examples, or a map beside them one of the targets.
        DiskError: If the disk is full or refuses to write.
    """
    explained, known, place = as_examples(targets), as_examples(train_data), Path(folder)
    others = dict(beside or {})
    check_maps(maps, control)
    _check_beside(maps, others)
    make_folder(place)
    files = []
    for one in maps:
        target, train = int(one.coords["target"]), int(one.coords["train"])
        shown, image = picture_of(explained, target, "target"), picture_of(known, train, "training example")
        blind = control.sel(train=train)
        panels: dict[str, np.ndarray | Image.Image] = {
            f"target {target}": shown,
            f"training example {train}": image,
            "region map": overlay(image, one),
            "without the target": overlay(image, blind),
            **{name: overlay(shown, one.sel(target=target)) for name, one in others.items()},
        }
        files.append(place / f"target-{target}-train-{train}.png")
        write_atomically(files[-1], _png(side_by_side(panels)))
    return files


def check_maps(maps: Any, control: Any) -> None:
    """Refuse what are no maps of pairs, and a control without all of their training examples.

    Args:
        maps, control: As `draw_maps` takes them.

    Raises:
        ArgumentError: If one of them is something else.
        LabelError: If a training example is missing.
    """
    for name, one, first, maker in (
        ("maps", maps, "pair", "region_map"),
        ("control", control, "train", "own_saliency"),
    ):
        if not isinstance(one, xr.DataArray) or first not in one.dims:
            given = f"dims {one.dims}" if isinstance(one, xr.DataArray) else type(one).__name__
            raise ArgumentError(f"`{name}` are those of whence.regions.{maker}, with the dim {first!r}; got {given}.")
    missing = sorted(set(maps.coords["train"].values.tolist()) - set(control.coords["train"].values.tolist()))
    if missing:
        raise LabelError(
            f"The control has no training example {missing[0]}. Make it of every one in the maps: own_saliency(source, "
            'sorted(set(maps["train"].values.tolist()))).'
        )


def _check_beside(maps: xr.DataArray, beside: Mapping[str, Any]) -> None:
    for name, one in beside.items():
        if not isinstance(one, xr.DataArray) or "target" not in one.dims or "target" not in one.coords:
            given = (
                f"dims {one.dims} and coords {list(one.coords)}"
                if isinstance(one, xr.DataArray)
                else type(one).__name__
            )
            raise ArgumentError(
                f"The map {name!r} beside is none of targets: got {given}. Give one of grad_cam or "
                "integrated_gradients, with the dim 'target' and the targets' ids along it."
            )
        missing = sorted(set(maps.coords["target"].values.tolist()) - set(one.coords["target"].values.tolist()))
        if missing:
            raise LabelError(f"The map {name!r} beside has no target {missing[0]}. Map every target of the pairs.")


def picture_of(examples: Examples, index: int, what: str) -> np.ndarray:
    """Return an example as a picture.

    Args:
        examples: The data.
        index: Its id.
        what: What it is, for the message.

    Raises:
        ArgumentError: If it is no image.
    """
    found = examples.picture(index)
    if found is None:
        raise ArgumentError(f"Region maps are drawn over images, and the {what} {index} is none. Ask for no pictures.")
    return found


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
