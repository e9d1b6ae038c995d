"""Gradients of several parameters laid side by side, one row an example."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from whence._errors import ArgumentError
from whence._numbers import even_parts
from whence.kernel.products import Gradients


@final
@dataclass(frozen=True)
class Layout:
    """Where each parameter stands in a vector of all of them.

    Attributes:
        names: The parameters, in order.
        shapes: Their shapes.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]

    @classmethod
    def of(cls, model: nn.Module, names: tuple[str, ...]) -> Layout:
        """Return the layout of some parameters of a model."""
        live = dict(model.named_parameters())
        return cls(names, tuple(live[name].shape for name in names))

    @property
    def sizes(self) -> list[int]:
        """Entries of each parameter."""
        return [shape.numel() for shape in self.shapes]

    @property
    def parameters(self) -> int:
        """Entries of all."""
        return sum(self.sizes)

    def written(self, gradients: Gradients, out: Float[Tensor, "examples parameters"]) -> None:
        """Write the gradients of some examples out; 0 for a parameter that took no part."""
        for name, place in zip(self.names, out.split(self.sizes, 1), strict=True):
            gradient = gradients.get(name)
            if gradient is None:
                place.zero_()
            else:
                place.copy_(gradient.part(0, gradient.shape[0]))

    def pieces(
        self, gradients: Gradients, memory_budget: int
    ) -> Iterator[tuple[slice, Float[Tensor, "examples part"]]]:
        """Yield the gradients of some examples written out, a stretch of entries at a time that fits the budget."""
        begin = 0
        for name, shape in zip(self.names, self.shapes, strict=True):
            gradient = gradients.get(name)
            if gradient is not None:
                rows, width = gradient.shape[0], gradient.shape[1:].numel()
                row = gradient.part(0, 1)
                for part in even_parts(range(rows), memory_budget // max(1, row.numel() * row.itemsize)):
                    place = slice(begin + part.start * width, begin + part.stop * width)
                    yield place, gradient.part(part.start, part.stop)
            begin += shape.numel()

    def split(self, vectors: Float[Tensor, "*rows parameters"]) -> dict[str, Tensor]:
        """Return each parameter's part of vectors, in its shape."""
        parts = vectors.split(self.sizes, -1)
        return {
            name: part.reshape(*part.shape[:-1], *shape)
            for name, shape, part in zip(self.names, self.shapes, parts, strict=True)
        }

    def joined(self, gradients: Mapping[str, Tensor]) -> Float[Tensor, "examples parameters"]:
        """Return gradients, one an example in the shape of each parameter, side by side."""
        parts = [gradients[name] for name in self.names]
        return torch.cat([part.reshape(len(part), -1) for part in parts], 1)

    def check(self, model: nn.Module) -> None:
        """Refuse a model that has not these parameters.

        Raises:
            ArgumentError: If one is missing or has another shape.
        """
        live = dict(model.named_parameters())
        for name, shape in zip(self.names, self.shapes, strict=True):
            found = live.get(name)
            if found is None or found.shape != shape:
                given = "no such parameter" if found is None else f"one of shape {tuple(found.shape)}"
                raise ArgumentError(
                    f"The modes are of a model with the parameter {name!r} of shape {tuple(shape)}; this "
                    f"{type(model).__name__} has {given}. Give the model whose modes they are."
                )
