"""Problems small enough to be solved by hand, and a prior that counts what it is asked for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from whence.invariants import Objective
from whence.invariants.problem import Problem
from whence.invariants.traversal import Inputs


def plain(*shape: int) -> Inputs:
    """Return the prior whose inputs are its latents: a standard normal distribution."""
    return Inputs(shape)


class Counting:
    """A smooth prior of 4 x 4 images that counts the rows that it decodes, and those that a pass back reaches."""

    latent_shape = (6,)
    evaluations = 3

    def __init__(self, *, wiggle: float = 0.3, seed: int = 0) -> None:
        rng = torch.Generator().manual_seed(seed)
        self.weights = torch.randn(6, 16, generator=rng, dtype=torch.float64) / 6**0.5
        self.wiggle, self.forward, self.backward = wiggle, 0, 0

    @property
    def cost(self) -> int:
        return self.evaluations * (self.forward + 2 * self.backward)

    def decode(self, latents: Float[Tensor, "some latent"]) -> Float[Tensor, "some 1 4 4"]:
        self.forward += len(latents)
        images: Tensor = latents @ self.weights.to(latents)
        images = (images + self.wiggle * images.sin()).reshape(-1, 1, 4, 4)
        if images.requires_grad:
            images.register_hook(self._count)
        return images

    def _count(self, gradient: Tensor) -> None:
        self.backward += int((gradient.flatten(1) != 0).any(1).sum())


@dataclass
class Interrupting:
    """A function that is interrupted from the keyboard when it is called for the ``after``-th time."""

    function: nn.Module
    after: int
    calls: int = 0

    def __call__(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.after:
            raise KeyboardInterrupt
        found: Tensor = self.function(inputs)
        return found


def network(outputs: int = 2, seed: int = 1) -> nn.Module:
    """Return a smooth random network of 4 x 4 images."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, outputs)).double()
    return model.requires_grad_(False)


def linear(matrix: Float[Tensor, "values numbers"], goal: Float[Tensor, " values"], tolerance: float = 1e-9) -> Problem:
    """Return the equations A z = goal over a standard normal prior."""
    objective = Objective(lambda points: points @ matrix.T, "linear", tolerance=tolerance)
    return Problem(objective, plain(matrix.shape[1]), goal)
