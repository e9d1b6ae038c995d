"""The gradient feature tensor of a run, time × example × parameter, and the kernel of its times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from whence._errors import ArgumentError
from whence._numbers import even_parts
from whence._progress import progress
from whence.datasets import Examples
from whence.gradients import PerExample
from whence.kernel.answers import Answered
from whence.kernel.features import Features
from whence.kernel.moments import Moment, learning_rates, states
from whence.kernel.parameters import Layers
from whence.kernel.question import Subject, Times, chosen, subject
from whence.runs import Run


def gradient_tensor(
    run: Run,
    examples: Any,
    *,
    times: Times = "epoch",
    layers: Layers = "all",
    labels: str = "given",
    ids: Sequence[int] | None = None,
    precision: str | None = None,
    memory_budget: int = 2**29,
) -> xr.DataArray:
    """Write out G[t, m, p] = η_t ∂L_m/∂θ_p at the states of a run (PLGK, section A.6.1).

    Its contractions, by name, are what the rest of this folder computes without forming it: summed over "time" and
    "parameter", products of two such tensors are the path kernel (weighed with η_t² in place of a preconditioner);
    over "example" and "parameter", the `time_kernel`; over "parameter" alone, with gradients of a target that have no
    rate, the share of each example in each step.

    Args:
        run: The recorded run.
        examples: Anything `as_examples` takes.
        times: As in `path_kernel`. η_t is the rate of the step that led to the state, of each parameter's group.
        layers: As in `path_kernel`.
        labels: As in `path_kernel`.
        ids: Which of the examples; all by default.
        precision: ``"float32"`` or ``"float64"``; None takes the run's own.
        memory_budget: Bytes the tensor may take.

    Returns:
        Dims ("time", "example", "parameter"); the coordinate ``parameter`` is ``"name[entry]"``, entries counted in the
        parameter flattened.

    Raises:
        ArgumentError: If an argument is outside what is listed, examples have no labels, or the tensor does not fit.
        LabelError: If there is no layer of a name.
        DataError: If the data is of a kind that cannot be read.
        ReplayError: If the run does not replay.
    """
    looked_at = subject(run, times, False, layers, precision, memory_budget)
    rows, data = chosen(looked_at.trained, examples, ids, labels)
    _refuse_too_large(looked_at, len(rows), memory_budget)
    features = looked_at.features(data, rows)
    found = np.stack(
        [
            _written(features, moment, range(len(rows)), looked_at).cpu().numpy()
            for moment in states(run, looked_at.steps, learning_rates)
        ]
    )
    live = dict(looked_at.trained.model.named_parameters())
    entries = [f"{name}[{entry}]" for name in looked_at.names for entry in range(live[name].numel())]
    coordinates = {"time": list(looked_at.steps), "example": rows, "parameter": np.array(entries, dtype=object)}
    attrs = {"unit": "change of the parameter by a step on the example alone, sign turned"}
    return xr.DataArray(found, coordinates, ("time", "example", "parameter"), "gradient", attrs)


def time_kernel(
    run: Run,
    examples: Any,
    *,
    times: Times = "epoch",
    layers: Layers = "all",
    labels: str = "given",
    ids: Sequence[int] | None = None,
    precision: str | None = None,
    memory_budget: int = 2**29,
) -> xr.DataArray:
    """Compare the states of a run by all gradients at each: K[t, t'] = Σ_mp G[t, m, p] G[t', m, p] (PLGK, A.6.3).

    The tensor is formed for a few examples at a time only. Its eigenvalues are the weights of temporal modes (A.7
    there); `participation_ratio` says how many count.

    Args:
        run: The recorded run.
        examples: Anything `as_examples` takes.
        times: As in `gradient_tensor`; the states themselves are held, as many numbers again as one example's tensor.
        layers: As in `path_kernel`.
        labels: As in `path_kernel`.
        ids: Which of the examples; all by default.
        precision: ``"float32"`` or ``"float64"``; None takes the run's own. Sums over blocks of
            examples are in float64.
        memory_budget: Bytes that may be held besides model and data.

    Returns:
        Dims ("time", "other_time"), symmetric.

    Raises:
        ArgumentError: If an argument is outside what is listed, examples have no labels, or one example does not fit.
        LabelError: If there is no layer of a name.
        DataError: If the data is of a kind that cannot be read.
        ReplayError: If the run does not replay.
    """
    looked_at = subject(run, times, False, layers, precision, memory_budget)
    rows, data = chosen(looked_at.trained, examples, ids, labels)
    block = _refuse_too_large(looked_at, 1, memory_budget)
    total = _time_products(looked_at, data, rows, block)
    steps = list(looked_at.steps)
    values = ((total + total.T) / 2).cpu().numpy()
    attrs = {"unit": "sum over examples of products of gradients, rates included"}
    return xr.DataArray(values, {"time": steps, "other_time": steps}, ("time", "other_time"), "time kernel", attrs)


def _time_products(
    looked_at: Subject, data: Examples | Answered, rows: list[int], block: int
) -> Float[Tensor, "times times"]:
    features = looked_at.features(data, rows)
    moments = list(states(looked_at.run, looked_at.steps, learning_rates))
    total = torch.zeros(len(moments), len(moments), dtype=torch.float64, device=looked_at.trained.device)
    with progress("comparing times", len(rows) * len(moments)) as advance:
        for part in even_parts(range(len(rows)), block):
            flat = torch.empty(
                len(moments), len(part) * looked_at.parameters, dtype=looked_at.dtype, device=total.device
            )
            for place, moment in enumerate(moments):
                flat[place] = _written(features, moment, part, looked_at).flatten()
                advance(len(part))
            total += (flat @ flat.T).double()
    return total


def _written(
    features: Features, moment: Moment, part: range, looked_at: Subject
) -> Float[Tensor, "examples parameters"]:
    """Return weighed gradients of some examples, written out."""
    live = dict(looked_at.trained.model.named_parameters())
    blocks = []
    for here, gradients in features.blocks(moment, part, len(part)):
        rows = [
            _flat(gradients.get(name), live[name], len(here)).to(looked_at.dtype) * moment.scales.get(name, 1.0)
            for name in looked_at.names
        ]
        blocks.append(torch.cat(rows, 1))
    return torch.cat(blocks)


def _flat(gradient: PerExample | None, like: Tensor, rows: int) -> Tensor:
    return like.new_zeros(rows, like.numel()) if gradient is None else gradient.part(0, gradient.shape[0])


def _refuse_too_large(looked_at: Subject, examples: int, memory_budget: int) -> int:
    """Return how many examples' tensors fit half the budget.

    Raises:
        ArgumentError: If so many do not fit the budget.
    """
    each = len(looked_at.steps) * looked_at.parameters * looked_at.dtype.itemsize
    if examples * each > memory_budget:
        fitting = memory_budget // each
        times = memory_budget // (looked_at.parameters * looked_at.dtype.itemsize * examples)
        raise ArgumentError(
            f"The gradients of {examples} examples at {len(looked_at.steps)} times, of {looked_at.parameters} "
            f"parameters, take {examples * each:,} bytes, more than the memory budget of {memory_budget:,}. It holds "
            f"{fitting} examples at these times, or these at {times} times: choose `ids`, `times` or `layers`, or "
            "raise `memory_budget`."
        )
    return max(1, memory_budget // 2 // each)
