"""What proves samples of an invariant set: realism, diversity, spectrum, what low-pass filters leave of the value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from whence._errors import ArgumentError, ShapeError
from whence.invariants import InvariantSet, Objective, Pool, Prior, draw_pool, low_pass
from whence.invariants.realism import precision, recall

Features = Callable[[Tensor], Tensor]
CUTOFFS = tuple(round(0.1 * tenth, 1) for tenth in range(1, 10))  # EquiDiff, appendix .4.2
_FEW = 4  # points that a manifold of nearest neighbours needs: each and its three
_AT_ONCE = 256  # inputs that go through the network at once
_DRAWS = 4096  # of the prior at a time, in the search for its own invariants


def vendi_score(points: Float[Tensor, "some numbers"]) -> float:
    """Return the effective number of different points: the Vendi score of their cosines (Friedman and Dieng 2023).

    From 1, if all point the same way, to their number, if each is at right angles to all others.

    Examples:
        >>> round(vendi_score(torch.eye(4)), 6), round(vendi_score(torch.ones(4, 3)), 6)
        (4.0, 1.0)
    """
    unit = torch.nn.functional.normalize(points.double(), dim=1)
    weights = torch.linalg.eigvalsh(unit @ unit.T / len(points)).clamp_min(0)
    kept = weights[weights > 0]
    return float(torch.exp(-(kept * kept.log()).sum()))


def mean_pairwise_distance(points: Float[Tensor, "some numbers"]) -> float:
    """Return the mean Euclidean distance between two different points.

    Raises:
        ArgumentError: If there are fewer than two.
    """
    if len(points) < 2:
        raise ArgumentError("A distance between samples needs two or more.")
    return float(torch.pdist(points.double()).mean())


def spectral_slope(images: Float[Tensor, "some channels height width"]) -> Float[Tensor, " some"]:
    """Return how steeply each image's power falls with frequency: the slope of the logarithms of both.

    Power is averaged over rings of equal distance from zero, one ring a whole frequency, up to the highest that all
    directions have; the mean of the image does not count. Photographs have slopes near -2.

    Raises:
        ShapeError: If the images are smaller than 8 x 8, which leaves too few rings, or are none.
    """
    side = min(images.shape[-2:]) if images.ndim == 4 else 0
    if side < 8:
        raise ShapeError(f"A slope needs images of 8 x 8 or more; got shape {tuple(images.shape)}.")
    power = torch.fft.fft2(images.double()).abs().square().mean(1)
    up, across = (
        torch.fft.fftfreq(length, dtype=torch.float64, device=images.device) * side for length in images.shape[-2:]
    )
    ring = torch.hypot(up[:, None], across[None]).round().long()
    count = side // 2
    means = torch.stack([power[:, ring == one].mean(1) for one in range(1, count + 1)], 1)
    heights = torch.arange(1, count + 1, dtype=torch.float64, device=images.device).log()
    centred = heights - heights.mean()
    return (means.clamp_min(1e-30).log() @ centred) / centred.square().sum()


def spectral_deviation(objective: Objective, found: InvariantSet, cutoffs: Sequence[float] = CUTOFFS) -> xr.DataArray:
    """Return how far values move when inputs are low-pass filtered (EquiDiff, appendix .4.2 and figure 4.5).

    Args:
        objective: What was kept.
        found: Samples and their query.
        cutoffs: Of the ideal filters.

    Returns:
        Distances from the query's own, unfiltered, values, dims ``("input", "cutoff")``: the first row is the query,
        the others the samples. Where the query's curve and the samples' agree, they carry the value at the same
        frequencies; samples that move at cutoffs where the query does not carry it in details that no eye sees.

    Raises:
        ArgumentError: If there is no objective or no set of samples in its place, or no cutoffs, or one is not above 0
            to 1.
    """
    if not isinstance(found, InvariantSet):
        raise ArgumentError(f"`found` is an InvariantSet, as `invariants` returns; got a {type(found).__name__}.")
    kept: Any = objective
    if not isinstance(kept, Objective):
        raise ArgumentError(f"`objective` is an Objective, such as logits(model, [3]); got a {type(kept).__name__}.")
    given: Any = cutoffs
    if not isinstance(given, Sequence | np.ndarray) or len(given) == 0:
        raise ArgumentError(f"cutoffs are one or more shares of the highest frequency; got {given!r}.")
    inputs = torch.cat([found.query[None], found.inputs])
    with torch.no_grad():
        goal = objective(found.query[None])[0]
        columns = [
            torch.cat([objective.away(objective(low_pass(part, cutoff)), goal) for part in inputs.split(_AT_ONCE)])
            for cutoff in cutoffs
        ]
    names = ["query", *(f"sample {place}" for place in range(len(found)))]
    attrs = {"unit": f"unit of {objective.name}", "objective": objective.name}
    return xr.DataArray(
        torch.stack(columns, 1).cpu().numpy(),
        {"input": names, "cutoff": list(cutoffs)},
        ("input", "cutoff"),
        attrs=attrs,
    )


def rejected_from(
    objective: Objective,
    goal: Float[Tensor, " values"],
    prior: Prior,
    *,
    within: float,
    wanted: int,
    draws: int,
    seed: int = 0,
) -> Pool:
    """Return the prior's own invariants: draws whose value comes within a distance of the goal all by itself.

    As the distance goes to 0 they are fair samples of the prior under the condition, whatever the objective: what
    samples of a solver should be like.

    Args:
        objective: What is kept.
        goal: Its values.
        prior: Whose.
        within: The distance, in the objective's unit.
        wanted: Stop at so many.
        draws: Stop after so many draws.
        seed: Of the draws.

    Raises:
        ArgumentError: If not one of the draws comes so near.
    """
    latents, inputs, nearest = [], [], float("inf")
    for start in range(0, draws, _DRAWS):
        pool = draw_pool(prior, min(_DRAWS, draws - start), seed=seed + start, device=goal.device, dtype=goal.dtype)
        with torch.no_grad():
            values = torch.cat([objective(part) for part in pool.inputs.split(_AT_ONCE)])
            distance = objective.away(values, goal)
        nearest = min(nearest, float(distance.min()))
        latents.append(pool.latents[distance <= within])
        inputs.append(pool.inputs[distance <= within])
        if sum(map(len, latents)) >= wanted:
            break
    if not sum(map(len, latents)):
        raise ArgumentError(
            f"None of {draws} draws came within {within:g} of the value of {objective.name}; the nearest is "
            f"{nearest:.3g} away. Allow a greater distance, or more draws."
        )
    return Pool(torch.cat(latents)[:wanted], torch.cat(inputs)[:wanted])


def kernel_distance(points: Float[Tensor, "some numbers"], others: Float[Tensor, "many numbers"]) -> float:
    """Return the kernel distance of two samples: the unbiased squared MMD of a cubic kernel (Bińkowski et al. 2018).

    0 in the mean if both come from one distribution; it can be below. Unlike a Fréchet distance it is unbiased for a
    few samples.

    Raises:
        ArgumentError: If either has fewer than two points.
    """
    if min(len(points), len(others)) < 2:
        raise ArgumentError("A kernel distance needs two or more points on both sides.")
    ours, theirs = points.double(), others.double()

    def kernel(left: Tensor, right: Tensor) -> Tensor:
        return (left @ right.T / left.shape[1] + 1) ** 3

    def within(one: Tensor) -> Tensor:
        values = kernel(one, one)
        return (values.sum() - values.diagonal().sum()) / (len(one) * (len(one) - 1))

    return float(within(ours) + within(theirs) - 2 * kernel(ours, theirs).mean())


@final
@dataclass(frozen=True, eq=False)
class Standard:
    """What samples are held against: real inputs, draws of the prior, and the prior's own invariants.

    Attributes:
        features: Of a network that neither the objective nor the prior knows; from inputs to rows of numbers.
        real: Real inputs that nothing was trained on.
        drawn: Draws of the prior.
        rejected: The prior's own invariants, of `rejected_from`; None if they are too rare.
    """

    features: Features
    real: Float[Tensor, "many *input"]
    drawn: Float[Tensor, "draws *input"]
    rejected: Float[Tensor, "few *input"] | None = None

    def of(self, inputs: Float[Tensor, "some *input"]) -> dict[str, float]:
        """Return how real and how different inputs are, two or more, beside the standard's own.

        ``precision`` is the share within the reach of real inputs (k-nearest-neighbour precision, Kynkäänniemi et al.
        2019), ``prior_precision`` that of the prior's draws; ``diversity`` and ``vendi`` are the mean distance between
        two and the effective number of different ones over the same of as many draws of the prior, and
        ``rejected_diversity`` over those of the prior's own invariants: about 1 is right, more is not better.
        ``rejected_precision`` and ``rejected_recall`` say how far samples lie among the prior's own invariants, and
        how many of those lie among the samples; ``kernel_distance`` is that to them, ``prior_kernel_distance`` that
        of as many draws of the prior. They need four or more on both sides, and are left out of fewer.

        A Fréchet distance to all real data is not among these numbers: true invariants gather in few classes, so it
        grows as they get better.

        Raises:
            ArgumentError: If there are fewer than two inputs, or fewer draws of the prior than inputs.
        """
        if not 2 <= len(inputs) <= len(self.drawn):
            raise ArgumentError(
                f"Inputs are held against as many draws of the prior, and need to be two or more; got {len(inputs)} "
                f"inputs and {len(self.drawn)} draws."
            )
        ours = self._rows(inputs)
        fair = self._drawn_rows[: len(ours)]
        told: dict[str, float] = {
            "precision": float(precision(ours, self._real_rows)),
            "prior_precision": self._prior_precision,
            "diversity": mean_pairwise_distance(ours) / mean_pairwise_distance(fair),
            "vendi": vendi_score(ours) / vendi_score(fair),
        }
        if self.rejected is None or min(len(self.rejected), len(ours)) < _FEW:
            return told
        kept = self._rejected_rows
        return told | {
            "rejected_precision": float(precision(ours, kept)),
            "rejected_recall": float(recall(ours, kept)),
            "rejected_diversity": mean_pairwise_distance(ours) / mean_pairwise_distance(kept),
            "kernel_distance": kernel_distance(ours, kept),
            "prior_kernel_distance": kernel_distance(fair, kept),
        }

    @cached_property
    def _real_rows(self) -> Tensor:
        return self._rows(self.real)

    @cached_property
    def _drawn_rows(self) -> Tensor:
        return self._rows(self.drawn)

    @cached_property
    def _rejected_rows(self) -> Tensor:
        return self._rows(self.drawn[:0] if self.rejected is None else self.rejected)

    @cached_property
    def _prior_precision(self) -> float:
        return float(precision(self._drawn_rows, self._real_rows))

    def _rows(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            return self.features(inputs).flatten(1)


def spectrum_beside(
    found: Float[Tensor, "some channels height width"], reconstructed: Float[Tensor, "many channels height width"]
) -> float:
    """Return how much steeper or flatter samples' spectra are than the prior's own reconstructions of real images.

    A prior's decoder changes spectra by itself; only what is beyond that is the search's doing.
    """
    return float(np.median(spectral_slope(found).cpu()) - np.median(spectral_slope(reconstructed).cpu()))
