"""Objectives: what an invariant keeps, one row of numbers for each input."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, cast, final

from jaxtyping import Float
from torch import Tensor, nn

from whence._errors import ArgumentError, ShapeError
from whence._numbers import is_number
from whence.provenance.modes import evaluating

Distance = Callable[[Tensor, Tensor], Tensor]
TOLERANCE = 0.01  # EquiDiff, appendix .3.1


def root_mean_square(values: Float[Tensor, "batch values"], goal: Float[Tensor, " values"]) -> Float[Tensor, " batch"]:
    """Return how far the values of each input are from a goal: the root of the mean squared difference."""
    return (values - goal).square().mean(1).sqrt()


def greatest_difference(
    values: Float[Tensor, "batch values"], goal: Float[Tensor, " values"]
) -> Float[Tensor, " batch"]:
    """Return how far the values of each input are from a goal: the greatest of the differences."""
    return (values - goal).abs().amax(1)


@final
@dataclass(frozen=True, eq=False)
class Objective:
    """A function of the input, the invariant sets of which are looked for: IS(x*) = {x : L(x) = L(x*)}.

    EquiDiff, section 3.1, equation 3.1. Call it with a batch of inputs for their values, one row an input; the rows
    do not depend on each other.

    Attributes:
        function: From a batch of inputs to one or more numbers an input; never reduced over the batch. A module
            answers in evaluation mode and is left in the mode that it was in.
        name: What it is called in results, such as ``"fc2.3"``.
        distance: How far each row of values is from the query's; the residual that is reported.
        tolerance: The distance up to which an input counts as an invariant, in the objective's own unit.
        stand_in: A function that takes the same value wherever that is above 0, and has a gradient also elsewhere, as
            a number before its ReLU: searches follow it for those of the values that are to be above 0, certificates
            do not.

    Raises:
        ArgumentError: If the tolerance is not above 0, a function cannot be called, or the name is no word.

    Examples:
        >>> import torch
        >>> radius = Objective(lambda points: points.square().sum(1), "squared radius")
        >>> radius(torch.tensor([[3.0, 4.0], [0.0, 2.0]])).tolist()
        [[25.0], [4.0]]
    """

    function: Callable[[Any], Tensor]
    name: str
    distance: Distance = root_mean_square
    tolerance: float = TOLERANCE
    stand_in: Callable[[Any], Tensor] | None = None

    def __post_init__(self) -> None:
        function, name = cast("tuple[object, object]", (self.function, self.name))
        if not callable(function) or not isinstance(name, str):
            raise ArgumentError(
                "An objective is a function of a batch of inputs and a name for it; got "
                f"{type(function).__name__} and {name!r}."
            )
        others = (("distance", self.distance, False), ("stand_in", self.stand_in, self.stand_in is None))
        for what, one, left_out in others:
            if not callable(one) and not left_out:
                raise ArgumentError(f"`{what}` is a function, such as root_mean_square; got {one!r}.")
        if not is_number(self.tolerance) or self.tolerance <= 0:
            raise ArgumentError(f"tolerance is a distance above 0; got {self.tolerance!r}.")

    def __call__(self, inputs: Tensor) -> Float[Tensor, "batch values"]:
        """Return the values of inputs, in the inputs' type and on their device.

        Raises:
            ArgumentError: If the function does not give floating-point numbers.
            ShapeError: If it does not give a row for each input.
        """
        return self._rows(self.function, inputs)

    def searched(self, inputs: Tensor) -> Float[Tensor, "batch values"]:
        """Return the values that a search follows: those of the stand-in, if there is one.

        Raises:
            ArgumentError: If the function does not give floating-point numbers.
            ShapeError: If it does not give a row for each input.
        """
        return self._rows(self.stand_in or self.function, inputs)

    def away(self, values: Float[Tensor, "batch values"], goal: Float[Tensor, " values"]) -> Float[Tensor, " batch"]:
        """Return how far each row of values is from a goal, by the objective's own distance.

        Raises:
            ShapeError: If the distance does not give one number for each row.
        """
        found: Any = self.distance(values, goal)
        if not isinstance(found, Tensor) or tuple(found.shape) != (len(values),):
            given = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ShapeError(
                f"The distance of the objective {self.name} must return one number for each of {len(values)} rows of "
                f"values, never reduced over the batch; got {given}."
            )
        return found

    def _rows(self, function: Callable[[Any], Any], inputs: Tensor) -> Float[Tensor, "batch values"]:
        with evaluating(function) if isinstance(function, nn.Module) else nullcontext():
            values = function(inputs)
        if not isinstance(values, Tensor) or not values.is_floating_point():
            given = f"a tensor of {values.dtype}" if isinstance(values, Tensor) else f"{type(values).__name__}"
            raise ArgumentError(
                f"The objective {self.name} must return a tensor of floating-point numbers; got {given}."
            )
        if values.ndim == 0 or len(values) != len(inputs) or not values[:1].numel():
            raise ShapeError(
                f"The objective {self.name} must return one row for each of {len(inputs)} inputs, not empty and never "
                f"reduced over the batch; got shape {tuple(values.shape)}."
            )
        return values.reshape(len(inputs), -1).to(inputs)

    def within(self, tolerance: float) -> Objective:
        """Return the same objective with another tolerance.

        Raises:
            ArgumentError: If it is not above 0.
        """
        return replace(self, tolerance=tolerance)
