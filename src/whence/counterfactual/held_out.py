"""What the model says of each training example, all along, where that example is left out of the training.

The derivative with respect to an example's weight holds near weight 1: there the example itself pulls the parameters
back when they move away from it. Removed, it does not. To first order in the parameters' change, but for the weight at
0 and not near 1, the walk back is the same, and the example's force ∂ℓ/∂z is replaced by

    ∂ℓ/∂z + ∂²ℓ/∂z² (z° − z)

with z its outputs in the recorded training and z° those in a training without it. Of least squares, left out one by
one, this is exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from whence._errors import ArgumentError
from whence._progress import progress
from whence.audit.partial import read_tensors, write_tensors
from whence.runs import Run, TrainingLoss, retrain


@final
class HeldOut:
    """Outputs for every example at every step that it was in, from a training without it.

    Args:
        run: The run.
        parts: Into how many random parts to split the training data: one training each.
        memory_budget: Bytes that the outputs may take: one output for each example and step that it was in.
        folder: Where to keep the outputs of each training as it ends, and to find those of trainings that did.

    Raises:
        ArgumentError: If the model gives back other than one tensor of floating-point numbers, or the outputs take more
            than the budget.
        DiskError: If the disk is full or refuses to write.
    """

    def __init__(self, run: Run, parts: int, memory_budget: int, folder: Path | None) -> None:
        self._run, self._budget = run, memory_budget
        self._part = torch.from_numpy(np.random.default_rng(0).permutation(len(run.examples)) % parts)
        self._batches = [run.record_of(number).batches for number in range(run.steps)]
        self._outputs: list[list[Tensor | None]] = [[None] * len(batches) for batches in self._batches]
        self._without = 0
        with progress("training without parts", parts) as advance:
            for part in range(parts):
                file = None if folder is None else folder / f"without-{part}-of-{parts}.safetensors"
                self._one(part, file)
                advance(1)

    def _one(self, part: int, file: Path | None) -> None:
        """Take the outputs for the examples of one part from a training without it."""
        self._without = part
        found = None if file is None else read_tensors(file)
        if found is not None:
            kept = found[0]["outputs"]
            for number, place, rows in self._visits():
                self._take(number, place, kept[: len(rows)], rows)
                kept = kept[len(rows) :]
            return
        retrain(self._run, (self._part != part).double(), self._watch)
        if file is not None:
            visited = [self._at(number, place)[rows] for number, place, rows in self._visits()]
            write_tensors(file, {"outputs": torch.cat(visited)}, {})

    def _visits(self) -> Iterator[tuple[int, int, Tensor]]:
        """Yield each microbatch with examples of the part left out: its step, its place in that, and their rows."""
        for number, batches in enumerate(self._batches):
            for place, ids in enumerate(batches):
                rows = (self._part[ids] == self._without).nonzero().reshape(-1)
                if len(rows):
                    yield number, place, rows

    def _watch(self, number: int, place: int, outputs: Any, _labels: Any) -> None:
        if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
            raise ArgumentError(
                f"`held_out` needs a model that gives back one tensor of floating-point numbers; this one gives back "
                f"{type(outputs).__name__}. Leave `held_out` at 0."
            )
        rows = (self._part[self._batches[number][place]] == self._without).nonzero().reshape(-1)
        if len(rows):
            self._take(number, place, outputs.detach()[rows.to(outputs.device)], rows)

    def _take(self, number: int, place: int, values: Tensor, rows: Tensor) -> None:
        kept = self._outputs[number][place]
        if kept is None:
            visits = sum(len(ids) for batches in self._batches for ids in batches)
            size = visits * values[0].numel() * values.itemsize
            if size > self._budget:
                raise ArgumentError(
                    f"`held_out` keeps the outputs of every example at every step that it was in: {size / 2**20:.0f} "
                    f"MiB for this run, {self._budget / 2**20:.0f} MiB of `memory_budget` are for it. Raise "
                    f"`memory_budget` fourfold to {size * 4} or leave `held_out` at 0."
                )
            kept = values.new_zeros(len(self._batches[number][place]), *values.shape[1:]).cpu()
            self._outputs[number][place] = kept
        kept[rows] = values.to(kept)

    def _at(self, number: int, place: int) -> Tensor:
        found = self._outputs[number][place]
        assert found is not None  # every microbatch has been seen
        return found

    def linear(self, step: int, place: int, loss: TrainingLoss, outputs: Tensor, labels: Any) -> Tensor:
        """Return, for each example, what is linear in the outputs and has the held-out force as its gradient."""
        at = outputs.detach().requires_grad_()
        with torch.enable_grad():
            (force,) = torch.autograd.grad(loss.per_example(at, labels).sum(), at, create_graph=True)
            moved = (force * (self._at(step, place).to(at) - at.detach())).sum()
            bent = torch.autograd.grad(moved, at)[0] if moved.requires_grad else torch.zeros_like(at)
        held: Tensor = ((force.detach() + bent) * outputs).reshape(len(outputs), -1).sum(1)
        return held
