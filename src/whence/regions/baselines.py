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
from whence.attribution import Trained, as_trained, check_layer
from whence.audit.chunks import outputs_on_one
from whence.audit.quantities import Numbers, as_quantity, evaluate
from whence.datasets import as_examples
from whence.regions.control import as_ids
from whence.regions.labelled import label_maps
from whence.runs import Run, cast_floating, to_device

_STEPS = 32  # of Integrated Gradients


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
    trained, inputs, value, chosen = _prepared(source, targets, ids, quantity, train_data, loss)
    check_layer(trained.model, layer)
    found = attr.LayerGradCam(value, trained.model.get_submodule(layer)).attribute(inputs, relu_attributions=True)
    if not isinstance(found, Tensor) or found.dim() != 4 or inputs.dim() != 4:
        raise ArgumentError(
            f"Grad-CAM needs images and a layer that gives (examples, channels, height, width); {layer!r} does not. "
            "Name a convolution, or a stage of them."
        )
    planes = F.interpolate(found.detach(), inputs.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return _labelled(planes, chosen, "Grad-CAM", f"positive = the {quantity_name(quantity)} rests on it")


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
    _, inputs, value, chosen = _prepared(source, targets, ids, quantity, train_data, loss)
    found = attr.IntegratedGradients(value).attribute(inputs, n_steps=_STEPS)
    sign = f"positive = the pixel raises the {quantity_name(quantity)}"
    return _labelled(found.detach(), chosen, "Integrated Gradients", sign)


def quantity_name(quantity: str | Numbers) -> str:
    """Return what a quantity is called."""
    return quantity if isinstance(quantity, str) else str(getattr(quantity, "__name__", type(quantity).__name__))


def _prepared(
    source: Run | Trained | nn.Module, targets: Any, ids: Sequence[int], quantity: str | Numbers, data: Any, loss: Any
) -> tuple[Trained, Tensor, Callable[[Tensor], Tensor], list[int]]:
    """Return the model, the targets' inputs, the quantity as a function of inputs, and the ids."""
    trained, examples = as_trained(source, data, loss=loss), as_examples(targets)
    chosen = as_ids(ids, "target", len(examples))
    outputs = outputs_on_one(trained.model, examples, torch.tensor(chosen))
    numbers = as_quantity(quantity, trained.loss, None, outputs).numbers[0]
    inputs, labels = to_device(examples.batch(chosen), trained.device)
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        raise ArgumentError("A map needs inputs that can be differentiated, one floating-point tensor an example.")
    kind = next(one.dtype for one in trained.model.parameters() if one.is_floating_point())
    labels = cast_floating(labels, kind)

    def value(some: Tensor) -> Tensor:
        times = len(some) // len(chosen)  # captum runs several steps of a path at once, step by step
        return evaluate(
            numbers, trained.model(some), pytree.tree_map(lambda one: torch.cat([one] * times), labels), len(some)
        )

    return trained, inputs.to(kind), value, chosen


def _labelled(values: Tensor, ids: list[int], method: str, sign: str) -> xr.DataArray:
    attrs = {"method": method, "sign": sign}
    return label_maps(values, {}, attrs, row="target").assign_coords(target=ids)
