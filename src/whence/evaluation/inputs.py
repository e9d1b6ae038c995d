"""What evaluations are given, read and checked in one place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from whence._errors import ArgumentError, ShapeError
from whence._numbers import even_parts, is_number, is_whole
from whence.datasets import Examples, call_model
from whence.runs import to_device

_ROWS = 512  # examples that go through a model at once, at most
_REMOVED = " if the example is removed"  # ends the unit of what whence.counterfactual gives


def as_help(scores: Any) -> Float[np.ndarray, "targets train"]:
    """Return scores so that positive = the example helped the target.

    Args:
        scores: Of an attributor, or what `whence.counterfactual` gives.

    Raises:
        ArgumentError: If these are no scores, or one is no finite number.
    """
    if not isinstance(scores, xr.DataArray):
        raise ArgumentError(
            f"Scores are a labelled array (xarray.DataArray) with the dims ('target', 'train'); got "
            f"{type(scores).__name__}. Take them from whence.attribution.attribute, or label them with "
            "whence.attribution.label."
        )
    if set(scores.dims) != {"target", "train"} or scores.attrs.get("helps") not in {1, -1}:
        raise ArgumentError(
            f"Scores need the dims ('target', 'train') and attrs['helps'], the sign of a help, 1 or -1; got dims "
            f"{scores.dims} and {scores.attrs.get('helps')!r}. Take them from whence.attribution.attribute, or label "
            "them with whence.attribution.label."
        )
    removal = "attributor" not in scores.attrs and str(scores.attrs.get("unit", "")).endswith(_REMOVED)
    sign = int(scores.attrs["helps"]) * (-1 if removal else 1)
    values: NDArray[np.floating] = scores.transpose("target", "train").values
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        target, train = (int(one) for one in wrong[0])
        raise ArgumentError(
            f"Scores must be finite numbers; {len(wrong)} of {values.size} are not, the first that of target {target} "
            f"and training example {train}, counted from 0. Look at these examples: an input or loss of theirs may be "
            "nan or infinite."
        )
    return values * sign


def named(given: Any, default: str) -> dict[str, Any]:
    """Return a mapping from names as it is, and one thing under its own name.

    Raises:
        ArgumentError: If the mapping is empty.
    """
    if isinstance(given, Mapping):
        if not given:
            raise ArgumentError("There is nothing to evaluate: the mapping is empty. Give at least one entry.")
        return {str(name): one for name, one in given.items()}
    own = given.attrs.get("attributor", default) if isinstance(given, xr.DataArray) else default
    return {str(own): given}


def as_maps(maps: Any, count: int | None = None, shape: tuple[int, int] | None = None) -> NDArray[np.float64]:
    """Return region maps as an array (pairs, height, width).

    Args:
        maps: An array, a tensor, or a labelled array as `whence.regions` gives it.
        count: How many there must be.
        shape: Height and width that they must have.

    Raises:
        ShapeError: If the shape is another.
        ArgumentError: If a value is no finite number.
    """
    values = np.asarray(maps.detach().cpu() if isinstance(maps, Tensor) else maps, dtype=np.float64)
    expected = ("pairs" if count is None else count, *(("height", "width") if shape is None else shape))
    if values.ndim != 3 or (count is not None and len(values) != count) or shape not in (None, values.shape[1:]):
        raise ShapeError(
            f"Maps need shape ({', '.join(map(str, expected))}), one a pair with its channels summed; "
            f"got {values.shape}."
        )
    if not np.isfinite(values).all():
        raise ArgumentError("Maps must be finite numbers; some are nan or infinite. Make them again.")
    return values


def as_images(examples: Examples, ids: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
    """Return examples as one tensor of images (examples, channels, height, width), and their labels.

    Args:
        examples: The data.
        ids: Which of it; all by default.

    Raises:
        ShapeError: If its inputs are no images.
    """
    inputs, labels = examples.batch(range(len(examples)) if ids is None else ids)
    check_pictures(inputs)
    return inputs, labels


def check_pictures(images: object) -> None:
    """Refuse what are no images, or none.

    Raises:
        ShapeError: If they are not a tensor (examples, channels, height, width) with an example.
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or not len(images):
        given = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ShapeError(f"Images of shape (examples, channels, height, width) are needed; these are {given}.")


def check_classes(labels: Any, count: int | None = None) -> None:
    """Refuse what are no class numbers.

    Args:
        labels: What was given.
        count: How many there must be.

    Raises:
        ArgumentError: If they are not a tensor of whole numbers from 0, at least one.
    """
    whole = isinstance(labels, Tensor) and labels.ndim == 1 and not labels.is_floating_point()
    if not whole or not len(labels) or len(labels) != (count or len(labels)) or bool((labels < 0).any()):
        given = f"{labels.dtype} of shape {tuple(labels.shape)}" if isinstance(labels, Tensor) else repr(type(labels))
        many = "" if count is None else f", {count} of them"
        raise ArgumentError(f"Classes are a tensor of whole numbers from 0, one an example{many}; got {given}.")


def as_count(value: Any, name: str, least: int = 1) -> int:
    """Return a whole number.

    Args:
        value: What was given.
        name: What the argument is called.
        least: The smallest that is accepted.

    Raises:
        ArgumentError: If it is none, or too small.
    """
    if not is_whole(value) or value < least:
        raise ArgumentError(f"`{name}` must be a whole number, at least {least}; got {value!r}.")
    return int(value)


def as_share(value: Any, name: str) -> float:
    """Return a share between 0 and 1, both excluded.

    Raises:
        ArgumentError: If it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ArgumentError(f"`{name}` must be a share between 0 and 1; got {value!r}.")
    return float(value)


def as_percents(values: Any, name: str) -> list[float]:
    """Return percentages, at least one, each 0 to 100.

    Raises:
        ArgumentError: If they are none.
    """
    found = list(values) if isinstance(values, Iterable) and not isinstance(values, str) else []
    if not found or not all(is_number(one) and 0 <= one <= 100 for one in found):
        raise ArgumentError(f"`{name}` are shares of the pixels, at least one, each 0 to 100 percent; got {values!r}.")
    return found


def correct(model: nn.Module, inputs: Any, labels: Tensor) -> NDArray[np.bool_]:
    """Return of which examples a model's largest output is that of the label; in evaluation mode.

    Raises:
        ShapeError: If the outputs are not (examples, classes).
    """
    was, device = model.training, next(iter(model.parameters()), labels).device
    model.eval()
    found = []
    with torch.no_grad():
        for part in even_parts(range(len(labels)), _ROWS):
            rows = slice(part.start, part.stop)
            some = to_device(pytree.tree_map(lambda one, rows=rows: one[rows], inputs), device)
            outputs = call_model(model, some)
            logits = getattr(outputs, "logits", outputs)
            if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
                given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
                raise ShapeError(f"An accuracy needs outputs of shape (examples, classes); the model gives {given}.")
            found.append((logits.argmax(1).cpu() == labels[rows].cpu()).numpy())
    model.train(was)
    return np.concatenate(found)


def accuracy(model: nn.Module, inputs: Any, labels: Tensor) -> Float[np.ndarray, "1"]:
    """Return the share of examples that a model gets right.

    Raises:
        ShapeError: If the outputs are not (examples, classes).
    """
    return np.array([correct(model, inputs, labels).mean(dtype=np.float64)])
