"""Maps of the pairs of some targets, within a memory budget."""

from __future__ import annotations

from typing import Any, final

import torch
from jaxtyping import Int
from torch import Tensor

from whence._errors import ArgumentError
from whence._progress import Advance
from whence.attribution import GradCos, Trained
from whence.regions.accumulate import Maps, Setting, accumulate
from whence.regions.engines import Engine, Forward, Rows
from whence.regions.recipe import Recipe
from whence.regions.surface import Surface, bytes_of_a_pass, inputs_of, with_slopes_held

_PASSES = 8  # what a second derivative holds, as a multiple of what one forward pass keeps
_DIRECTIONS = 3  # copies of a direction that a row may take
_CHECKED = 4  # rows on which a difference is compared with the exact gradient
_LARGEST_ERROR = 0.01  # of a difference, relative to the exact gradient


@final
class Work:
    """Makes maps of pairs.

    Args:
        trained: The model.
        surface: Its loss over the parameters that count.
        made: What the maps have in common.
        engine: How to differentiate.
        memory_budget: Bytes to hold.
    """

    def __init__(self, trained: Trained, surface: Surface, made: Setting, engine: Engine, memory_budget: int) -> None:
        self.trained, self.surface, self.engine, self.recipe = trained, surface, engine, made.recipe
        self._made = made
        direction = sum(one.numel() * one.itemsize for one in surface.parameters.values())
        self.targets = max(1, memory_budget // 8 // direction)  # whose directions fit at once
        inputs, labels = inputs_of(trained, [0], surface.entry)
        row = _PASSES * bytes_of_a_pass(surface, inputs, labels) + _DIRECTIONS * direction
        self.rows = max(1, memory_budget // 2 // row)

    def maps(
        self, train: list[int], directions: dict[str, Tensor], which: Int[Tensor, " pairs"], advance: Advance
    ) -> Maps:
        """Return the maps of some pairs.

        Args:
            train: The training example of each pair.
            directions: Of the targets.
            which: The target of each pair.
            advance: Called with pairs done.
        """
        surface, inputs, labels = self._prepared(train)
        cosine = isinstance(self.recipe.score, GradCos)

        def gradients(points: Tensor, some: Any, pair: Tensor) -> tuple[Tensor, Tensor]:
            return self.engine.gradients(surface, Rows(points, some, directions, which[pair], cosine))

        return accumulate(inputs, labels, gradients, self._made, self.rows, advance, shared_out(self.recipe))

    def difference_error(self, train: list[int], directions: dict[str, Tensor], which: Int[Tensor, " pairs"]) -> float:
        """Return the error of the engine's gradients on a few pairs, relative to the exact ones.

        Raises:
            ArgumentError: If it is too large for maps.
        """
        surface, inputs, labels = self._prepared(train[:_CHECKED])
        rows = Rows(inputs, labels, directions, which[:_CHECKED], cosine=False)
        exact = Forward().gradients(surface, rows)[0]
        found = self.engine.gradients(surface, rows)[0]
        error = float((found - exact).norm() / exact.norm().clamp_min(torch.finfo(exact.dtype).tiny))
        if not error <= _LARGEST_ERROR:
            raise ArgumentError(
                f"The difference of two moved models is off by {error:.0%} of the exact gradient on this network: it "
                "has kinks (ReLU, max-pooling) that a step crosses, or the step does not suit it. Use Forward(), which "
                "is exact, or another Difference(step=...)."
            )
        return error

    def _prepared(self, train: list[int]) -> tuple[Surface, Tensor, Any]:
        """Return the loss surface to differentiate, with inputs and labels of some training examples."""
        inputs, labels = inputs_of(self.trained, train, self.surface.entry)
        if not self.recipe.held:
            return self.surface, inputs, labels
        surface, slopes = with_slopes_held(self.surface, inputs, labels)
        return surface, inputs, slopes


def shared_out(recipe: Recipe) -> bool:
    """Say whether the sum of a map is meant to be score(input) - score(baseline)."""
    return recipe.signed and recipe.smooth == 0 and recipe.map.shares
