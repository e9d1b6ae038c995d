"""How many samples can be searched for together."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from whence._errors import ArgumentError
from whence._numbers import is_whole
from whence.invariants.problem import Problem


def samples_at_once(problem: Problem, latents: Float[Tensor, "some *latent"], memory_budget: int) -> int:
    """Return how many samples' graphs, from latent to value, fit into a memory budget: at least one.

    What the graph of two samples saves beyond that of one is counted, so that parameters do not count. What is made
    again on the way back, inside a checkpoint, is not.

    Raises:
        ArgumentError: If the budget is no whole number above 0.
    """
    if not is_whole(memory_budget) or memory_budget < 1:
        raise ArgumentError(f"memory_budget is a number of bytes, above 0; got {memory_budget!r}.")
    if len(latents) < 2:
        return 1
    one, two = (saved_bytes(problem, latents[:count]) for count in (1, 2))
    return max(1, memory_budget // max(1, two - one))


def saved_bytes(problem: Problem, latents: Float[Tensor, "some *latent"]) -> int:
    """Return how many bytes the graph from latents to their values keeps for the way back."""
    kept = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    points = latents.detach().requires_grad_()
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        _ = problem.at(points).residuals
    return kept
