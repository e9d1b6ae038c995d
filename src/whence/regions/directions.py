"""What each target asks of the training examples: a direction in the space of the parameters that count."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from whence.attribution import GradCos, Trained
from whence.kernel.features import Features
from whence.kernel.moments import end_of
from whence.kernel.products import Gradients
from whence.regions.recipe import Score
from whence.regions.surface import Surface


def directions(
    features: Features,
    part: range,
    trained: Trained,
    surface: Surface,
    score: Score,
    solve: Callable[[Gradients], Gradients] | None,
) -> dict[str, Tensor]:
    """Return the directions d of some targets: S = ⟨g_m, d⟩ is positive for training examples that help them.

    Args:
        features: Of the targets.
        part: Positions of the targets among those of ``features``.
        trained: The model.
        surface: Its loss over the parameters that count.
        score: What d is the direction of.
        solve: For `Influence`, its solver.

    Returns:
        One row a target, by parameter.
    """
    moment = end_of(trained)
    found: dict[str, list[Tensor]] = {name: [] for name in surface.parameters}
    for block, plain in features.blocks(moment, part, len(part)):
        gradients = plain if solve is None else solve(plain)
        for name, one in surface.parameters.items():
            given = gradients.get(name)
            rows = one.new_zeros(len(block), one.numel()) if given is None else given.part(0, given.shape[0])
            found[name].append(rows.reshape(len(block), *one.shape) * -features.quantity.helps)
    joined = {name: torch.cat(rows) for name, rows in found.items()}
    if not isinstance(score, GradCos):
        return joined
    length = torch.cat([one.flatten(1) for one in joined.values()], 1).norm(dim=1)
    return {
        name: one / torch.where(length > 0, length, 1).reshape(-1, *[1] * (one.dim() - 1))
        for name, one in joined.items()
    }
