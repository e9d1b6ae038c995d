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
from whence.gradients import PerExample
from whence.kernel.features import Features
from whence.kernel.moments import Moment, end_of, learning_rates, states
from whence.kernel.parameters import Layers
from whence.kernel.question import Subject, Times, chosen, subject
from whence.runs import Run, size


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
    found = torch.empty(len(looked_at.steps), len(rows), looked_at.parameters, dtype=looked_at.dtype)
    for place, moment in enumerate(states(run, looked_at.steps, learning_rates)):
        _write(found[place], features, moment, range(len(rows)), looked_at)
    live = dict(looked_at.trained.model.named_parameters())
    entries = [f"{name}[{entry}]" for name in looked_at.names for entry in range(live[name].numel())]
    coordinates = {"time": list(looked_at.steps), "example": rows, "parameter": np.array(entries, dtype=object)}
    attrs = {"unit": "change of the parameter by a step on the example alone, sign turned"}
    return xr.DataArray(found.numpy(), coordinates, ("time", "example", "parameter"), "gradient", attrs)


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

    The tensor is formed for a few examples at a time only; the states themselves are held besides, all of them, and
    count to the budget. Its eigenvalues are the weights of temporal modes (A.7
    there); `participation_ratio` says how many count.

    Args:
        run: The recorded run.
        examples: Anything `as_examples` takes.
        times: As in `gradient_tensor`.
        layers: As in `path_kernel`.
        labels: As in `path_kernel`.
        ids: Which of the examples; all by default.
        precision: ``"float32"`` or ``"float64"``; None takes the run's own. Sums over blocks of
            examples are in float64.
        memory_budget: Bytes that may be held besides model and data.

    Returns:
        Dims ("time", "other_time"), symmetric.

    Raises:
        ArgumentError: If an argument is outside what is listed, examples have no labels, or the states and one example
            do not fit.
        LabelError: If there is no layer of a name.
        DataError: If the data is of a kind that cannot be read.
        ReplayError: If the run does not replay.
    """
    looked_at = subject(run, times, False, layers, precision, memory_budget)
    rows, data = chosen(looked_at.trained, examples, ids, labels)
    features = looked_at.features(data, rows)
    total = _time_products(looked_at, features, _rows_at_once(looked_at, features, memory_budget))
    steps = list(looked_at.steps)
    values = ((total + total.T) / 2).cpu().numpy()
    attrs = {"unit": "sum over examples of products of gradients, rates included"}
    return xr.DataArray(values, {"time": steps, "other_time": steps}, ("time", "other_time"), "time kernel", attrs)


def _time_products(looked_at: Subject, features: Features, block: int) -> Float[Tensor, "times times"]:
    moments, count = list(states(looked_at.run, looked_at.steps, learning_rates)), len(features.ids)
    total = torch.zeros(len(moments), len(moments), dtype=torch.float64, device=looked_at.trained.device)
    with progress("comparing times", count * len(moments)) as advance:
        for part in even_parts(range(count), block):
            shape = (len(moments), len(part), looked_at.parameters)
            found = torch.empty(shape, dtype=looked_at.dtype, device=total.device)
            for place, moment in enumerate(moments):
                _write(found[place], features, moment, part, looked_at)
                advance(len(part))
            flat = found.flatten(1)
            total += (flat @ flat.T).double()
            del found, flat  # before the next are made
    return total


def _write(
    into: Float[Tensor, "examples parameters"],
    features: Features,
    moment: Moment,
    part: range,
    looked_at: Subject,
) -> None:
    """Write out the weighed gradients of some examples."""
    live = dict(looked_at.trained.model.named_parameters())
    for here, gradients in features.blocks(moment, part, len(part)):
        rows, start = slice(here.start - part.start, here.stop - part.start), 0
        for name in looked_at.names:
            stop = start + live[name].numel()
            _put(into[rows, start:stop], gradients.get(name), moment.scales.get(name, 1.0))
            start = stop


def _put(into: Tensor, gradient: PerExample | None, scale: float | Tensor) -> None:
    if gradient is None:
        into.zero_()
    else:
        into.copy_(gradient.part(0, gradient.shape[0]))
        into.mul_(scale)


def _refuse_too_large(looked_at: Subject, examples: int, memory_budget: int) -> None:
    """Refuse a tensor that memory is not meant to hold.

    Raises:
        ArgumentError: If it is larger than the budget.
    """
    each = len(looked_at.steps) * looked_at.parameters * looked_at.dtype.itemsize
    if examples * each > memory_budget:
        fitting = memory_budget // each
        times = memory_budget // (looked_at.parameters * looked_at.dtype.itemsize * examples)
        held = [f"{fitting} examples at these times"] if fitting else []
        held += [f"these at {times} times"] if times else []
        holds = ", or ".join(held) or "none of these examples at these times, nor all of them at one"
        raise ArgumentError(
            f"The gradients of {examples} examples at {len(looked_at.steps)} times, of {looked_at.parameters} "
            f"parameters, take {examples * each:,} bytes, more than the memory budget of {memory_budget:,}. It holds "
            f"{holds}: choose `ids`, `times` or `layers`, or raise `memory_budget`."
        )


def _rows_at_once(looked_at: Subject, features: Features, memory_budget: int) -> int:
    """Return of how many examples the gradients at all times fit, beside the states and those on their way.

    Raises:
        ArgumentError: If those of one do not.
    """
    last, times = end_of(looked_at.trained), len(looked_at.steps)
    state = size([*last.parameters.values(), *last.buffers.values()])
    written = looked_at.parameters * looked_at.dtype.itemsize
    passing = 2 * written + features.measure(last)[0]  # of an example at one time, written out and kept as factors
    free = memory_budget - times * state
    if free < times * written + passing:
        most = max(0, (memory_budget - passing) // (state + written))
        raise ArgumentError(
            f"To compare {times} times takes {times * state:,} bytes for the states and at least "
            f"{times * written + passing:,} for the gradients of one example, of {looked_at.parameters} parameters: "
            f"more than the memory budget of {memory_budget:,}, which holds {most} times. Choose `times` or `layers`, "
            "or raise `memory_budget`."
        )
    return free // (times * written + passing)
