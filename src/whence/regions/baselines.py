"""Maps of the target alone, to put beside region maps: Grad-CAM and Integrated Gradients, by captum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from whence._errors import ArgumentError
from whence._extras import require
from whence._numbers import even_parts
from whence._progress import progress
from whence.attribution import Trained, as_trained, check_layer
from whence.audit.chunks import outputs_on_one
from whence.audit.quantities import Numbers, as_quantity, evaluate
from whence.datasets import as_examples
from whence.regions.control import as_ids
from whence.regions.labelled import label_maps
from whence.runs import Run, cast_floating, to_device

_STEPS = 32  # of Integrated Gradients
_TOGETHER = 64  # inputs that go through the model at once


def grad_cam(
    source: Run | Trained | nn.Module,
    targets: Any,
    ids: Sequence[int],
    *,
    layer: str,
    quantity: str | Numbers = "logit",
    train_data: Any = None,
    loss: Any = None,
) -> xr.DataArray:
    """Map where targets show what their quantity rests on (Grad-CAM; Selvaraju et al., 2017, section 3).

    Needs the extra ``baselines``.

    Args:
        source: A recorded run, taken at its end; or a trained model with ``train_data`` and ``loss``.
        targets: Where the targets are: anything `as_examples` takes.
        ids: Which of them.
        layer: Name of a module whose output has shape (examples, channels, height, width).
        quantity: What is explained of a target, as in `whence.audit`.
        train_data, loss: With a model, its training data and loss.

    Returns:
        One map a target, dims ``("target", "height", "width")``, enlarged bilinearly to the input; 0 or more.

    Raises:
        ArgumentError: If an argument is outside what is listed.
        LabelError: If there is no such target or layer.
        MissingExtraError: If captum is not installed.
    """
    attr = require("captum.attr", "baselines")
    trained = as_trained(source, train_data, loss=loss)
    check_layer(trained.model, layer)

    def planes(value: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        found = attr.LayerGradCam(value, trained.model.get_submodule(layer)).attribute(inputs, relu_attributions=True)
        if not isinstance(found, Tensor) or found.dim() != 4 or inputs.dim() != 4:
            raise ArgumentError(
                f"Grad-CAM needs images and a layer that gives (examples, channels, height, width); {layer!r} does "
                "not. Name a convolution, or a stage of them."
            )
        return F.interpolate(found, inputs.shape[2:], mode="bilinear", align_corners=False)[:, 0]

    sign = f"positive = the {quantity_name(quantity)} rests on it"
    return _maps(trained, targets, ids, quantity, planes, {"method": "Grad-CAM", "sign": sign})


def integrated_gradients(
    source: Run | Trained | nn.Module,
    targets: Any,
    ids: Sequence[int],
    *,
    quantity: str | Numbers = "logit",
    train_data: Any = None,
    loss: Any = None,
) -> xr.DataArray:
    """Map how a target's pixels make up its quantity, from a zero input (Sundararajan et al., 2017, section 3).

    Needs the extra ``baselines``.

    Args:
        source: A recorded run, taken at its end; or a trained model with ``train_data`` and ``loss``.
        targets: Where the targets are: anything `as_examples` takes.
        ids: Which of them.
        quantity: What is explained of a target, as in `whence.audit`.
        train_data, loss: With a model, its training data and loss.

    Returns:
        One map a target, dims ``("target", "height", "width")`` for images, whose channels are summed; signed.

    Raises:
        ArgumentError: If an argument is outside what is listed.
        LabelError: If there is no such target.
        MissingExtraError: If captum is not installed.
    """
    attr = require("captum.attr", "baselines")
    trained = as_trained(source, train_data, loss=loss)

    def path(value: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        found: Tensor = attr.IntegratedGradients(value).attribute(
            inputs, n_steps=_STEPS, internal_batch_size=max(_TOGETHER, len(inputs))
        )
        return found

    sign = f"positive = the pixel raises the {quantity_name(quantity)}"
    return _maps(trained, targets, ids, quantity, path, {"method": "Integrated Gradients", "sign": sign})


def quantity_name(quantity: str | Numbers) -> str:
    """Return what a quantity is called."""
    return quantity if isinstance(quantity, str) else str(getattr(quantity, "__name__", type(quantity).__name__))


def _maps(
    trained: Trained,
    targets: Any,
    ids: Sequence[int],
    quantity: str | Numbers,
    mapped: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor],
    attrs: dict[str, str],
) -> xr.DataArray:
    """Return ``mapped(value, inputs)`` of the targets' inputs, some at a time; ``value`` is the quantity of inputs."""
    examples = as_examples(targets)
    chosen = as_ids(ids, "target", len(examples))
    outputs = outputs_on_one(trained.model, examples, torch.tensor(chosen))
    numbers = as_quantity(quantity, trained.loss, None, outputs).numbers[0]
    kind = next(one.dtype for one in trained.model.parameters() if one.is_floating_point())
    found = []
    with progress(attrs["method"], len(chosen)) as advance:
        for part in even_parts(range(len(chosen)), _TOGETHER):
            inputs, labels = to_device(examples.batch(chosen[part.start : part.stop]), trained.device)
            if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
                raise ArgumentError(
                    "A map needs inputs that can be differentiated, one floating-point tensor an example."
                )
            value = _of_inputs(trained.model, numbers, cast_floating(labels, kind), len(part))
            found.append(mapped(value, inputs.to(kind)).detach())
            advance(len(part))
    return label_maps(torch.cat(found), {}, attrs, row="target").assign_coords(target=chosen)


def _of_inputs(model: nn.Module, numbers: Numbers, labels: Any, count: int) -> Callable[[Tensor], Tensor]:
    """Return a quantity of the examples that have these labels, as a function of their inputs."""

    def value(some: Tensor) -> Tensor:
        times = len(some) // count  # captum runs several steps of a path at once, step by step
        several = pytree.tree_map(lambda one: torch.cat([one] * times), labels)
        return evaluate(numbers, model(some), several, len(some))

    return value
