"""Rings in the plane: data of known density, a classifier, a flow as a prior, and level sets by marching squares."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

RADII, NOISE = (0.65, 1.35), 0.16
GAP = (torch.pi / 4, 7 * torch.pi / 4)  # the outer ring's angles: 90 degrees are left out
Function = Callable[[Tensor], Tensor]


def rings(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return points of both rings with their classes: 1 is the inner one."""
    random = torch.Generator().manual_seed(seed)
    inner = torch.arange(count) % 2
    turn = torch.rand(count, generator=random)
    angles = torch.where(inner == 1, 2 * torch.pi * turn, GAP[0] + (GAP[1] - GAP[0]) * turn)
    points = torch.stack([angles.cos(), angles.sin()], 1) * torch.where(inner == 1, *RADII)[:, None]
    return points + NOISE * torch.randn(count, 2, generator=random), inner


def density(points: Tensor) -> Tensor:
    """Return the density of the rings' points, by the sum over 360 places of each ring."""
    share = (torch.arange(360, dtype=torch.float64) + 0.5) / 360
    whole, part = 2 * torch.pi * share, GAP[0] + (GAP[1] - GAP[0]) * share
    centres = torch.cat(
        [radius * torch.stack([a.cos(), a.sin()], 1) for radius, a in zip(RADII, (whole, part), strict=True)]
    )
    away = torch.cdist(points.double(), centres).square()
    return torch.exp(-away / (2 * NOISE**2)).mean(1) / (2 * torch.pi * NOISE**2)


def classifier(points: Tensor, labels: Tensor, *, hidden: int = 64, steps: int = 600, seed: int = 0) -> nn.Module:
    """Train a network of tanh units of two hidden layers, all points at each of its steps."""
    torch.manual_seed(seed)
    layers = [nn.Linear(2, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, 1)]
    model = nn.Sequential(*layers)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(points)[:, 0], labels.float()).backward()
        optimizer.step()
    return model.double().requires_grad_(False)


class Flow(nn.Module):
    """A rectified flow of the plane, decoded by four midpoint steps."""

    latent_shape = (2,)
    evaluations = 8

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        sizes = [6, width, width, width, width]
        layers = [layer for one, two in pairwise(sizes) for layer in (nn.Linear(one, two), nn.SiLU())]
        self.network = nn.Sequential(*layers, nn.Linear(width, 2))

    def speed(self, points: Tensor, time: Tensor) -> Tensor:
        """Return how points move at a time."""
        waves = [time, (torch.pi * time).cos(), (torch.pi * time).sin(), (2 * torch.pi * time).cos()]
        found: Tensor = self.network(torch.cat([points, *waves], 1))
        return found

    def decode(self, latents: Tensor) -> Tensor:
        """Return the points that latents move to."""
        for step in range(4):
            time = latents.new_full((len(latents), 1), step / 4)
            middle = latents + self.speed(latents, time) / 8
            latents = latents + self.speed(middle, time + 1 / 8) / 4
        return latents


def trained_flow(steps: int = 6000, batch: int = 512, seed: int = 0) -> Flow:
    """Train the flow on fresh points of the rings."""
    torch.manual_seed(seed)
    flow = Flow()
    optimizer = torch.optim.Adam(flow.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    data = rings(steps * batch // 10, seed + 1)[0]
    for _ in range(steps):
        ends = data[torch.randint(len(data), (batch,))]
        starts, time = torch.randn(batch, 2), torch.rand(batch, 1)
        optimizer.zero_grad()
        (flow.speed(torch.lerp(starts, ends, time), time) - (ends - starts)).square().mean().backward()
        optimizer.step()
        schedule.step()
    return flow.double().requires_grad_(False)


def contour(function: Function, level: float, reach: float, cells: int) -> tuple[Tensor, np.ndarray]:
    """Return the segments of a level set in the square up to ``reach``, and which of its pieces each belongs to.

    Marching squares on a grid; each end is then refined by Newton steps along the gradient, in float64.
    """
    axis = torch.linspace(-reach, reach, cells + 1, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), 2)
    with torch.no_grad():
        values = torch.cat([function(part) for part in grid.reshape(-1, 2).split(65536)]).reshape(cells + 1, -1) - level
    above = values >= 0
    places: list[Tensor] = []
    ids = []  # of the crossing on each edge: first those along the first axis, then those along the second
    for one, two, here, there in (
        (values[:-1], values[1:], grid[:-1], grid[1:]),
        (values[:, :-1], values[:, 1:], grid[:, :-1], grid[:, 1:]),
    ):
        crossed = (one >= 0) != (two >= 0)
        share = (one / (one - two))[crossed][:, None]
        known = sum(map(len, places))
        ids.append(torch.full(crossed.shape, -1).masked_scatter_(crossed, known + torch.arange(int(crossed.sum()))))
        places.append(torch.lerp(here[crossed], there[crossed], share))
    around = torch.stack([ids[0][:, :-1], ids[1][1:], ids[0][:, 1:], ids[1][:-1]], 2)  # lower, right, upper, left edge
    count = (around >= 0).sum(2)
    pairs = around[count == 2]
    pairs = pairs[pairs >= 0].reshape(-1, 2)
    saddles = around[count == 4]
    middle = (values[:-1, :-1] + values[1:, :-1] + values[:-1, 1:] + values[1:, 1:])[count == 4] >= 0
    joined = middle == above[:-1, :-1][count == 4]  # the lower left corner is joined through the middle
    split = torch.where(joined[:, None], saddles, saddles[:, [3, 0, 1, 2]]).reshape(-1, 2)
    pairs = torch.cat([pairs, split])
    ends = refined(function, level, torch.cat(places))
    links = coo_matrix((np.ones(len(pairs)), pairs.T.numpy()), (len(ends), len(ends)))
    pieces = connected_components(links, directed=False)[1][pairs[:, 0].numpy()]
    return ends[pairs], pieces


def slopes(function: Function, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return values and gradients at points."""
    at = points.detach().requires_grad_()
    values = function(at)
    return values.detach(), torch.autograd.grad(values.sum(), at)[0]


def refined(function: Function, level: float, points: Tensor, steps: int = 6) -> Tensor:
    """Move points onto a level set, along the gradient."""
    for _ in range(steps):
        values, gradients = slopes(function, points)
        points = points - (values - level)[:, None] * gradients / gradients.square().sum(1, keepdim=True)
    return points


def to_segments(points: Tensor, segments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return how far points are from the nearest segment, which it is, and the share of it that lies before."""
    start, way = segments[:, 0], segments[:, 1] - segments[:, 0]
    square = way.square().sum(1).clamp_min(1e-30)
    share = ((points[:, None] - start) * way).sum(2).div(square).clamp(0, 1)
    away = (points[:, None] - start - share[..., None] * way).norm(dim=2)
    least = away.min(1)
    return least.values, least.indices, share.gather(1, least.indices[:, None])[:, 0]
