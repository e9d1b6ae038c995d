"""From gradients at points to maps: what every map and its control share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils import _pytree as pytree

from whence._numbers import even_parts
from whence._progress import Advance
from whence.attribution import Trained
from whence.regions.recipe import Recipe
from whence.regions.surface import Entry, inputs_of

Gradients = Callable[[Tensor, Any, Tensor], tuple[Tensor, Tensor]]
"""(points, labels, the pair of each) -> gradients of the score with respect to the points, and scores."""

_LOOKED_AT = 1024  # training inputs whose mean and range are taken, evenly spaced


@final
@dataclass(frozen=True, eq=False)
class Setting:
    """What maps of some pairs have in common.

    Attributes:
        recipe: How maps are made.
        baseline: Where paths start.
        noise: One draw per noisy copy; one draw of zeros if there are none.
    """

    recipe: Recipe
    baseline: Float[Tensor, "*input"]
    noise: Float[Tensor, "copies *input"]

    @property
    def rows(self) -> int:
        """Gradients that one pair takes."""
        return len(self.noise) * len(self.recipe.map.stops)


def setting(recipe: Recipe, trained: Trained, entry: Entry) -> Setting:
    """Look at the training inputs and draw the noise."""
    count = min(_LOOKED_AT, len(trained.examples))
    inputs, _ = inputs_of(trained, [place * len(trained.examples) // count for place in range(count)], entry)
    baseline = inputs.mean(0) if recipe.baseline == "mean" else torch.full_like(inputs[0], recipe.baseline)
    if recipe.smooth == 0:
        return Setting(recipe, baseline, torch.zeros_like(inputs[:1]))
    low, high = inputs.aminmax()
    generator = torch.Generator().manual_seed(recipe.seed % 2**63)
    drawn = torch.randn(recipe.smooth, *inputs.shape[1:], generator=generator, dtype=torch.float64)
    return Setting(recipe, baseline, drawn.to(inputs) * (recipe.noise * (high - low)))


@final
@dataclass(frozen=True, eq=False)
class Maps:
    """Maps of some pairs, before they are labelled.

    Attributes:
        values: One map a pair, of the input's shape.
        scores: At the training input, without noise.
        remainder: For a signed map of shares without noise: score(input) - score(start) minus the map's sum.
        alive: Whether any gradient differs from 0.
    """

    values: Float[Tensor, "pairs *input"]
    scores: Float[Tensor, " pairs"]
    remainder: Float[Tensor, " pairs"] | None
    alive: bool


def accumulate(
    inputs: Float[Tensor, "pairs *input"],
    labels: Any,
    gradients: Gradients,
    made: Setting,
    rows: int,
    advance: Advance,
    shares: bool,
) -> Maps:
    """Make the maps of some pairs.

    Args:
        inputs, labels: The training example of each pair.
        gradients: Of the score.
        made: What the maps have in common.
        rows: How many points to take at once.
        advance: Called with pairs done.
        shares: Whether to also compute what the sum of a signed map should be.
    """
    recipe, copies = made.recipe, len(made.noise)
    values, alive = torch.zeros_like(inputs), False
    units = range(len(inputs) * copies)
    for part in even_parts(units, rows // len(recipe.map.stops)):
        place = torch.arange(part.start, part.stop, device=inputs.device)
        pair = place // copies
        ends = inputs[pair] + made.noise[place % copies]
        total = _weighted(ends, pair, labels, gradients, made, rows)
        alive = alive or bool(total.any())
        found = recipe.map.scaled(total, ends, made.baseline)
        values.index_add_(0, pair, (found if recipe.signed else found.abs()) / copies)
        advance(len(part) / copies)
    scores = _values(inputs, labels, gradients, rows)
    if not shares:
        return Maps(values, scores, None, alive)
    begun = made.baseline + recipe.map.start * (inputs - made.baseline)
    start = _values(begun, labels, gradients, rows)
    return Maps(values, scores, scores - start - values.flatten(1).sum(1), alive)


def _weighted(
    ends: Tensor, pair: Int[Tensor, " units"], labels: Any, gradients: Gradients, made: Setting, rows: int
) -> Tensor:
    """Return, for each end of a path, the weighted mean of the gradients at the map's stops."""
    stops = torch.tensor(made.recipe.map.stops, dtype=ends.dtype, device=ends.device)
    along = stops[:, 0].reshape(-1, *[1] * (ends.dim() - 1))
    points = (made.baseline + along * (ends[:, None] - made.baseline)).flatten(0, 1)
    pairs = pair.repeat_interleave(len(stops))
    found = torch.cat(
        [
            gradients(points[part.start : part.stop], _picked(labels, chosen), chosen)[0]
            for part in even_parts(range(len(points)), rows)
            for chosen in (pairs[part.start : part.stop],)
        ]
    )
    return torch.einsum("us...,s->u...", found.unflatten(0, (len(ends), len(stops))), stops[:, 1])


def _values(points: Tensor, labels: Any, gradients: Gradients, rows: int) -> Tensor:
    found = []
    for part in even_parts(range(len(points)), rows):
        chosen = torch.arange(part.start, part.stop, device=points.device)
        found.append(gradients(points[part.start : part.stop], _picked(labels, chosen), chosen)[1])
    return torch.cat(found)


def _picked(labels: Any, rows: Tensor) -> Any:
    return pytree.tree_map(lambda one: one[rows], labels)
