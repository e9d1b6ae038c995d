"""The layer variant: where in a layer's activations two examples' gradients agree (TFA, appendix D.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from whence._errors import ArgumentError
from whence._numbers import even_parts
from whence._progress import progress
from whence.attribution import GradCos, GradDot, Trained, as_trained, check_layer
from whence.audit.chunks import outputs_on_one
from whence.audit.quantities import as_quantity, evaluate
from whence.datasets import Examples, as_examples, call_model
from whence.regions.labelled import label_maps
from whence.regions.pairs import Pairs, as_pairs
from whence.regions.surface import Entry, inputs_of
from whence.runs import Run, cast_floating, to_device

_TOGETHER = 64  # pairs whose gradients are held at once

Numbers = Callable[[Any, Any], Tensor]


def layer_map(
    source: Run | Trained | nn.Module,
    targets: Any,
    pairs: Pairs,
    *,
    layer: str,
    score: GradDot | GradCos = GradCos("loss"),  # noqa: B008  (frozen)
    entry: Entry = None,
    train_data: Any = None,
    loss: Any = None,
) -> xr.DataArray:
    """Map where, in a layer's activations, the gradients of training example and target agree (TFA, appendix D.1).

    At activations A of shape (channels, height, width) the map is the mean over channels of G_m · G_n, with G_m the
    gradient of the training loss and G_n that of what the target gains, both with respect to A; as a cosine, both have
    length 1. It is enlarged bilinearly to the input. Positions are compared one by one, so an object that stands
    elsewhere in the two images is missed; `region_map` has no such limit.

    Args:
        source: A recorded run, taken at its end; or a trained model with ``train_data`` and ``loss``.
        targets: Where the targets are: anything `as_examples` takes.
        pairs: (target id, training id) each, as `top_pairs` gives.
        layer: Name of a module whose output has shape (examples, channels, height, width).
        score: `GradCos` or `GradDot`, for its quantity; its ``layers`` are not used.
        entry: Which of several inputs is the image that the layer's planes are enlarged to, as in `region_map`.
        train_data, loss: With a model, its training data and loss.

    Returns:
        One map a pair, dims ``("pair", "height", "width")``; positive where they agree. ``score`` is the sum before
        it is enlarged, times the channels: the inner product or cosine of both gradients.

    Raises:
        ArgumentError: If an argument is outside what is listed, or the layer's output has another shape.
        LabelError: If there is no such target, training example, layer or entry.
    """
    if not isinstance(score, GradDot | GradCos):
        raise ArgumentError(f"`score` is GradDot(...) or GradCos(...); got {score!r}.")
    trained, examples = as_trained(source, train_data, loss=loss), as_examples(targets)
    check_layer(trained.model, layer)
    chosen = as_pairs(pairs, len(examples), len(trained.examples))
    quantity = as_quantity(
        score.quantity, trained.loss, None, outputs_on_one(trained.model, examples, torch.tensor(chosen[:1, 0]))
    )
    size = inputs_of(trained, [0], entry)[0].shape[2:]
    if len(size) != 2:
        raise ArgumentError(f"A layer map needs images, (channels, height, width); inputs have {len(size) + 1} axes.")
    planes, scores = [], []
    with progress("gradients at the layer", len(chosen)) as advance:
        for part in even_parts(range(len(chosen)), _TOGETHER):
            few = chosen[part.start : part.stop]
            theirs = -quantity.helps * _gradients(trained, examples, few[:, 0], layer, quantity.numbers[0])
            ours = _gradients(trained, trained.examples, few[:, 1], layer, trained.loss.per_example)
            if isinstance(score, GradCos):
                ours, theirs = _of_length_one(ours), _of_length_one(theirs)
            product = ours * theirs
            means = product.mean(1, keepdim=True)
            planes.append(F.interpolate(means, size, mode="bilinear", align_corners=False)[:, 0])
            scores.append(product.flatten(1).sum(1))
            advance(len(few))
    unit = "cosine" if isinstance(score, GradCos) else f"{quantity.unit} per unit of step in the activations"
    coords = {"target": chosen[:, 0], "train": chosen[:, 1], "score": torch.cat(scores).cpu().numpy()}
    sign = "positive = the gradients agree here: the example helps the target"
    attrs = {"unit": f"{unit}, per channel", "sign": sign, "quantity": quantity.name, "layer": layer}
    return label_maps(torch.cat(planes), coords, attrs)


def _gradients(
    trained: Trained, examples: Examples, ids: NDArray[np.int64], layer: str, numbers: Numbers
) -> Float[Tensor, "examples channels height width"]:
    """Return the gradients of one number per example with respect to the layer's output, ids that recur passed once.

    Raises:
        ArgumentError: If the layer's output is no stack of planes, or the layer is not called once.
    """
    kind = next(one.dtype for one in trained.model.parameters() if one.is_floating_point())
    different, places = np.unique(ids, return_inverse=True)
    inputs, labels = to_device(examples.batch(different.tolist()), trained.device)
    with torch.enable_grad(), _outputs_of(trained.model, layer) as seen:
        outputs = call_model(trained.model, cast_floating(inputs, kind))
        values = evaluate(numbers, outputs, cast_floating(labels, kind), len(different))
        if len(seen) != 1 or not isinstance(seen[0], Tensor) or seen[0].dim() != 4:
            given = ", ".join(str(tuple(one.shape)) if isinstance(one, Tensor) else repr(type(one)) for one in seen)
            raise ArgumentError(
                f"Layer {layer!r} must give one output of shape (examples, channels, height, width) a pass; it "
                f"gives {given or 'none'}. Name a convolution, or a stage of them."
            )
        (gradient,) = torch.autograd.grad(values.sum(), seen[0], materialize_grads=True, allow_unused=True)
    return gradient.detach()[torch.from_numpy(places).to(gradient.device)]


@contextmanager
def _outputs_of(model: nn.Module, layer: str) -> Iterator[list[Any]]:
    """Collect what a module gives while the block runs, as something that has a gradient."""
    seen: list[Any] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        kept = output.requires_grad_() if isinstance(output, Tensor) and not output.requires_grad else output
        seen.append(kept)
        return kept.clone() if isinstance(kept, Tensor) else kept  # layers after it may work in place

    handle = model.get_submodule(layer).register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


def _of_length_one(gradients: Tensor) -> Tensor:
    length = gradients.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
    return gradients / torch.where(length > 0, length, 1)
