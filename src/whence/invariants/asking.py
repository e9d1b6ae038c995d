"""What is asked: an objective, a prior and a query that go together, and the equations of the query's values."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from whence._errors import ArgumentError, ShapeError, WhenceError
from whence._numbers import even_parts
from whence.invariants.filters import low_pass
from whence.invariants.objective import Objective
from whence.invariants.priors.protocol import Chain, Prior
from whence.invariants.problem import Problem
from whence.invariants.solvers import Solver
from whence.kernel.answers import read_examples

_SPREAD = 1024  # examples that the objective's spread is measured on
_BYTES = 4  # of a number that can be searched in
_NOISE = 0.01  # of a value, that kernels of other batch sizes may differ by


_KINDS = {
    Objective: "an Objective, such as named_unit(model, 'layer4.1656') or logits(model, [3])",
    Prior: "a prior, such as load_prior(folder), Fourier(shape) or Pixels.of(data)",
    Chain: "a prior whose steps can be seen, such as load_prior(folder) or load_diffusion(folder)",
    Solver: "a solver, such as GaussNewton() or Metropolis()",
}


def checked_kind(name: str, given: Any, kind: type) -> None:
    """Refuse what is no objective, prior, chain or solver, as a name or a class in place of one.

    Raises:
        ArgumentError: If it is not.
    """
    if isinstance(given, type) or not isinstance(given, kind):
        told = f"the class {given.__name__}" if isinstance(given, type) else f"a {type(given).__name__}"
        raise ArgumentError(f"`{name}` is {_KINDS[kind]}; got {told}.")


def check_query(query: Any, prior: Prior) -> None:
    """Refuse a query that the prior cannot make.

    Raises:
        ShapeError: If its shape is not that of the prior's inputs.
        ArgumentError: If it is no tensor of floating-point numbers of 32 bits or more, it is on another device than the
            prior, the numbers are not finite, or outside of the range of the prior's inputs, if it tells one.
    """
    if not isinstance(query, Tensor) or not query.is_floating_point():
        given = f"a tensor of {query.dtype}" if isinstance(query, Tensor) else f"a {type(query).__name__}"
        raise ArgumentError(
            f"The query must be a tensor of floating-point numbers; got {given}. Convert it and scale it as "
            "the prior's training images were."
        )
    if query.dtype.itemsize < _BYTES:
        raise ArgumentError(
            f"The query is of {query.dtype}, too coarse to search in: its numbers have three digits or fewer. Give "
            "query.float(), and a model in float32, model.float()."
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
    wanted = _numbers(goal)
    if wanted.shape != own.shape:
        raise ShapeError(f"{objective.name} has {len(own)} values; got a goal of shape {tuple(wanted.shape)}.")
    if not bool(wanted.isfinite().all()):
        raise ArgumentError(f"goal is values to reach, finite numbers; got {wanted.tolist()}.")
    return Problem(objective, prior, wanted.to(own))


def _numbers(goal: Any) -> Tensor:
    """Return a goal as a tensor with an axis.

    Raises:
        ArgumentError: If it is neither a number nor a row of some.
    """
    try:
        found = torch.as_tensor(goal)
        return (found[None] if found.ndim == 0 else found).double()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(f"goal is a number, or a tensor of one for each value; got {goal!r}.") from error


def values_over(objective: Objective, data: Any, like: Tensor, at_once: int) -> Float[Tensor, "some values"]:
    """Return an objective's values on the first examples of data.

    Raises:
        DataError: If the data cannot be read.
        ArgumentError: If the objective cannot be called with its inputs.
        WhenceError: Whatever the objective itself refuses.
    """
    examples = read_examples(data, "predicted")
    some = range(min(_SPREAD, len(examples)))
    try:
        with torch.no_grad():
            parts = even_parts(some, min(256, at_once))
            return torch.cat([objective(examples.batch(part)[0].to(like)) for part in parts])
    except WhenceError:
        raise
    except Exception as error:  # whatever the network's own code raises
        raise ArgumentError(
            f"The objective {objective.name} cannot be called with the inputs of `data`: {error}. Give inputs like the "
            "query, or leave `data` out: the spread is then of the prior's draws."
        ) from error


def value_on(objective: Objective, query: Tensor) -> Float[Tensor, " values"]:
    """Return an objective's values on a query.

    Raises:
        ArgumentError: If it cannot be called with it, the values are not finite, or they are others when the query
            stands beside another input.
        WhenceError: Whatever the objective itself refuses.
    """
    try:
        with torch.no_grad():
            found = objective(query.detach()[None])[0]
            beside = objective(torch.stack([query.detach(), query.detach() / 2]))[:1]
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
    off = objective.away(beside, found)
    if not bool(off <= objective.tolerance + _NOISE * found.abs().max()):
        raise ArgumentError(
            f"The objective {objective.name} takes another value on the query beside another input than alone, "
            f"{float(off):.3g} away: its rows depend on each other, as by batch normalisation in training mode, or on "
            "chance, as by dropout. Put the network in evaluation mode, model.eval(), and answer each input by itself."
        )
    return found
