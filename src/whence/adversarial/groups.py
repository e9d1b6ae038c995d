"""Groups of inputs that belong together one by one: clean, adversarial, random of the same size, cured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from whence._errors import ArgumentError, ShapeError
from whence._numbers import check_seed, is_number

CLEAN, ADVERSARIAL, RANDOM = "clean", "adversarial", "random"


@final
@dataclass(frozen=True, eq=False)
class Groups:
    """Inputs under several changes, with the labels of the inputs as they were (PLGK, section 6.3, figure 8).

    Attributes:
        inputs: By name of the group; row n of each goes back to the same example. ``"clean"`` is among them.
        labels: One an example.
        ids: Of the examples in the data they were taken from.
        bounds: The least and the greatest value an input may have.
        attack: How the adversarial ones were found.
    """

    inputs: Mapping[str, Float[Tensor, "examples ..."]]
    labels: Int[Tensor, " examples"]
    ids: tuple[int, ...]
    bounds: tuple[float, float]
    attack: str

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def names(self) -> tuple[str, ...]:
        """What the groups are called."""
        return tuple(self.inputs)

    @property
    def data(self) -> tuple[Tensor, Tensor]:
        """All inputs with their labels, group by group: targets for an audit."""
        return torch.cat(list(self.inputs.values())), self.labels.repeat(len(self.inputs))

    def change(self, name: str) -> Float[Tensor, "examples ..."]:
        """Return what was added to the clean inputs to make a group.

        Raises:
            ArgumentError: If there is no such group.
        """
        self.only([name])
        return self.inputs[name] - self.inputs[CLEAN]

    def with_group(self, name: str, inputs: Float[Tensor, "examples ..."]) -> Groups:
        """Return the same groups and one more.

        Raises:
            ArgumentError: If there is a group of this name.
            ShapeError: If its shape is another.
        """
        if name in self.inputs:
            raise ArgumentError(f"There is a group {name!r} already; the groups are {', '.join(self.names)}.")
        if inputs.shape != self.inputs[CLEAN].shape:
            raise ShapeError(f"A group has the shape {tuple(self.inputs[CLEAN].shape)}; got {tuple(inputs.shape)}.")
        return replace(self, inputs={**self.inputs, name: inputs})

    def only(self, names: Sequence[str]) -> Groups:
        """Return some of the groups.

        Raises:
            ArgumentError: If there is no group of a name.
        """
        for name in names:
            if name not in self.inputs:
                raise ArgumentError(f"No group {name!r}; the groups are {', '.join(self.names)}.")
        return replace(self, inputs={name: self.inputs[name] for name in names})

    def split(self, values: xr.DataArray, dim: str) -> xr.DataArray:
        """Return an array over `data` with a dim ``group`` and a dim ``example`` in place of one over all inputs.

        Args:
            values: One entry an input of `data` along ``dim``.
            dim: The dim, such as ``"target"`` or ``"example"``.

        Raises:
            ShapeError: If there are not as many entries, or no such dim.
        """
        if dim not in values.dims:
            raise ShapeError(f"No dim {dim!r} to split into groups; the array has {', '.join(map(str, values.dims))}.")
        if values.sizes[dim] != len(self) * len(self.inputs):
            raise ShapeError(
                f"{len(self.inputs)} groups of {len(self)} inputs have {len(self) * len(self.inputs)} entries along "
                f"{dim!r}; got {values.sizes[dim]}."
            )
        place = values.dims.index(dim)
        shape = (*values.shape[:place], len(self.inputs), len(self), *values.shape[place + 1 :])
        dims = (*values.dims[:place], "group", "example", *values.dims[place + 1 :])
        kept = {name: one for name, one in values.coords.items() if dim not in one.dims}
        coords = {**kept, "group": list(self.names), "example": np.asarray(self.ids)}
        return xr.DataArray(values.values.reshape(shape), coords, dims, values.name, values.attrs)


def random_like(
    inputs: Float[Tensor, "examples ..."],
    changes: Float[Tensor, "examples ..."],
    bounds: tuple[float, float],
    seed: int = 0,
) -> Float[Tensor, "examples ..."]:
    """Return inputs with random changes, each of the Euclidean length of a given change; the control of every attack.

    The lengths are equal before inputs are cut to the bounds.

    Args:
        inputs: What is changed.
        changes: Whose lengths are taken.
        bounds: The least and the greatest value an input may have.
        seed: Of the draws.

    Raises:
        ArgumentError: If bounds or seed are none.
        ShapeError: If there is not one change an input.
    """
    check_bounds(bounds)
    check_seed(seed)
    if changes.shape != inputs.shape:
        raise ShapeError(f"`changes` are one an input, of shape {tuple(inputs.shape)}; got {tuple(changes.shape)}.")
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype).to(inputs.device)
    scale = lengths(changes) / lengths(noise)
    moved: Tensor = inputs + noise * scale.reshape(-1, *[1] * (inputs.ndim - 1))
    return moved.clamp(*bounds)


def check_bounds(bounds: Any) -> None:
    """Refuse bounds that are none.

    Raises:
        ArgumentError: If they are not two finite numbers, the lesser first.
    """
    pair = isinstance(bounds, Sequence) and len(bounds) == 2 and all(is_number(one) for one in bounds)
    if not pair or bounds[0] >= bounds[1]:
        raise ArgumentError(
            f"`bounds` are the least and the greatest value of an input, two finite numbers; got {bounds!r}."
        )


def check_within(inputs: Tensor, bounds: tuple[float, float]) -> None:
    """Refuse inputs outside the bounds, which every change of them is cut to.

    Raises:
        ArgumentError: If there are such, or numbers that are none, or the bounds are none.
    """
    check_bounds(bounds)
    inside = (inputs >= bounds[0]) & (inputs <= bounds[1])  # in the inputs' type, to which bounds are rounded
    if not bool(inside.all()):
        raise ArgumentError(
            f"Inputs go from {float(inputs.min()):g} to {float(inputs.max()):g}, which is not within the bounds "
            f"{bounds}. Give `bounds` that hold all of them."
        )


def lengths(changes: Float[Tensor, "examples ..."]) -> Float[Tensor, " examples"]:
    """Return the Euclidean length of each change."""
    found: Tensor = changes.flatten(1).norm(dim=1)
    return found
