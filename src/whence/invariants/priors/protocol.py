"""What a prior is: latents that are standard normal, and a differentiable way from them to inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import chdtr
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from whence._errors import ArgumentError, ShapeError
from whence._numbers import is_whole

_CHANNELS_AND_SIDES = 3
_SEEDS = 2**63


@runtime_checkable
class Prior(Protocol):
    """A distribution of inputs: the image of standard normal latents under a differentiable decoder.

    How an input is made of a latent, in one step or in a thousand, is the prior's own business. The latents of every
    prior are independent standard normal numbers, which is what makes a latent's size a measure of how usual an input
    is, and what exact sampling weighs moves by.
    """

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of one latent."""
        ...

    def decode(self, latents: Float[Tensor, "some *latent"]) -> Float[Tensor, "some *input"]:
        """Return the inputs that latents stand for, each from its own latent alone; gradients flow back."""
        ...


@runtime_checkable
class Chain(Prior, Protocol):
    """A prior that decodes in steps, so that each of them can be guided.

    Decoding latents is ``finish`` of the state after ``steps`` advances: the first state is the latents. The batch may
    be changed from outside only in its numbers: some schedulers remember what they saw in earlier steps.
    """

    @property
    def steps(self) -> int:
        """How many advances there are."""
        ...

    def advance(
        self, state: Float[Tensor, "some *state"], step: int
    ) -> tuple[Float[Tensor, "some *state"], Float[Tensor, "some *state"]]:
        """Return the state after a step (0 to ``steps - 1``, in order), and the end as the step foresees it."""
        ...

    def finish(self, end: Float[Tensor, "some *state"]) -> Float[Tensor, "some *input"]:
        """Return the inputs of states at the end, whether reached or foreseen."""
        ...


def walked(chain: Chain, latents: Float[Tensor, "some *latent"]) -> Float[Tensor, "some *input"]:
    """Decode latents by a chain's steps.

    Raises:
        ShapeError: If the latents have another shape than the chain's.
    """
    state = checked_latents(latents, chain.latent_shape)
    for step in range(chain.steps):
        state, _ = chain.advance(state, step)
    return chain.finish(state)


def recomputed(network: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """Call a network whose activations are computed again on the way back instead of kept.

    A decoding then keeps the state of each step and the activations of none. Only the call of the network belongs in
    here: a scheduler's step counts, or remembers, and would do so again on the way back.
    """
    if not torch.is_grad_enabled():
        return network(*inputs)
    see = _SEEN_BY.get()
    if see is not None:
        see(network, *inputs)
    found: Tensor = checkpoint(network, *inputs, use_reentrant=False)
    return found


_SEEN_BY: ContextVar[Callable[..., None] | None] = ContextVar("recomputed", default=None)


@contextmanager
def recomputations_seen(see: Callable[..., None]) -> Iterator[None]:
    """Let each network that is called by `recomputed` be seen, with its inputs, while the block runs."""
    token = _SEEN_BY.set(see)
    try:
        yield
    finally:
        _SEEN_BY.reset(token)


def draw(
    prior: Prior, n: int, seed: int, *, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "n *latent"]:
    """Draw latents of a prior: standard normal numbers, the same ones for the same seed on every device.

    Raises:
        ArgumentError: If the seed is no whole number that a generator takes, or the memory does not hold so many.
    """
    if not is_whole(seed) or abs(seed) >= _SEEDS:
        raise ArgumentError(f"seed is a whole number below 2^63; got {seed!r}.")
    generator = torch.Generator().manual_seed(seed)
    with fitting_memory(n, "draws"):
        numbers = torch.randn(n, *prior.latent_shape, generator=generator, dtype=torch.float64)
        return numbers.to(device=device, dtype=dtype)


@contextmanager
def fitting_memory(count: int, what: str) -> Iterator[None]:
    """Turn torch's word that memory is lacking into what to do.

    Raises:
        ArgumentError: If it is.
        RuntimeError: As it came, if it is of another kind.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(word in str(error).lower() for word in ("memory", "size calculation overflowed")):
            raise
        raise ArgumentError(f"{count:,} {what} do not fit into memory. Ask for fewer.") from error


def latent_quantile(latents: Float[Tensor, "some *latent"]) -> Float[np.ndarray, " some"]:
    """Return the share of a prior's own draws whose latents are shorter than each of these.

    The squared length of d standard normal numbers has the χ² distribution with d degrees of freedom. Draws of the
    prior have quantiles uniform over 0 to 1; one near 1 is longer than the prior ever draws, one near 0 shorter.

    Examples:
        >>> latent_quantile(torch.tensor([[0.0, 0.0], [30.0, 0.0]])).tolist()
        [0.0, 1.0]
    """
    flat = latents.detach().double().flatten(1)
    return np.asarray(chdtr(flat.shape[1], flat.square().sum(1).cpu().numpy()))


def evaluations(prior: Prior) -> int:
    """Return how many times one decoding calls the prior's network: its ``evaluations``, 1 if it tells none."""
    return int(getattr(prior, "evaluations", 1))


def checked_latents(latents: Tensor, shape: Sequence[int]) -> Tensor:
    """Return latents of the shape that a prior decodes.

    Raises:
        ShapeError: If they have another.
    """
    if tuple(latents.shape[1:]) != tuple(shape):
        raise ShapeError(
            f"This prior decodes latents of shape (n, {', '.join(map(str, shape))}); got {tuple(latents.shape)}."
        )
    return latents


def checked_shape(shape: Any) -> tuple[int, int, int]:
    """Return the shape of an image: channels, height and width.

    Raises:
        ArgumentError: If it is not of three whole numbers above 0.
    """
    known = isinstance(shape, Sequence) and len(shape) == _CHANNELS_AND_SIDES
    if not known or not all(is_whole(side) and side >= 1 for side in shape):
        told = f"a Tensor of shape {tuple(shape.shape)}" if isinstance(shape, Tensor) else repr(shape)
        raise ArgumentError(f"A shape is (channels, height, width), whole numbers above 0; got {told}.")
    channels, height, width = shape
    return int(channels), int(height), int(width)
