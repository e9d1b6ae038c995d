"""The rule by which a loop changes its gradients before the optimizer sees them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from whence._errors import ReplayError
from whence.runs.reconcile import Scale
from whence.runs.walker import Reduction, divided_by

PLAIN = 1e-6  # relative; a bound that is just reached makes a factor hardly below 1, and has a derivative all the same
CLIP_EPS = 1e-6  # torch.nn.utils.clip_grad_norm_ adds it to the norm


@final
@dataclass(frozen=True)
class NormClip:
    """A bound on the norm of the gradients of some parameters together.

    Attributes:
        names: The parameters.
        order: Of the norm: 2 or infinity.
        bound: The largest norm that is let through.
    """

    names: frozenset[str]
    order: float
    bound: float


@final
@dataclass(frozen=True)
class Clipping:
    """What a loop does to the gradient of its loss before the optimizer sees it.

    Attributes:
        losses: The loss of a microbatch from whose gradient this leads, by the number of microbatches.
        constants: A factor that depends on nothing but the number of microbatches, by that number; 1 where not listed.
        norms: Bounds on norms.
        bound: Bound on the size of every entry, infinite if there is none.
        undecided: Numbers of microbatches whose steps were all clipped so that they do not tell the constant; the one
            given is the smallest it may be.
    """

    losses: Mapping[int, Reduction] = field(default_factory=dict)
    constants: Mapping[int, float] = field(default_factory=dict)
    norms: tuple[NormClip, ...] = ()
    bound: float = math.inf
    undecided: frozenset[int] = frozenset()

    def apply(self, gradients: Mapping[str, Tensor], microbatches: int) -> None:
        """Do to gradients, in place, what the loop would have done.

        Raises:
            ReplayError: If that hangs on a constant that the recorded steps do not tell.
        """
        factor = self.constants.get(microbatches, 1.0)
        for gradient in gradients.values():
            if factor != 1.0:
                gradient.mul_(factor)
            if self.bound < math.inf:
                gradient.clamp_(-self.bound, self.bound)
        for clip in self.norms:
            members = [gradient for name, gradient in gradients.items() if name in clip.names]
            if members:
                norm = torch.linalg.vector_norm(
                    torch.stack([torch.linalg.vector_norm(one, clip.order) for one in members]), clip.order
                )
                coefficient = torch.clamp(clip.bound / (norm + CLIP_EPS), max=1.0)
                if microbatches in self.undecided and float(coefficient) >= 1.0:
                    raise ReplayError(_untold(microbatches))
                for one in members:
                    one.mul_(coefficient)

    def clips(self, factor: float, loss: Reduction, microbatches: int) -> bool:
        """Return whether a step's gradient was clipped, by its factor from the gradient of ``loss`` to the one used."""
        if microbatches in self.undecided:
            return True
        divided = divided_by(loss) / divided_by(self.losses[microbatches])
        return factor < self.constants.get(microbatches, 1.0) * divided * (1 - PLAIN)

    def norm_of(self, name: str) -> NormClip | None:
        """Return the bound on norms that a parameter falls under, None if there is none."""
        return next((clip for clip in self.norms if name in clip.names), None)


def by_parameter(scale: Scale, names: Iterable[str]) -> dict[str, float | Tensor]:
    """Return a step's factors from computed to used gradient, one a parameter."""
    return {name: scale if isinstance(scale, float) else scale.get(name, 1.0) for name in sorted(names)}


def is_plain(factor: float | Tensor, microbatches: int) -> bool:
    """Return whether a factor is one that every loop may have: none, or the mean over microbatches."""
    usual = (0.0, 1.0, 1.0 / microbatches)
    return isinstance(factor, float) and any(abs(factor - plain) <= PLAIN * plain for plain in usual)


def _untold(count: int) -> str:
    return (
        f"Every recorded step of {count} batches was clipped, so that they do not tell whether the loop divides its "
        "loss by the number of batches; this training has a step that is not clipped, and hangs on it. What the loop "
        "would have done cannot be told; leave out fewer examples, or record in float64."
    )
