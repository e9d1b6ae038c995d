"""A compact form of the path kernel: random sketches of path features, whose inner products are right on average."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from whence._errors import ArgumentError
from whence._numbers import check_seed, is_whole
from whence._progress import Advance, progress
from whence.datasets import Examples
from whence.gradients import PerExample
from whence.kernel.answers import Answered
from whence.kernel.parameters import Layers
from whence.kernel.products import Gradients, inner_products
from whence.kernel.question import Subject, Times, chosen, subject
from whence.runs import Run

_MEASURED = 64  # examples of which products of sketches are compared with exact ones
_LEAST = 2**20  # bytes that a slab of written-out gradients may always take


def path_features(  # noqa: PLR0913 - each is a question of its own
    run: Run,
    examples: Any,
    width: int,
    *,
    times: Times = "epoch",
    preconditioner: bool = True,
    layers: Layers = "all",
    labels: str = "given",
    ids: Sequence[int] | None = None,
    seed: int = 0,
    precision: str | None = None,
    memory_budget: int = 2**29,
) -> xr.DataArray:
    """Sketch the path features of examples: short vectors whose inner products are those of `path_kernel` on average.

    The feature map of the kernel, √A_t g(t) of all states one after the other, has states × parameters entries. Each
    entry gets a random sign and a random one of ``width`` places, and the entries at a place are added up (count
    sketch: Charikar et al., 2002; feature hashing: Weinberger et al., 2009). That costs as much as reading the
    gradients. Signs and places are drawn anew for every parameter and state, so that products of different ones cancel
    on average. Within one, places are dealt out in turn along a random permutation of the entries, so that each gets as
    many as any other. Over seeds, an inner product ⟨x, y⟩ is right on average, and its variance is at most
    (‖x‖² ‖y‖² + ⟨x, y⟩²) / width.

    A search among many examples is then a matrix product of two of these, or, of rows divided by their norms, a look-up
    in an index of vectors such as faiss's flat one (`whence.attribution.FlatIndex`):

        ``features @ features.rename(example="other")``

    Args:
        run: The recorded run.
        examples: Anything `as_examples` takes.
        width: Numbers an example.
        times: As in `path_kernel`.
        preconditioner: As in `path_kernel`.
        layers: As in `path_kernel`.
        labels: As in `path_kernel`.
        ids: Which of the examples; all by default.
        seed: Of signs and places. Sketches compare only with those of the same seed, width, times and layers.
        precision: ``"float32"`` or ``"float64"``; None takes the run's own.
        memory_budget: Bytes that may be held besides model, data and result.

    Returns:
        Dims ("example", "feature"). ``attrs["error"]`` and ``attrs["cosine_error"]`` are the root mean square errors of
        inner products and of cosines on up to 64 × 64 pairs of these examples, the former relative to the exact ones'
        root mean square.

    Raises:
        ArgumentError: If an argument is outside what is listed, examples have no labels, or memory does not hold the
            sketches.
        LabelError: If there is no layer of a name.
        DataError: If the data is of a kind that cannot be read.
        ReplayError: If the run does not replay.
    """
    if not is_whole(width) or width < 1:
        raise ArgumentError(f"`width` is how many numbers to keep of each example, at least 1; got {width!r}.")
    check_seed(seed)
    looked_at = subject(run, times, preconditioner, layers, precision, memory_budget)
    rows, data = chosen(looked_at.trained, examples, ids, labels)
    with progress("sketching", len(looked_at.steps) * len(rows)) as advance:
        found, exact = _sketches(looked_at, data, rows, (width, seed), memory_budget, advance)
    attrs = {**_errors(found, exact), "width": width, "seed": seed, "times": list(looked_at.steps)}
    values = found.cpu().numpy()
    coordinates = {"example": np.asarray(rows), "feature": np.arange(width)}
    return xr.DataArray(values, coordinates, ("example", "feature"), "path features", attrs)


def _sketches(
    looked_at: Subject,
    data: Examples | Answered,
    rows: list[int],
    form: tuple[int, int],
    memory_budget: int,
    advance: Advance,
) -> tuple[Float[Tensor, "examples width"], Float[Tensor, "some some"]]:
    """Return the sketches of examples, and exact products of the first few."""
    features, (width, seed) = looked_at.features(data, rows), form
    found = _empty(looked_at, len(rows), width)
    few = min(_MEASURED, len(rows))
    exact = found.new_zeros(few, few)
    for step, moment in zip(looked_at.steps, looked_at.moments(), strict=True):
        block = max(1, memory_budget // 8 // features.measure(moment)[0])
        for here, gradients in features.blocks(moment, range(len(rows)), block):
            for name, gradient in gradients.items():
                scale = moment.scales.get(name, 1.0)
                drawn = _Draw(gradient.shape, width, _seed(seed, step, name), scale, found)
                _add(found[here.start : here.stop], gradient, drawn, max(_LEAST, memory_budget // 8))
            advance(len(here))
        first: Gradients = features.exact(moment, few)
        exact += inner_products(first, first, moment.scales, max(_LEAST, memory_budget // 8))
    return found, exact


def _empty(looked_at: Subject, examples: int, width: int) -> Float[Tensor, "examples width"]:
    """Return room for the sketches.

    Raises:
        ArgumentError: If there is none.
    """
    try:
        return torch.zeros(examples, width, dtype=looked_at.dtype, device=looked_at.trained.device)
    except RuntimeError as error:  # torch has no type of its own for this on CPUs
        size = examples * width * looked_at.dtype.itemsize
        raise ArgumentError(
            f"Sketches of width {width:,} of {examples} examples take {size:,} bytes, and there is no room for them. "
            f"Give a smaller `width`, or fewer `ids`; the features themselves have {looked_at.parameters:,} entries a "
            "state."
        ) from error


class _Draw:
    """Signs and places of the entries of one parameter at one state, weights in them."""

    def __init__(self, shape: torch.Size, width: int, seed: int, scale: float | Tensor, like: Tensor) -> None:
        generator, entries = torch.Generator().manual_seed(seed), shape.numel()
        places = torch.randperm(entries, generator=generator)
        turned = torch.randint(width, (1,), generator=generator)  # the places that get one more are random too
        self.places = ((places + turned) % width).to(like.device)
        signs = torch.randint(0, 2, (entries,), generator=generator, dtype=torch.int8).to(like) * 2 - 1
        self.signs = signs * (scale.flatten().sqrt() if isinstance(scale, Tensor) else math.sqrt(scale))


def _add(total: Tensor, gradient: PerExample, drawn: _Draw, memory_budget: int) -> None:
    """Add the signed entries of a gradient at their places, in slabs of the parameter's rows."""
    rows, width = gradient.shape[0], gradient.shape[1:].numel()
    most = max(1, memory_budget // max(1, width * gradient.examples * total.itemsize))
    for start in range(0, rows, most):
        stop = min(start + most, rows)
        part = slice(start * width, stop * width)
        total.index_add_(1, drawn.places[part], gradient.part(start, stop) * drawn.signs[part])


def _seed(seed: int, step: int, name: str) -> int:
    return zlib.crc32(f"{seed} {step} {name}".encode())


def _errors(found: Tensor, exact: Tensor) -> dict[str, float]:
    """Return how far products and cosines of the first sketches are from exact ones."""
    few = found[: len(exact)].double()
    products, true = few @ few.T, exact.double()
    cosines = [_cosines(products), _cosines(true)]
    size = float(true.norm())
    return {
        "error": float((products - true).norm()) / size if size > 0 else 0.0,
        "cosine_error": float((cosines[0] - cosines[1]).square().mean().sqrt()),
    }


def _cosines(products: Tensor) -> Tensor:
    norms = products.diagonal().clamp(min=0).sqrt()
    both = norms[:, None] * norms
    return torch.where(both > 0, products / both, 0.0)
