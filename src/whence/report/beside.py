"""Maps of targets alone, by the names that a command line gives them: what stands beside region maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import xarray as xr
from torch import nn

from whence._errors import ArgumentError
from whence.attribution import Trained
from whence.datasets import Examples
from whence.regions import grad_cam, integrated_gradients

Map = Callable[[Trained, Examples, Sequence[int]], xr.DataArray]
GRAD_CAM, INTEGRATED = "grad-cam", "integrated-gradients"
TITLES = {GRAD_CAM: "Grad-CAM", INTEGRATED: "Integrated Gradients"}


def maps_beside(
    trained: Trained, targets: Examples, ids: Sequence[int], names: Sequence[str]
) -> dict[str, xr.DataArray]:
    """Map what the logit of targets rests on in the targets themselves, by captum (extra ``baselines``).

    Args:
        trained: The model.
        targets: Where the targets are.
        ids: Which of them.
        names: ``"grad-cam"``, at the model's last convolution, ``"grad-cam:LAYER"``, ``"integrated-gradients"``.

    Returns:
        A map of each target, by what it is called in pictures.

    Raises:
        ArgumentError: If there is no such map, or Grad-CAM has no convolution to look at.
        LabelError: If there is no such layer or target.
        MissingExtraError: If captum is not installed.
    """
    ways = [_way(one, trained.model) for one in names]
    return {title: make(trained, targets, ids) for title, make in ways}


def _way(name: str, model: nn.Module) -> tuple[str, Map]:
    kind, _, layer = name.partition(":")
    if kind == GRAD_CAM:
        return TITLES[kind], partial(grad_cam, layer=layer or last_convolution(model))
    if name == INTEGRATED:
        return TITLES[name], integrated_gradients
    raise ArgumentError(f"No map {name!r} to put beside. Choose {GRAD_CAM}, {GRAD_CAM}:LAYER or {INTEGRATED}.")


def has_convolution(model: nn.Module) -> bool:
    """Say whether Grad-CAM has a layer to look at by itself."""
    return any(isinstance(one, nn.Conv2d) for one in model.modules())


def last_convolution(model: nn.Module) -> str:
    """Return the name of the last convolution over images that a model has.

    Raises:
        ArgumentError: If it has none.
    """
    found: list[str] = [name for name, one in model.named_modules() if isinstance(one, nn.Conv2d)]
    if not found:
        raise ArgumentError(
            f"Grad-CAM looks at a convolution, and this {type(model).__name__} has no Conv2d. Name a layer that gives "
            f"(examples, channels, height, width), as in {GRAD_CAM}:LAYER, or take {INTEGRATED}."
        )
    return found[-1]
