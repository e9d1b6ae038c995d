"""What is asked: a query that a prior can make, and the equations of its values."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from whence._errors import ArgumentError, ShapeError, WhenceError
from whence.invariants.filters import low_pass
from whence.invariants.objective import Objective
from whence.invariants.priors.protocol import Prior
from whence.invariants.problem import Problem


def check_query(query: Any, prior: Prior) -> None:
    """Refuse a query that the prior cannot make.

    Raises:
        ShapeError: If its shape is not that of the prior's inputs.
        ArgumentError: If it is no tensor of floating-point numbers, it is on another device than the prior, the numbers
            are not finite, or outside of the range of the prior's inputs, if it tells one.
    """
    if not isinstance(query, Tensor) or not query.is_floating_point():
        given = f"a tensor of {query.dtype}" if isinstance(query, Tensor) else f"a {type(query).__name__}"
        raise ArgumentError(
            f"The query must be a tensor of floating-point numbers; got {given}. Convert it and scale it as "
            "the prior's training images were."
        )
    place = device_of_prior(prior)
    if place is not None and place != query.device:
        raise ArgumentError(
            f"The query is on {query.device} and the prior on {place}. Search where the network is: move the query, "
            f'query.to("{place}"), or the prior, as load_prior(folder, device=...) does.'
        )
    latent = torch.zeros(1, *prior.latent_shape, dtype=query.dtype, device=query.device)
    with torch.no_grad():
        made = prior.decode(latent).shape[1:]
    if query.shape != made:
        raise ShapeError(
            f"The query has the shape {tuple(query.shape)}, and the prior makes inputs of {tuple(made)}. Give one "
            "input without a batch axis, of the size that the prior was trained on."
        )
    numbers = query.detach()
    if not bool(numbers.isfinite().all()):
        raise ArgumentError("The query has numbers that are not finite. Give an input that the network can answer.")
    low, high = getattr(prior, "bounds", None) or (-torch.inf, torch.inf)
    slack = 0.01 * (high - low) if high - low < torch.inf else 0.0
    least, most = float(numbers.min()), float(numbers.max())
    if least < low - slack or most > high + slack:
        raise ArgumentError(
            f"The query's numbers go from {least:.4g} to {most:.4g}, and the prior's inputs from {low:.4g} to "
            f"{high:.4g}. Scale the query as the prior's training images were."
        )


def device_of_prior(prior: Prior) -> torch.device | None:
    """Return where a prior's network is; None for one without."""
    networks = (one for one in (prior, getattr(prior, "model", None)) if isinstance(one, nn.Module))
    return next((one.device for network in networks for one in chain(network.parameters(), network.buffers())), None)


def problem_of(
    objective: Objective,
    query: Float[Tensor, "*input"],
    prior: Prior,
    *,
    cutoff: float | None = None,
    goal: Any = None,
) -> Problem:
    """Return the equations that inputs with a query's values solve.

    Args:
        objective: What is kept.
        query: Whose values.
        prior: Whose latents.
        cutoff: Of a low-pass filter.
        goal: Values to reach instead, a tensor of as many or the only one as a number.

    Raises:
        ArgumentError: If the cutoff is not above 0, to 1, both it and a goal are given, the values or the goal are not
            finite, or the objective cannot be called with the query.
        ShapeError: If the goal has another length than the objective's values.
    """
    own = value_on(objective, query)
    if goal is None:
        filtered = None if cutoff is None else value_on(objective, low_pass(query, cutoff))
        return Problem(objective, prior, own, filtered, cutoff)
    if cutoff is not None:
        raise ArgumentError("A filter needs what the query's filtered values are; with `goal` leave `cutoff` out.")
    wanted = torch.as_tensor([goal] if isinstance(goal, int | float) else goal)
    if wanted.shape != own.shape:
        raise ShapeError(f"{objective.name} has {len(own)} values; got a goal of shape {tuple(wanted.shape)}.")
    if not bool(wanted.isfinite().all()):
        raise ArgumentError(f"goal is values to reach, finite numbers; got {wanted.tolist()}.")
    return Problem(objective, prior, wanted.to(own))


def value_on(objective: Objective, query: Tensor) -> Float[Tensor, " values"]:
    """Return an objective's values on a query.

    Raises:
        ArgumentError: If it cannot be called with it, or the values are not finite.
        WhenceError: Whatever the objective itself refuses.
    """
    try:
        with torch.no_grad():
            found = objective(query.detach()[None])[0]
    except WhenceError:
        raise
    except Exception as error:  # whatever the network's own code raises
        raise ArgumentError(
            f"The objective {objective.name} cannot be called with the query, of shape {tuple(query.shape)}, "
            f"{query.dtype} on {query.device}: {error}. Give an input of the shape, type and device of the network's."
        ) from error
    if not bool(found.isfinite().all()):
        raise ArgumentError(
            f"The objective {objective.name} takes no finite value on the query: {found.tolist()[:5]}. Take another "
            "query, or an objective that is defined there."
        )
    return found
