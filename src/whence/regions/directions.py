"""What each target asks of the training examples: a direction in the space of the parameters that count."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import grad, jacrev

from whence._errors import ArgumentError
from whence._numbers import even_parts
from whence.attribution import GradCos, Trained
from whence.attribution.features import Features
from whence.attribution.moments import end_of
from whence.regions.recipe import DampedInfluence, Score
from whence.regions.surface import Surface, differentiable_twice, inputs_of

_LARGEST = 4096  # parameters of which a Hessian is written out
_TOGETHER = 64  # examples whose Hessians are summed at once


def directions(
    features: Features, part: range, trained: Trained, surface: Surface, score: Score, factors: Tensor | None
) -> dict[str, Tensor]:
    """Return the directions d of some targets: S = ⟨g_m, d⟩ is positive for training examples that help them.

    Args:
        features: Of the targets.
        part: Positions of the targets among those of ``features``.
        trained: The model.
        surface: Its loss over the parameters that count.
        score: What d is the direction of.
        factors: For `DampedInfluence`, what `damped_factors` gives.

    Returns:
        One row a target, by parameter.
    """
    moment = end_of(trained)
    found: dict[str, list[Tensor]] = {name: [] for name in surface.parameters}
    for block, gradients in features.blocks(moment, part, len(part)):
        for name, one in surface.parameters.items():
            given = gradients.get(name)
            rows = one.new_zeros(len(block), one.numel()) if given is None else given.part(0, given.shape[0])
            found[name].append(rows.reshape(len(block), *one.shape) * -features.quantity.helps)
    joined = {name: torch.cat(rows) for name, rows in found.items()}
    if isinstance(score, GradCos):
        length = _flat(joined).norm(dim=1)
        return {
            name: one / torch.where(length > 0, length, 1).reshape(-1, *[1] * (one.dim() - 1))
            for name, one in joined.items()
        }
    if factors is None:
        return joined
    solved = torch.cholesky_solve(_flat(joined).T, factors).T / len(trained.examples)
    return _shaped(solved, joined)


def damped_factors(trained: Trained, surface: Surface, score: Score) -> Tensor | None:
    """Return the Cholesky factor of the damped Hessian of the mean training loss; None for other scores.

    Raises:
        ArgumentError: If there are too many parameters, or the damped Hessian is not positive definite.
    """
    if not isinstance(score, DampedInfluence):
        return None
    count = sum(one.numel() for one in surface.parameters.values())
    if count > _LARGEST:
        raise ArgumentError(
            f"DampedInfluence writes out a Hessian, for at most {_LARGEST} parameters; {count} count here. Give fewer "
            "`layers`, such as 'last', or use GradDot."
        )
    total = hessian_of_mean(trained, surface)
    damped = total + score.damping * torch.eye(count, dtype=total.dtype, device=total.device)
    factors: Tensor
    factors, failed = torch.linalg.cholesky_ex(damped)
    if failed:
        least = float(torch.linalg.eigvalsh(total)[0])
        raise ArgumentError(
            f"The Hessian has the eigenvalue {least:.3g}, so with damping {score.damping:g} it is not positive "
            f"definite. Give a damping above {-least:.3g}."
        )
    return factors


def hessian_of_mean(trained: Trained, surface: Surface) -> Tensor:
    """Return the Hessian of the mean training loss, (parameters, parameters), in the order of the surface."""
    flat = torch.cat([one.reshape(-1) for one in surface.parameters.values()])
    total = flat.new_zeros(len(flat), len(flat))
    with torch.no_grad(), differentiable_twice():
        for part in even_parts(range(len(trained.examples)), _TOGETHER):
            inputs, labels = inputs_of(trained, list(part))

            def loss(some: Tensor, inputs: Tensor = inputs, labels: object = labels) -> Tensor:
                return surface.together(_named(some, surface.parameters), inputs, labels).sum()

            total += jacrev(grad(loss))(flat)
    return total / len(trained.examples)


def _flat(directions: dict[str, Tensor]) -> Tensor:
    return torch.cat([one.flatten(1) for one in directions.values()], 1)


def _shaped(flat: Tensor, like: dict[str, Tensor]) -> dict[str, Tensor]:
    parts = flat.split([one[0].numel() for one in like.values()], 1)
    return {name: part.reshape(len(flat), *like[name].shape[1:]) for name, part in zip(like, parts, strict=True)}


def _named(flat: Tensor, like: dict[str, Tensor]) -> dict[str, Tensor]:
    parts = flat.split([one.numel() for one in like.values()])
    return {name: part.reshape(like[name].shape) for name, part in zip(like, parts, strict=True)}
