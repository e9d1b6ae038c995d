"""What the model says of each training example, all along, where that example is left out of the training.

The derivative with respect to an example's weight holds near weight 1: there the example itself pulls the parameters
back when they move away from it. Removed, it does not. To first order in the parameters' change, but for the weight at
0 and not near 1, the walk back is the same, and the example's force ∂ℓ/∂z is replaced by

    ∂ℓ/∂z + ∂²ℓ/∂z² (z° − z)

with z its outputs in the recorded training and z° those in a training without it. Of a linear model trained by least
squares and SGD without clipping, left out one by one, this is exact.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whence._errors import ArgumentError
from whence._progress import progress
from whence.audit.partial import read_tensors, write_tensors
from whence.runs import Run, TrainingLoss, in_processes, retrain


@final
class HeldOut:
    """Outputs for every example at every step that it was in, from a training without it.

    Args:
        run: The run.
        parts: Into how many random parts to split the training data: one training each.
        processes: How many of them to run at once, each on one thread; None for all usable cores.
        memory_budget: Bytes that the outputs may take: one output for each example and step that it was in.
        folder: Where to keep the outputs of each training as it ends, and to find those of trainings that did.

    Raises:
        ArgumentError: If the model gives back other than one tensor of floating-point numbers, or the outputs take more
            than the budget.
        DiskError: If the disk is full or refuses to write.
    """

    def __init__(self, run: Run, parts: int, processes: int | None, memory_budget: int, folder: Path | None) -> None:
        self._run, self._budget = run, memory_budget
        self._part = torch.from_numpy(np.random.default_rng(0).permutation(len(run.examples)) % parts)
        self._batches = [run.record_of(number).batches for number in range(run.steps)]
        self._visits = sum(len(ids) for batches in self._batches for ids in batches)
        self._outputs: list[list[Tensor | None]] = [[None] * len(batches) for batches in self._batches]
        files = [folder / f"without-{part}-of-{parts}.safetensors" for part in range(parts)] if folder else []
        known = {part: found[0]["outputs"] for part, file in enumerate(files) if (found := read_tensors(file))}
        missing = [part for part in range(parts) if part not in known]
        for part, outputs in known.items():
            self._put(part, outputs)
        with progress("training without parts", parts) as advance:
            advance(len(known))
            for place, made in in_processes(run, lambda one: self._train(missing[one]), len(missing), processes):
                part, outputs = missing[place], torch.from_numpy(made)
                self._put(part, outputs)
                if files:
                    write_tensors(files[part], {"outputs": outputs}, {})
                advance(1)

    def _train(self, part: int) -> NDArray[Any]:
        """Train without a part; return the outputs for its examples at every visit, in order."""
        found: list[Tensor] = []

        def watch(number: int, place: int, outputs: Any, _labels: Any) -> None:
            if not found:
                self._check(outputs)
            elif outputs.shape[1:] != found[0].shape[1:]:
                raise ArgumentError(
                    f"`held_out` needs outputs of one shape for every example; this model gives back "
                    f"{tuple(found[0].shape[1:])} at one step and {tuple(outputs.shape[1:])} at step {number}. Leave "
                    "`held_out` at 0."
                )
            rows = self._rows(part, number, place)
            found.append(outputs.detach()[rows.to(outputs.device)].cpu())

        retrain(self._run, (self._part != part).double(), watch)
        outputs: NDArray[Any] = torch.cat(found).numpy()
        return outputs

    def _put(self, part: int, outputs: Tensor) -> None:
        """Put the outputs for the examples of a part, at every visit in order, into their places."""
        for number, batches in enumerate(self._batches):
            for place, ids in enumerate(batches):
                rows = self._rows(part, number, place)
                kept = self._outputs[number][place]
                if kept is None:
                    kept = outputs.new_zeros(len(ids), *outputs.shape[1:])
                    self._outputs[number][place] = kept
                kept[rows] = outputs[: len(rows)]
                outputs = outputs[len(rows) :]

    def _rows(self, part: int, number: int, place: int) -> Tensor:
        """Return which examples of a microbatch are in a part."""
        return (self._part[self._batches[number][place]] == part).nonzero().reshape(-1)

    def _check(self, outputs: Any) -> None:
        if not isinstance(outputs, Tensor) or outputs.dtype not in {torch.float32, torch.float64}:
            given = outputs.dtype if isinstance(outputs, Tensor) else type(outputs).__name__
            raise ArgumentError(
                f"`held_out` needs a model that gives back one tensor of float32 or float64; this one gives back "
                f"{given}. Leave `held_out` at 0."
            )
        size = self._visits * outputs[0].numel() * outputs.itemsize
        if size > self._budget:
            raise ArgumentError(
                f"`held_out` keeps the outputs of every example at every step that it was in: {size / 2**20:.0f} MiB "
                f"for this run, {self._budget / 2**20:.0f} MiB of `memory_budget` are for it. Raise `memory_budget` "
                f"fourfold to {size * 4} or leave `held_out` at 0."
            )

    def linear(self, step: int, place: int, loss: TrainingLoss, outputs: Tensor, labels: Any) -> Tensor:
        """Return, for each example, what is linear in the outputs and has the held-out force as its gradient."""
        there = self._outputs[step][place]
        assert there is not None  # every microbatch has been seen
        at = outputs.detach().requires_grad_()
        with torch.enable_grad():
            each = loss.per_example(at, labels)
            ones = torch.ones_like(each, requires_grad=True)  # so that a loss without second derivative says so
            (force,) = torch.autograd.grad(each, at, ones, create_graph=True)
            moved = (force * (there.to(at) - at.detach())).sum()
            (bent,) = torch.autograd.grad(moved, at, allow_unused=True, materialize_grads=True)
        held: Tensor = ((force.detach() + bent) * outputs).reshape(len(outputs), -1).sum(1)
        return held
