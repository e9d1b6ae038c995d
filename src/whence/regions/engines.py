"""The gradient of a score with respect to the training input, in three ways.

The score of a training input x for a target is S(x) = ⟨∇_θ L(x), d⟩ for the target's direction d, or, as a cosine,
that over ‖∇_θ L(x)‖ for a d of length 1. In both cases ∇S = ∇_x ⟨v, ∇_θ L(x)⟩ with a v that is held fixed: d itself, or
(d - S g/‖g‖)/‖g‖ with g = ∇_θ L(x). So ∇S is the derivative along v of
the input gradient of L.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import grad, grad_and_value, jvp, vmap
from torch.utils import _pytree as pytree

from whence._errors import ArgumentError, GradientError
from whence.gradients import twice_differentiable
from whence.regions.surface import Direction, Surface

Found = tuple[Tensor, Tensor]
"""Gradients (rows, \\*input) and scores (rows,)."""


@final
@dataclass(frozen=True, eq=False)
class Rows:
    """Points at which gradients of scores are wanted.

    Attributes:
        points: Training inputs, or inputs on a path there.
        labels: The training examples' labels.
        directions: Of the targets: one row a target.
        which: The target of each row.
        cosine: Whether the score is a cosine (directions then have length 1).
    """

    points: Float[Tensor, "rows *input"]
    labels: Any
    directions: dict[str, Tensor]
    which: Int[Tensor, " rows"]
    cosine: bool

    def first(self, count: int) -> Rows:
        """Return the first few rows."""
        labels = pytree.tree_map(lambda one: one[:count], self.labels)
        return Rows(self.points[:count], labels, self.directions, self.which[:count], self.cosine)


@runtime_checkable
class Engine(Protocol):
    """A way to differentiate a score with respect to the training input."""

    def gradients(self, surface: Surface, rows: Rows) -> Found:
        """Return the gradient and the score of each row."""
        ...


@final
@dataclass(frozen=True)
class Forward:
    """Forward over reverse: the derivative along v of the loss's input gradient, carried forwards; exact, all at once.

    No graph of a gradient is built, and rows are batched whatever their targets.
    """

    def gradients(self, surface: Surface, rows: Rows) -> Found:
        """Return the gradient and the score of each row.

        Raises:
            GradientError: If torch cannot carry a derivative through the model forwards, or not for all rows at once.
        """
        rate = vmap(_cosine if rows.cosine else _product, in_dims=(None, 0, 0, 0))
        directions = {name: one[rows.which] for name, one in rows.directions.items()}
        try:
            with torch.no_grad(), twice_differentiable(surface.model):
                found: Found = rate(surface, rows.points, rows.labels, directions)
        except RuntimeError as error:  # NotImplementedError is one
            raise GradientError(
                f"torch cannot differentiate this model so: {error}. DoubleBackward() asks less of it: one row at a "
                "time, backwards only."
            ) from error
        return found


@final
@dataclass(frozen=True)
class DoubleBackward:
    """The gradient of the score through the graph of a gradient, one row at a time: the reference, slower."""

    def gradients(self, surface: Surface, rows: Rows) -> Found:
        """Return the gradient and the score of each row."""
        with torch.enable_grad(), twice_differentiable(surface.model):
            found = [self._one(surface, rows, row) for row in range(len(rows.points))]
        return torch.stack([one for one, _ in found]), torch.stack([score for _, score in found])

    def _one(self, surface: Surface, rows: Rows, row: int) -> Found:
        point = rows.points[row].detach().clone().requires_grad_()
        live = {name: one.clone().requires_grad_() for name, one in surface.parameters.items()}
        loss = surface.at(live, point, pytree.tree_map(lambda one: one[row], rows.labels))
        gradients = torch.autograd.grad(loss, list(live.values()), create_graph=True, materialize_grads=True)
        gradient = dict(zip(live, gradients, strict=True))
        score = _inner(gradient, {name: one[rows.which[row]] for name, one in rows.directions.items()})
        if rows.cosine:
            squared = _inner(gradient, gradient)
            score = score / squared.sqrt() if squared > 0 else score * 0
        if not score.requires_grad:
            return torch.zeros_like(point), score.detach()
        (found,) = torch.autograd.grad(score, point, materialize_grads=True, allow_unused=True)
        return found, score.detach()


@final
@dataclass(frozen=True)
class Difference:
    """Central difference of ordinary input gradients of two models, moved along ± the target's direction.

    For smooth networks and scores that are no cosine. It needs no second derivative of any layer, and its error is
    measured on the first rows and stated; networks with kinks (ReLU, max-pooling) have too large a one and are refused.

    Args:
        step: How far to move, relative to the norm of the parameters that count; None chooses by precision.

    Raises:
        ArgumentError: If the step is not above 0.
    """

    step: float | None = None

    def __post_init__(self) -> None:
        if self.step is not None and not self.step > 0:
            raise ArgumentError(f"`step` is a length relative to the parameters', above 0; got {self.step!r}.")

    def gradients(self, surface: Surface, rows: Rows) -> Found:
        """Return the gradient and the score of each row.

        Raises:
            ArgumentError: If the score is a cosine.
        """
        if rows.cosine:
            raise ArgumentError(
                "A cosine's direction is another for each training example, so two moved models cannot serve all. "
                "Use Forward(), or GradDot instead of GradCos."
            )
        gradients, scores = torch.empty_like(rows.points), rows.points.new_empty(len(rows.points))
        for target in rows.which.unique().tolist():
            at = (rows.which == target).nonzero().squeeze(1)
            labels = pytree.tree_map(lambda one, at=at: one[at], rows.labels)
            direction = {name: one[target] for name, one in rows.directions.items()}
            gradients[at], scores[at] = self._of(surface, rows.points[at], labels, direction)
        return gradients, scores

    def _of(self, surface: Surface, points: Tensor, labels: Any, direction: Direction) -> Found:
        length = _inner(direction, direction).sqrt()
        if not length > 0:
            return torch.zeros_like(points), points.new_zeros(len(points))
        size = _inner(surface.parameters, surface.parameters).sqrt()
        epsilon = (self.step or torch.finfo(points.dtype).eps ** (1 / 3)) * torch.where(size > 0, size, 1) / length
        ends = []
        for sign in (1, -1):
            moved = {name: one + sign * epsilon * direction[name] for name, one in surface.parameters.items()}
            at = points.detach().clone().requires_grad_()
            with torch.enable_grad():
                losses = surface.together(moved, at, labels)
                (gradient,) = torch.autograd.grad(losses.sum(), at)
            ends.append((gradient, losses.detach()))
        (ahead, above), (behind, below) = ends
        return (ahead - behind) / (2 * epsilon), (above - below) / (2 * epsilon)


def _inner(left: Direction, right: Direction) -> Tensor:
    return torch.stack([(one * right[name]).sum() for name, one in left.items()]).sum()


def _product(surface: Surface, point: Tensor, label: Any, direction: dict[str, Tensor]) -> Found:
    """Return gradient and value of ⟨∇_θ L(x), direction⟩ at one point.

    The input gradient goes inside: torch's backward pass of layer normalisation's forward rule is wrong.
    """

    def slope(some: Direction) -> Found:
        found: Found = grad_and_value(lambda at: surface.at(some, at, label))(point)
        return found

    found: Found = jvp(slope, (surface.parameters,), (direction,))[1]
    return found


def _cosine(surface: Surface, point: Tensor, label: Any, direction: dict[str, Tensor]) -> Found:
    """Return gradient and value of the cosine of ∇_θ L(x) and a direction of length 1 at one point."""
    gradient = grad(surface.at)(surface.parameters, point, label)
    squared = _inner(gradient, gradient)
    inverse = torch.where(squared > 0, squared.clamp_min(torch.finfo(squared.dtype).tiny).rsqrt(), 0)
    score = _inner(gradient, direction) * inverse
    held = {name: (direction[name] - score * inverse * one) * inverse for name, one in gradient.items()}
    return _product(surface, point, label, held)[0], score
