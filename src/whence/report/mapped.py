"""Region maps of the images at both ends of a target's list."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import xarray as xr

from whence._errors import ArgumentError
from whence._extras import installed
from whence.attribution import Trained
from whence.datasets import Examples
from whence.regions import overlay, own_saliency, region_map
from whence.report.beside import GRAD_CAM, INTEGRATED, has_convolution, maps_beside
from whence.report.explain import Explanation
from whence.report.listed import Listed
from whence.report.maps import Mapped
from whence.report.pictures import png

_SIDE = 64  # pixels of a picture with its map, at most


def with_regions(
    trained: Trained, targets: Examples, explanations: tuple[Explanation, ...], count: int
) -> tuple[Explanation, ...]:
    """Return explanations with region maps of the first images of the audit's helpful and harmful lists.

    Where captum is installed (extra ``baselines``), the targets too, with Integrated Gradients and, of models
    that have a convolution, Grad-CAM.

    Args:
        trained: The model.
        targets: Where the targets are.
        explanations: Of the targets.
        count: How many images at each end.

    Raises:
        ArgumentError: If the count is negative, or training examples are not images.
    """
    if count < 0:
        raise ArgumentError(f"`regions` is how many images to map at each end, at least 0; got {count}.")
    shown = [
        (place, listed)
        for place, one in enumerate(explanations)
        for ranking in one.rankings[:2]
        for listed in ranking.listed[:count]
    ]
    if not shown:
        return explanations
    if trained.examples.picture(shown[0][1].index) is None:
        raise ArgumentError(
            "Region maps are drawn over images, and these training examples are none. Leave `regions` out."
        )
    maps = region_map(trained, targets, [(explanations[place].index, listed.index) for place, listed in shown])
    train = sorted({listed.index for _, listed in shown})
    blind = dict(zip(train, own_saliency(trained, train), strict=True))
    found: dict[int, list[Mapped]] = {}
    for (place, listed), own in zip(shown, maps, strict=True):
        found.setdefault(place, []).append(_mapped(trained.examples, listed, own, blind[listed.index]))
    seen = _seen(trained, targets, [explanations[place].index for place in found]) if installed("captum") else {}
    return tuple(
        replace(one, mapped=tuple(found.get(place, ())), seen=seen.get(one.index, ()))
        for place, one in enumerate(explanations)
    )


def _seen(trained: Trained, targets: Examples, ids: list[int]) -> dict[int, tuple[tuple[str, str], ...]]:
    """Return the pictures of each target with what its logit rests on in itself."""
    names = [GRAD_CAM] if has_convolution(trained.model) else []
    maps = maps_beside(trained, targets, ids, [*names, INTEGRATED])
    pictures = {index: targets.picture(index) for index in ids}
    return {
        index: tuple((name, _drawn(picture, one.sel(target=index))) for name, one in maps.items())
        for index, picture in pictures.items()
        if picture is not None
    }


def _drawn(picture: np.ndarray, own: xr.DataArray) -> str:
    """Draw a map: on the page blue stands for help and orange for harm, and `overlay` draws what is above 0 orange."""
    return png(np.asarray(overlay(picture, -own, size=min(_SIDE, max(picture.shape[:2])))))


def _mapped(examples: Examples, listed: Listed, own: xr.DataArray, blind: xr.DataArray) -> Mapped:
    picture = examples.picture(listed.index)
    if picture is None:
        raise ArgumentError(f"Training example {listed.index} is no image. Leave `regions` out.")
    return Mapped(listed.index, listed.label, listed.helped, _drawn(picture, own), _drawn(picture, blind))
