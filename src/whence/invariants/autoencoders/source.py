"""The activations that a sparse autoencoder is trained on: kept in one buffer, or computed part by part."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from whence._errors import ArgumentError, ShapeError
from whence._numbers import even_parts, is_whole
from whence._progress import Advance
from whence.datasets import Examples
from whence.invariants.autoencoders.layout import axis_of, checked_model, device_of, grid_of, rows_of
from whence.kernel.representations import activations
from whence.provenance.modes import evaluating
from whence.runs import to_device

_TOGETHER = 128  # examples that go through the model at once


def seeded(*numbers: int) -> torch.Generator:
    """Return a generator of its own for each row of numbers, at least 0."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))


@final
class Reader:
    """Reads a layer's output, examples by id, with the model in evaluation mode and without gradients.

    Args:
        model: The model.
        layer: Name of a module.
        examples: What it is called with.

    Raises:
        LabelError: If there is no such layer.
        ArgumentError: If the model is no module, the layer's name no word, the model cannot be called with the
            examples, or the layer's output is no tensor of numbers.
    """

    def __init__(self, model: nn.Module, layer: str, examples: Examples) -> None:
        checked_model(model, layer)
        self.model, self.layer, self.examples, self.device = model, layer, examples, device_of(model)
        self._see = activations(model, layer)
        self.sample = self._sample()

    def __call__(self, ids: range | Tensor) -> Tensor:
        """Return the layer's output for some examples."""
        return self.of(self.examples.batch(ids)[0])

    def of(self, inputs: Any) -> Tensor:
        """Return the layer's output for inputs."""
        with evaluating(self.model), torch.no_grad():
            return self._see(to_device(inputs, self.device))

    def batches(self, bytes_each: int, memory_budget: int) -> Iterator[range]:
        """Yield ids of as many examples as the budget holds, at least one, at ``bytes_each``.

        Raises:
            ArgumentError: If the budget is no whole number above 0.
        """
        if not is_whole(memory_budget) or memory_budget < 1:
            raise ArgumentError(f"memory_budget is a number of bytes, above 0; got {memory_budget!r}.")
        yield from even_parts(range(len(self.examples)), min(_TOGETHER, memory_budget // max(1, bytes_each)))

    def _sample(self) -> Tensor:
        inputs = self.examples.batch([0])[0]
        try:
            found = self.of(inputs)
        except (RuntimeError, TypeError, KeyError, IndexError, AttributeError) as error:
            shape = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
            raise ArgumentError(
                f"The model {type(self.model).__name__} cannot be called with the inputs of the data ({shape}): "
                f"{error}. Give inputs of the shape and type that it was trained on."
            ) from error
        if not found.is_floating_point():
            raise ArgumentError(
                f"The layer {self.layer!r} gives {found.dtype} of shape {tuple(found.shape)}; an autoencoder needs "
                "floating-point activations. Name another layer."
            )
        return found


@final
class Activations:
    """A layer's activations over data, one row a position.

    An epoch comes in parts that fit the memory budget. If all fits in one, it is computed once and kept.

    Args:
        reader: Of the layer.
        positions: How many positions to draw of each example at random; None for all.
        channel_axis: Where channels stand, as of `SparseAutoencoder`.
        memory_budget: Bytes for the buffer.
        seed: Of the order and of the positions.

    Attributes:
        width: Channels.
        grid: How many positions an example has along each axis.
        positions: How many of them are taken.
        parts: Examples of each part, by place in the epoch's order.

    Raises:
        ShapeError: If there is no such axis.
    """

    def __init__(
        self, reader: Reader, *, positions: int | None, channel_axis: int | None, memory_budget: int, seed: int
    ) -> None:
        self._reader, self._seed, sample = reader, seed, reader.sample
        self.axis = axis_of(sample, channel_axis)
        self.width, self.grid = sample.shape[self.axis], grid_of(sample, self.axis)
        available = math.prod(self.grid)
        self.positions = available if positions is None else min(positions, available)
        self.dtype = torch.promote_types(sample.dtype, torch.float32)
        each = self.positions * self.width * self.dtype.itemsize
        self.parts = even_parts(range(len(reader.examples)), memory_budget // each)
        self._buffer: Tensor | None = None
        self._held: tuple[int, int] | None = None

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        return len(self._reader.examples) * self.positions

    def rows_in(self, number: int) -> int:
        """Return how many rows a part has."""
        return len(self.parts[number]) * self.positions

    def part(self, epoch: int, number: int, advance: Advance | None = None) -> Float[Tensor, "rows width"]:
        """Return a part of an epoch, in a buffer that the next part overwrites."""
        wanted = (0, 0) if len(self.parts) == 1 else (epoch, number)
        length = self.rows_in(number)
        if self._buffer is None:
            self._buffer = torch.empty(self.rows_in(0), self.width, dtype=self.dtype, device=self._reader.device)
        if self._held != wanted:
            self._held = None  # half of a part must not be taken for one
            self._fill(self._buffer[:length], wanted, advance)
            self._held = wanted
        return self._buffer[:length]

    def _fill(self, buffer: Tensor, wanted: tuple[int, int], advance: Advance | None) -> None:
        epoch, number = wanted
        count = len(self._reader.examples)
        order = torch.randperm(count, generator=seeded(self._seed, epoch)) if len(self.parts) > 1 else None
        generator, at = seeded(self._seed, epoch, number), 0
        for some in even_parts(self.parts[number], _TOGETHER):
            rows = self._chosen(self._reader(some if order is None else order[some.start : some.stop]), generator)
            buffer[at : at + len(rows)] = rows
            at += len(rows)
            if advance is not None:
                advance(len(rows))

    def _chosen(self, output: Tensor, generator: torch.Generator) -> Float[Tensor, "rows width"]:
        """Return a batch's rows, of positions drawn for each example alone."""
        if output.ndim != self._reader.sample.ndim or grid_of(output, self.axis) != self.grid:
            raise ShapeError(
                f"The layer's output has shape {tuple(output.shape)} here and {tuple(self._reader.sample.shape)} for "
                "the first example. Give inputs of one size, texts of one length."
            )
        rows = rows_of(output, self.axis)
        if self.positions < rows.shape[1]:
            drawn = torch.rand(rows.shape[:2], generator=generator).argsort(1)[:, : self.positions]
            rows = rows.gather(1, drawn.to(rows.device)[..., None].expand(-1, -1, self.width))
        return rows.flatten(0, 1)
