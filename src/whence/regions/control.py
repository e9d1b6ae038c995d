"""The control that never saw the target: the training input's own saliency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import xarray as xr
from torch import Tensor, nn

from whence._errors import ArgumentError, LabelError
from whence._numbers import is_whole
from whence._progress import progress
from whence.attribution import Trained, as_trained
from whence.gradients import twice_differentiable
from whence.regions.accumulate import accumulate, setting
from whence.regions.labelled import label_maps
from whence.regions.maps import check_settings
from whence.regions.recipe import DEFAULT, Recipe
from whence.regions.surface import Entry, bytes_of_a_pass, inputs_of, surface_of
from whence.regions.work import shared_out
from whence.runs import Run

_PASSES = 3  # what a first derivative holds, as a multiple of what a forward pass keeps


def own_saliency(
    source: Run | Trained | nn.Module,
    train: Sequence[int],
    *,
    recipe: Recipe = DEFAULT,
    entry: Entry = None,
    train_data: Any = None,
    loss: Any = None,
    memory_budget: int = 2**29,
) -> xr.DataArray:
    """Map which parts of training inputs mattered for their own loss, as a control of `region_map`.

    The same way to a map, applied to minus the training loss of the example instead of a score: no target takes part.
    A region map that says no more than this says nothing about its target.

    Args:
        source: A recorded run, taken at its end; or a trained model with ``train_data`` and ``loss``.
        train: Ids of training examples.
        recipe: Map and smoothing; its score is not used.
        entry: Which of several inputs to map, as in `region_map`.
        train_data, loss: With a model, its training data and loss.
        memory_budget: Bytes to hold besides model, data and maps.

    Returns:
        One map an example, dims as of `region_map` with ``"train"`` for ``"pair"``. Positive where the input lowers the
        example's own loss; ``score`` is minus that loss.

    Raises:
        ArgumentError: If an argument is outside what is listed, or inputs cannot be differentiated.
        LabelError: If there is no such training example or entry.
    """
    check_settings(recipe, memory_budget)
    trained = as_trained(source, train_data, loss=loss)
    ids = as_ids(train, "training example", len(trained.examples))
    surface = surface_of(trained, (), entry)
    inputs, labels = inputs_of(trained, ids, entry)
    rows = max(1, memory_budget // 2 // (_PASSES * bytes_of_a_pass(surface, *inputs_of(trained, ids[:1], entry))))

    def gradients(points: Tensor, some: Any, _pair: Tensor) -> tuple[Tensor, Tensor]:
        at = points.detach().clone().requires_grad_()
        with torch.enable_grad(), twice_differentiable(trained.model):
            gained = -surface.together({}, at, some)
            return torch.autograd.grad(gained.sum(), at)[0], gained.detach()

    with progress("own saliency", len(ids)) as advance:
        maps = accumulate(inputs, labels, gradients, setting(recipe, trained, entry), rows, advance, shared_out(recipe))
    coords = {"score": maps.scores.cpu().numpy()}
    if maps.remainder is not None:
        coords["remainder"] = maps.remainder.cpu().numpy()
    sign = "positive = the input here lowers the example's own loss" if recipe.signed else "magnitude only"
    unit = "units of the example's loss" + ("" if recipe.map.shares else ", per unit of the input")
    attrs = {"unit": unit, "sign": sign, "quantity": "own loss", "recipe": repr(recipe)}
    return label_maps(maps.values, coords, attrs, row="train").assign_coords(train=ids)


def as_ids(given: Any, name: str, count: int) -> list[int]:
    """Return ids as a list, checked.

    Args:
        given: What a caller gave.
        name: What the ids are of, for the message.
        count: How many there are.

    Raises:
        ArgumentError: If these are not whole numbers, or none.
        LabelError: If one is out of range.
    """
    ids = list(given) if isinstance(given, Sequence | range) and not isinstance(given, str) else _listed(given)
    if not ids or not all(is_whole(one) for one in ids):
        raise ArgumentError(f"Ids of a {name} are whole numbers, at least one, such as [0, 17]; got {given!r}.")
    outside = [one for one in ids if not 0 <= one < count]
    if outside:
        raise LabelError(f"No {name} {outside[0]}: there are {count}, with ids 0 to {count - 1}.")
    return [int(one) for one in ids]


def _listed(given: Any) -> list[Any]:
    return list(given.tolist()) if hasattr(given, "tolist") and getattr(given, "ndim", 0) == 1 else []
