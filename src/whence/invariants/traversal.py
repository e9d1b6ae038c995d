"""Along a level set towards a target, and whether invariants hang together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from whence._errors import ArgumentError, ShapeError
from whence._numbers import is_number, is_whole
from whence.invariants.asking import checked_kind, value_on
from whence.invariants.objective import Objective
from whence.invariants.priors.protocol import Prior
from whence.invariants.problem import Problem, linearised
from whence.invariants.solvers import GaussNewton, Search
from whence.invariants.solvers.normal_space import tangent


@final
@dataclass(frozen=True, eq=False)
class Inputs:
    """A prior of inputs as they are: latents are the inputs themselves, and no draw is more usual than another.

    Attributes:
        latent_shape: The shape of an input.
    """

    latent_shape: tuple[int, ...]

    def decode(self, latents: Float[Tensor, "some *input"]) -> Float[Tensor, "some *input"]:
        """Return the inputs."""
        return latents


@final
@dataclass(frozen=True, eq=False)
class Traversal:
    """A walk along a level set.

    Attributes:
        path: The inputs it went through; the first is the source.
        steps: One row an input: its ``residual`` and its ``distance`` to the target (root mean square).
    """

    path: Float[Tensor, "inputs *input"]
    steps: xr.Dataset


def traverse(
    objective: Objective,
    source: Float[Tensor, "*latent"],
    target: Float[Tensor, "..."],
    prior: Prior | None = None,
    *,
    steps: int = 100,
    size: float = 0.05,
    fall: float | None = None,
) -> Traversal:
    """Go from an input towards another while the value stays what it is (Balasubramanian et al. 2023).

    Each step goes towards the target, without its part along the objective's gradient, then back onto the level set
    by Gauss-Newton. A step after which the value is not within the objective's tolerance is halved; the walk ends when
    nothing of it is left, which is where the level set turns away from the target. Where the gradient vanishes every
    direction is along the level set.

    Args:
        objective: What is kept.
        source: Where from: an input, or a latent if there is a prior.
        target: Where to, of the same shape.
        prior: Walk in the space of its latents; in that of inputs if left out.
        steps: At most so many.
        size: Of a step, as a share of the way that is left.
        fall: Walk on one side only, as the paper: the value, one number, may be as far above the source's as it likes,
            and steps go straight to the target while it is. Where one falls below, it goes along the level set and
            back up to it; if that leads nowhere, it may stay below by this much.

    Raises:
        ArgumentError: If steps, size, ``fall``, source, target or another argument is not what it must be, the
            objective cannot be called with the source, or ``fall`` is asked for of more than one value.
        ShapeError: If source and target have not the same shape, or not that of the prior's latents.
        GradientError: If the objective has no gradient by its input.
    """
    if not is_whole(steps) or steps < 1 or not is_number(size) or not 0 < size <= 1:
        raise ArgumentError(f"steps is 1 or more and size a share above 0, to 1; got {steps!r} and {size!r}.")
    _check_points(objective, prior, source=source, target=target)
    space = Inputs(tuple(source.shape)) if prior is None else prior
    if source.shape != target.shape or tuple(source.shape) != tuple(space.latent_shape):
        raise ShapeError(
            f"Source and target need the shape {tuple(space.latent_shape)}; got {tuple(source.shape)} and "
            f"{tuple(target.shape)}."
        )
    if fall is not None and not (is_number(fall) and fall >= 0):
        raise ArgumentError(f"`fall` is how far the value may fall, a number from 0; got {fall!r}.")
    goal = _value_at(objective, space, source)
    if fall is not None and len(goal) != 1:
        raise ArgumentError(f"`fall` is for one value; {objective.name} has {len(goal)}.")
    target = target.to(source)
    problem = Problem(objective, space, goal)
    at, path, length = source.detach(), [source.detach()], size
    for _ in range(steps):
        there = _step(problem, at, target, length, fall)
        while there is None and length > size / 64:
            length /= 2
            there = _step(problem, at, target, length, fall)
        if there is None:
            break
        at, length = there, min(size, 2 * length)
        path.append(at)
    return _told(problem, torch.stack(path), target)


def _check_points(objective: Objective, prior: Prior | None, **points: Any) -> None:
    """Refuse points that are no tensors of finite floating-point numbers, and what is no objective or prior.

    Raises:
        ArgumentError: If there are such.
    """
    checked_kind("objective", objective, Objective)
    if prior is not None:
        checked_kind("prior", prior, Prior)
    for name, one in points.items():
        if not isinstance(one, Tensor) or not one.is_floating_point():
            given = f"a tensor of {one.dtype}" if isinstance(one, Tensor) else f"a {type(one).__name__}"
            raise ArgumentError(f"`{name}` must be a tensor of floating-point numbers; got {given}.")
        if not bool(one.isfinite().all()):
            raise ArgumentError(
                f"`{name}` has numbers that are not finite. Give inputs that the network can answer, or their latents."
            )


def _check_falls(falls: Any) -> None:
    """Refuse distances that are none.

    Raises:
        ArgumentError: If they are not one or more numbers from 0.
    """
    known = isinstance(falls, Sequence | np.ndarray) and not isinstance(falls, str) and len(falls) > 0
    if not known or not all(is_number(fall) and fall >= 0 for fall in falls):
        raise ArgumentError(f"falls are one or more distances from the level, from 0; got {falls!r}.")


def _value_at(objective: Objective, space: Prior, latent: Tensor) -> Float[Tensor, " values"]:
    """Return an objective's values on what a latent stands for.

    Raises:
        ArgumentError: If it cannot be called with it, or they are not finite.
        ShapeError: If the latent has another shape than the prior's.
    """
    with torch.no_grad():
        return value_on(objective, space.decode(latent[None])[0])


def _step(problem: Problem, at: Tensor, target: Tensor, length: float, fall: float | None) -> Tensor | None:
    """Return where a step along the level set leads, nearer to the target; None if the value does not stay."""
    way = (target - at).flatten()[None] * length
    straight = at + way.reshape(at.shape)
    if fall is not None and _above(problem, straight, 0.0) and _nearer(straight, at, target):
        return straight
    _, slopes = linearised(problem, at[None])
    there = straight if slopes.abs().amax() == 0 else at + tangent(slopes, way).reshape(at.shape)
    found = there if fall is not None and _above(problem, there, 0.0) else _returned(problem, there)
    if found is not None and _nearer(found, at, target):
        return found
    return there if fall is not None and _above(problem, there, fall) and _nearer(there, at, target) else None


def _above(problem: Problem, there: Tensor, fall: float) -> bool:
    """Say whether the value has not fallen by more than it may."""
    with torch.no_grad():
        return bool(problem.at(there[None]).values[0] >= problem.goal - fall)


def _returned(problem: Problem, there: Tensor) -> Tensor | None:
    """Return the point of the level set that Gauss-Newton finds from here, if it finds one."""
    search = Search(there[None])
    GaussNewton(steps=20).solve(problem, search)
    with torch.no_grad():
        return search.latents[0] if bool(problem.at(search.latents).solved[0]) else None


def _nearer(there: Tensor, at: Tensor, target: Tensor) -> bool:
    """Say whether a step leads nearer to the target: a way back onto the level set may undo it."""
    return bool((target - there).norm() < (target - at).norm())


def _told(problem: Problem, path: Tensor, target: Tensor) -> Traversal:
    with torch.no_grad():
        inputs = problem.prior.decode(path)
        measured = problem.measure(inputs)
        end = problem.prior.decode(target[None])
        away = (inputs - end).flatten(1).square().mean(1).sqrt()
    columns = {"residual": measured.distance, "distance": away}
    data = {name: ("step", one.cpu().numpy()) for name, one in columns.items()}
    return Traversal(inputs, xr.Dataset(data, attrs={"objective": problem.objective.name}))


def triangle(
    objective: Objective,
    corners: Float[Tensor, "corners *latent"],
    prior: Prior | None = None,
    *,
    resolution: int = 10,
    falls: Sequence[float] = (0.0, 0.1, 0.2, 0.3),
) -> xr.Dataset:
    """Return the values on the triangle between three invariants: do they hang together in a plane?

    Args:
        objective: What is kept; its values at the first corner are compared with.
        corners: Three inputs, or latents if there is a prior.
        prior: Mix its latents; the inputs if left out.
        resolution: Parts of each side; 10 gives 66 points, the three corners among them (Balasubramanian et al. 2023).
        falls: Distances from the level at which the shares are counted, in the objective's unit; the paper's, of
            probabilities, if left out.

    Returns:
        Dims ``("point", "corner")``: ``weight`` of each corner; ``residual``, the distance from the first corner's
        values; ``inside``, whether that is within the objective's tolerance. ``side`` says which points lie on the
        straight line between two corners. By ``"fall"``: ``share``, of the points whose residual is at most so much;
        of one value also ``share_above``, of the points whose value is at most so much below the first corner's,
        however much above, as the paper counts. Both are 1 where the three hang together in the plane.

    Raises:
        ArgumentError: If the resolution is no whole number above 0, the falls are not numbers from 0, the corners or
            another argument are not what they must be, or the objective cannot be called with them.
        ShapeError: If there are not three corners, or they have not the shape of the prior's latents.
    """
    if not is_whole(resolution) or resolution < 1:
        raise ArgumentError(f"resolution is how many parts a side has, 1 or more; got {resolution!r}.")
    _check_points(objective, prior, corners=corners)
    _check_falls(falls)
    if len(corners) != 3:
        raise ShapeError(f"A triangle has three corners; got {len(corners)}.")
    parts = [(a, b, resolution - a - b) for a in range(resolution + 1) for b in range(resolution + 1 - a)]
    weights = torch.tensor(parts, dtype=corners.dtype, device=corners.device) / resolution
    points = torch.einsum("pc,c...->p...", weights, corners)
    space = Inputs(tuple(corners.shape[1:])) if prior is None else prior
    goal = _value_at(objective, space, corners[0])
    with torch.no_grad():
        measured = Problem(objective, space, goal).at(points)
    shares = weights.cpu().numpy()
    at_most = torch.tensor(list(falls), dtype=torch.float64, device=points.device)
    data = {
        "weight": (("point", "corner"), shares),
        "residual": ("point", measured.distance.cpu().numpy()),
        "inside": ("point", measured.solved.cpu().numpy()),
        "side": ("point", np.isclose(shares, 0).any(1)),
        "share": ("fall", _shares(measured.distance, at_most)),
    }
    if len(goal) == 1:
        data["share_above"] = ("fall", _shares((goal - measured.values)[:, 0], at_most))
    return xr.Dataset(
        data, {"fall": list(falls)}, attrs={"objective": objective.name, "tolerance": objective.tolerance}
    )


def _shares(distances: Float[Tensor, " points"], at_most: Float[Tensor, " falls"]) -> Float[np.ndarray, " falls"]:
    """Return which share of distances is at most each of some, to the rounding of their type."""
    slack = torch.finfo(distances.dtype).eps * 8
    return np.asarray((distances.double()[:, None] <= at_most + slack).double().mean(0).cpu())
