"""How many samples can be searched for together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from whence._errors import ArgumentError
from whence._numbers import is_whole
from whence.invariants.priors.protocol import Prior, draw, recomputations_seen
from whence.invariants.problem import Problem


def samples_at_once(problem: Problem, like: Tensor, memory_budget: int) -> int:
    """Return how many samples' graphs, from latent to value, fit into a memory budget: at least one.

    What the graph of two samples takes beyond that of one is counted, so that parameters do not count.

    Args:
        problem: From latents to values.
        like: A tensor of the latents' type, where they are.
        memory_budget: In bytes.

    Raises:
        ArgumentError: If the budget is no whole number above 0.
    """
    return _fitting(lambda latents: problem.at(latents).residuals, problem.prior, like, memory_budget)


def decoded_at_once(prior: Prior, like: Tensor, memory_budget: int) -> int:
    """Return the same of decodings alone.

    Raises:
        ArgumentError: If the budget is no whole number above 0.
    """
    return _fitting(prior.decode, prior, like, memory_budget)


def _fitting(graph: Callable[[Tensor], Tensor], prior: Prior, like: Tensor, memory_budget: int) -> int:
    if not is_whole(memory_budget) or memory_budget < 1:
        raise ArgumentError(f"memory_budget is a number of bytes, above 0; got {memory_budget!r}.")
    latents = draw(prior, 2, 0, device=like.device, dtype=like.dtype)
    one, two = (saved_bytes(graph, latents[:count]) for count in (1, 2))
    return max(1, memory_budget // max(1, two - one))


def saved_bytes(graph: Callable[[Tensor], Tensor], latents: Float[Tensor, "some *latent"]) -> int:
    """Return how many bytes a graph of latents holds at most on the way back.

    That is what it keeps, with the inputs of each network whose activations are made again, and what the greatest of
    these networks keeps while they are.
    """
    kept, again = [0], dict[Any, int]()

    def see(network: Callable[..., Tensor], *inputs: Any) -> None:
        if network not in again:
            own = [_leaf(one) if isinstance(one, Tensor) else one for one in inputs]
            inside = [0]
            with _counted(inside):
                network(*own)
            again[network] = inside[0]

    points = latents.detach().requires_grad_()
    with torch.enable_grad(), recomputations_seen(see), _counted(kept):
        graph(points)
    return kept[0] + max(again.values(), default=0)


@contextmanager
def _counted(total: list[int]) -> Iterator[None]:
    """Add the bytes of what graphs that are made in the block keep."""

    def pack(tensor: Tensor) -> Tensor:
        total[0] += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield


def _leaf(tensor: Tensor) -> Tensor:
    found = tensor.detach()
    return found.requires_grad_() if found.is_floating_point() else found
