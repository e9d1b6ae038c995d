"""How far a training has come to fixed features and gradients: the kernel regime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from whence._errors import ArgumentError
from whence._numbers import check_budget, check_seed, even_parts, random_ids
from whence._progress import progress
from whence.audit.chunks import chosen_ids
from whence.kernel import Trained, at_step, modes, parameters_of
from whence.kernel.matrix import GradientMatrix
from whence.kernel.moments import ends_of_epochs, steps_of, trained_at
from whence.kernel.representations import activations
from whence.runs import Run, check_run, to_device

_EXAMPLES = 512  # taken by default; and that go through the model at once


def kernel_regime(
    run: Run,
    *,
    times: Sequence[int] | None = None,
    ids: Sequence[int] | None = None,
    rank: int = 10,
    seed: int = 0,
    memory_budget: int = 2**29,
) -> xr.Dataset:
    """Compare states of a run with its end by three measures that are 1 in the kernel regime (PLGK, section 6.3).

    ``gradients``: cosine of an example's loss gradient then and at the end, averaged over training examples.
    ``subspace``: mean cosine of the principal angles between the spans of the first ``rank`` modes then and at the end.
    ``activations``: cosine of what the last layer gets then and at the end, averaged over training examples.

    Args:
        run: The recorded run.
        times: The states, after so many steps; the start and the end of every epoch if left out.
        ids: Training examples to take; 512 of them, drawn at random, if left out.
        rank: How many modes span the subspaces.
        seed: Of the draw and of the modes.
        memory_budget: Bytes that gradients may take.

    Returns:
        The three variables, dims ``("time",)``.

    Raises:
        ArgumentError: If there are no such times, ids or so many modes, or the run has no step.
        GradientError: If per-example gradients of the model cannot be formed.
    """
    check_run(run, "A kernel regime")
    check_seed(seed)
    check_budget(memory_budget)
    if run.steps == 0:
        raise ArgumentError(f"The run at {run.path} has no step, so it is in no regime.")
    steps = [0, *ends_of_epochs(run)] if times is None else list(steps_of(run, times, name="times", least=0))
    count = len(run.examples)
    chosen = random_ids(count, min(count, _EXAMPLES), seed) if ids is None else ids
    rows = chosen_ids(chosen, count, "training example").tolist()
    last = _seen(at_step(run, run.steps), rows, rank, seed, memory_budget)
    found: dict[str, list[float]] = {"gradients": [], "subspace": [], "activations": []}
    with progress("kernel regime", len(steps)) as advance:
        for trained in trained_at(run, steps):
            then = _seen(trained, rows, rank, seed, memory_budget)
            found["gradients"].append(_alike(then.gradients, last.gradients))
            found["subspace"].append(
                float(torch.linalg.svdvals(then.directions @ last.directions.T).clamp(max=1).mean())
            )
            found["activations"].append(float(_cosines(then.activations, last.activations).mean()))
            advance(1)
    return xr.Dataset({name: ("time", values) for name, values in found.items()}, {"time": np.asarray(steps)})


@final
@dataclass(frozen=True)
class _Seen:
    """A state: gradients in blocks, directions of the first modes, and what the last layer gets."""

    gradients: GradientMatrix
    directions: Float[Tensor, "modes parameters"]
    activations: Float[Tensor, "examples width"]


def _seen(trained: Trained, rows: list[int], rank: int, seed: int, budget: int) -> _Seen:
    names = parameters_of(trained, "all")
    matrix = GradientMatrix(trained, trained.examples, rows, trained.loss.per_example, names, budget // 2)
    found = modes(trained, count=rank, ids=rows, seed=seed, memory_budget=budget)
    read, seen = activations(trained.model, None), []
    for part in even_parts(range(len(rows)), _EXAMPLES):
        inputs, _ = trained.examples.batch(rows[part.start : part.stop])
        with torch.no_grad():
            seen.append(read(to_device(inputs, trained.device)).flatten(1))
    return _Seen(matrix, found.directions, torch.cat(seen))


def _alike(then: GradientMatrix, last: GradientMatrix) -> float:
    """Return the mean cosine of the rows of two matrices, of which a block each is held at a time."""
    blocks = zip(then.blocks(_quiet), last.blocks(_quiet), strict=True)
    return float(torch.cat([_cosines(ours, theirs) for (_, ours), (_, theirs) in blocks]).mean())


def _cosines(left: Float[Tensor, "examples width"], right: Float[Tensor, "examples width"]) -> Tensor:
    return F.cosine_similarity(left, right)


def _quiet(_rows: float) -> None:
    """Advance nothing: states are counted."""
