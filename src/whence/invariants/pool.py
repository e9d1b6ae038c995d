"""A pool of a prior's own draws: shared by all queries and objectives, and where searches start."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whence._devices import as_device
from whence._errors import ArgumentError
from whence._numbers import even_parts, is_whole
from whence._progress import progress
from whence.invariants.memory import decoded_at_once
from whence.invariants.priors.protocol import Prior, checked_latents, draw
from whence.invariants.problem import Problem

CHOSEN_FROM = 4  # times as many of the nearest draws as starts are wanted; the most different of them are taken
_AT_ONCE = 256  # draws decoded together


@final
@dataclass(frozen=True, eq=False)
class Pool:
    """Draws of a prior with the inputs they stand for.

    Attributes:
        latents: As drawn, so a fair sample of the prior.
        inputs: One of each.
    """

    latents: Float[Tensor, "draws *latent"]
    inputs: Float[Tensor, "draws *input"]

    def __len__(self) -> int:
        return len(self.latents)

    def __repr__(self) -> str:
        return f"Pool({len(self)} draws of inputs of shape {tuple(self.inputs.shape[1:])})"


def draw_pool(
    prior: Prior,
    size: int = 1024,
    *,
    seed: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    memory_budget: int = 2**30,
) -> Pool:
    """Draw a pool of a prior: once for all queries and objectives.

    Args:
        prior: From which.
        size: How many draws.
        seed: Of the draws.
        device, dtype: Of the latents.
        memory_budget: Bytes that draws decoded together may take; there are 256 of them at most.

    Raises:
        ArgumentError: If the size or the budget is not a whole number above 0, the type is not of floating point,
            there is no such device, or ``prior`` is none.
    """
    if not is_whole(size) or size < 1:
        raise ArgumentError(f"A pool holds one or more draws; got size={size!r}.")
    kind: Any = dtype
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise ArgumentError(f"Latents are floating-point numbers; got dtype={kind!r}.")
    if isinstance(prior, type) or not isinstance(prior, Prior):
        raise ArgumentError(f"A pool is drawn of a prior, such as load_prior(folder); got {prior!r}.")
    latents = draw(prior, size, seed, device=as_device(device), dtype=dtype)
    parts: list[Tensor] = []
    at_once = min(_AT_ONCE, decoded_at_once(prior, latents, memory_budget))
    with torch.no_grad(), progress("drawing from the prior", size) as advance:
        for part in even_parts(range(size), at_once):
            parts.append(prior.decode(latents[part.start : part.stop]))
            advance(len(part))
    return Pool(latents, torch.cat(parts))


def pool_values(
    pool: Pool, problem: Problem, at_once: int = _AT_ONCE
) -> tuple[Float[Tensor, "draws values"], Float[Tensor, " draws"]]:
    """Return the values of a pool's draws, and how far a search has to go from each (root mean square)."""
    with torch.no_grad():
        parts = even_parts(range(len(pool)), min(_AT_ONCE, at_once))
        found = [problem.measure(pool.inputs[part.start : part.stop]) for part in parts]
    return torch.cat([one.values for one in found]), torch.cat([one.residuals.square().mean(1).sqrt() for one in found])


def starts_of(
    pool: Pool, distances: Float[Tensor, " draws"], n: int, seed: int = 0, attempt: int = 0
) -> Float[Tensor, "n *latent"]:
    """Choose starts among a pool's draws: near the goal in value, far from each other in latents.

    Of the draws nearest in value, four times as many as are wanted, the nearest is taken first, then each time the one
    farthest from all taken. Draws exactly as far from the goal as others are on a plateau, as where a unit is silent:
    there is no gradient, however near the value, and they are left out if any others are there. If more are wanted
    than there are draws to start from, these are taken again, moved by a tenth of their length at random; attempts
    after all draws were taken from begin with the nearest again, moved by half.

    Args:
        pool: The draws.
        distances: Of each draw's value from the goal.
        n: How many starts.
        seed: Of the moves.
        attempt: 0 takes of the nearest; each further one of those that come after what was taken from before.
    """
    far = distances.nan_to_num(torch.inf)
    _, same, counts = far.unique(return_inverse=True, return_counts=True)
    sloping = distances.isfinite() & ((counts[same] == 1) | (far == 0))
    order = far.argsort(stable=True)
    order = order[sloping[order]] if bool(sloping.any()) else order
    passed = attempt * CHOSEN_FROM * n
    random = torch.Generator().manual_seed(seed + attempt)
    near = pool.latents[order.roll(-passed)[: CHOSEN_FROM * n]]
    near = _moved(near, 0.5, random) if passed >= len(order) else near
    chosen = near[spread_out(near.flatten(1), min(n, len(near)))]
    if len(chosen) == n:
        return chosen
    again = near.repeat(-(-(n - len(chosen)) // len(near)), *[1] * (near.ndim - 1))[: n - len(chosen)]
    return torch.cat([chosen, _moved(again, 0.1, random)])


def _moved(latents: Tensor, share: float, random: torch.Generator) -> Tensor:
    """Return latents moved by a share of their length at random, as long in the mean as the prior's draws are."""
    noise = torch.randn(latents.shape, generator=random, dtype=torch.float64).to(latents)
    moved: Tensor = latents * math.sqrt(1 - share**2) + share * noise
    return moved


def spread_out(points: Float[Tensor, "some numbers"], n: int) -> Int[Tensor, " n"]:
    """Choose points far from each other: the first, then each time the one farthest from all chosen (Gonzalez 1985)."""
    chosen = torch.zeros(n, dtype=torch.int64, device=points.device)
    nearest = torch.full((len(points),), torch.inf, dtype=points.dtype, device=points.device)
    for place in range(1, n):
        nearest = torch.minimum(nearest, (points - points[chosen[place - 1]]).square().sum(1))
        chosen[place] = nearest.argmax()
    return chosen


def checked_pool(pool: Pool, prior: Prior, like: Tensor) -> Pool:
    """Return a pool that was drawn from latents of a prior's shape, in a query's type and on its device.

    Raises:
        ArgumentError: If it holds no draws, or not an input of each.
        ShapeError: If its latents have another shape.
    """
    if not len(pool) or len(pool.inputs) != len(pool):
        raise ArgumentError(
            f"A pool holds one or more draws, each with its input; got {len(pool)} latents and {len(pool.inputs)} "
            "inputs. Draw one with draw_pool."
        )
    checked_latents(pool.latents, prior.latent_shape)
    return Pool(pool.latents.to(like), pool.inputs.to(like))
