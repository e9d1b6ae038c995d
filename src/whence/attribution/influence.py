"""Influence functions with the exact Hessian, for models of up to some thousands of parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, vmap

from whence._errors import ArgumentError, GradientError
from whence._numbers import even_parts, is_number
from whence._progress import progress
from whence.attribution.gradients import Comparison, FittedGradients
from whence.audit.quantities import Numbers
from whence.datasets import call_model
from whence.gradients import Dense, differentiable_once_only, twice_differentiable
from whence.kernel.moments import end_of
from whence.kernel.parameters import Layers, parameters_of
from whence.kernel.products import Gradients
from whence.kernel.trained import Trained
from whence.runs import cast_floating, to_device

LARGEST = 10_000  # parameters; their Hessian takes 800 MB in float64
_ROWS = 256  # training examples whose curvature is computed at once
_COLUMNS = 64  # directions at once


@final
@dataclass(frozen=True)
class Influence:
    """Influence functions: ⟨h_n, (H + λ I)⁻¹ g_m⟩ with the exact Hessian H of the mean training loss.

    Koh & Liang (2017), section 2: M times the first-order rise of the target's loss when the example is taken out of M
    and training ends at the new optimum. Positive = helped, whatever the quantity. H is formed and factored in
    float64.

    Args:
        damping: λ; as weight decay of that strength would add. It must make H + λ I positive definite.
        quantity: Of the target: ``"loss"``, ``"logit"``, ``"margin"``, ``"probability"`` or a callable.
        layers: Which parameters count: ``"all"``, ``"last"``, or names of layers; at most `LARGEST` parameters.
    """

    damping: float
    quantity: str | Numbers = "loss"
    layers: Layers = "all"

    def fit(self, trained: Trained, *, memory_budget: int = 2**29) -> FittedGradients:
        """Form and factor the Hessian, and compute the training examples' gradients; see `Attributor.fit`.

        Raises:
            ArgumentError: If the damping is negative or too small, or there are too many parameters.
            GradientError: If an operation of the model has no second derivative.
        """
        unit = "{quantity} if removed and trained to the optimum, times the number of training examples"
        names, solve = parameters_of(trained, self.layers), self.solver(trained)
        what = Comparison("influence function", names, self.quantity, False, unit, transform=solve)
        return FittedGradients(trained, what, [end_of(trained)], memory_budget)

    def solver(self, trained: Trained) -> Callable[[Gradients], Gradients]:
        """Form and factor the damped Hessian, and return what multiplies gradients with its inverse.

        Raises:
            ArgumentError: If the damping is negative or too small, or there are too many parameters.
            GradientError: If an operation of the model has no second derivative.
        """
        if not is_number(self.damping) or self.damping < 0:
            raise ArgumentError(f"`damping` is a number, at least 0; got {self.damping!r}.")
        names = parameters_of(trained, self.layers)
        factor = _factored(hessian(trained, names), self.damping)
        return lambda gradients: _solved(factor, gradients, names, trained)


def hessian(trained: Trained, names: tuple[str, ...]) -> Float[Tensor, "parameters parameters"]:
    """Return the Hessian of the mean training loss in some parameters, flattened in order, in float64.

    Raises:
        ArgumentError: If there are more than `LARGEST` parameters.
        GradientError: If an operation of the model has no second derivative.
    """
    state = {name: one.detach().double() for name, one in trained.model.named_parameters()}
    size = sum(state[name].numel() for name in names)
    if size > LARGEST:
        raise ArgumentError(
            f"The exact Hessian of {size:,} parameters is too large (at most {LARGEST:,}). Name fewer `layers` "
            "(such as 'last'), or take another method: whence.attribution.Counterfactual of a recorded run."
        )
    buffers = {name: one.double() if one.is_floating_point() else one for name, one in trained.model.named_buffers()}
    total = torch.zeros(size, size, dtype=torch.float64, device=trained.device)
    parts = even_parts(range(len(trained.examples)), _ROWS)
    with progress("Hessian", len(parts)) as advance, twice_differentiable(trained.model):
        for part in parts:
            batch = cast_floating(to_device(trained.examples.batch(part), trained.device), torch.float64)
            _add_curvature(total, trained, names, {**state, **buffers}, batch)
            advance(1)
    return (total + total.T) / (2 * len(trained.examples))


def _add_curvature(
    total: Float[Tensor, "parameters parameters"],
    trained: Trained,
    names: tuple[str, ...],
    state: Mapping[str, Tensor],
    batch: Any,
) -> None:
    """Add the Hessian of the summed loss of a batch: the second backward pass along every axis."""
    inputs, labels = batch
    chosen = {name: state[name].clone().requires_grad_() for name in names}

    def called(*args: Any, **kwargs: Any) -> Any:
        return functional_call(trained.model, {**state, **chosen}, args, kwargs)

    try:
        loss = trained.loss.per_example(call_model(called, inputs), labels).sum()
        options: dict[str, Any] = {"allow_unused": True, "materialize_grads": True}
        gradients = torch.autograd.grad(loss, list(chosen.values()), create_graph=True, **options)
        flat = torch.cat([one.flatten() for one in gradients])
        wrong = differentiable_once_only([one for one in gradients if one.grad_fn is not None] or gradients[:1])
        if wrong is not None:
            raise RuntimeError(wrong)

        def back(along: Tensor) -> Tensor:
            found = torch.autograd.grad(flat, list(chosen.values()), along, retain_graph=True, **options)
            return torch.cat([one.flatten() for one in found])

        for columns in even_parts(range(len(flat)), _COLUMNS):
            axes = torch.zeros(len(columns), len(flat), dtype=flat.dtype, device=flat.device)
            axes[torch.arange(len(columns)), torch.arange(columns.start, columns.stop)] = 1.0
            total[columns.start : columns.stop] += vmap(back)(axes)
    except (NotImplementedError, RuntimeError) as error:
        raise GradientError(
            f"The Hessian of {type(trained.model).__name__} cannot be formed: {str(error).splitlines()[0]} Name "
            "`layers` after the operation that has no second derivative, or take a method of first order."
        ) from error


def unflattened(
    vectors: Float[Tensor, "*rows parameters"], like: Mapping[str, Tensor]
) -> dict[str, Float[Tensor, "*rows ..."]]:
    """Return the pieces of flat vectors in the shapes of some tensors, in order."""
    pieces = vectors.split([one.numel() for one in like.values()], -1)
    return {
        name: piece.reshape(*vectors.shape[:-1], *one.shape)
        for (name, one), piece in zip(like.items(), pieces, strict=True)
    }


def _factored(
    curvature: Float[Tensor, "parameters parameters"], damping: float
) -> Float[Tensor, "parameters parameters"]:
    """Return the Cholesky factor of H + λ I.

    Raises:
        ArgumentError: If it is not positive definite.
    """
    damped = curvature + damping * torch.eye(len(curvature), dtype=curvature.dtype, device=curvature.device)
    factor, failed = torch.linalg.cholesky_ex(damped)
    if failed:
        least = float(torch.linalg.eigvalsh(curvature)[0])
        raise ArgumentError(
            f"The Hessian has the eigenvalue {least:.3g}, so with damping {damping:g} it is not positive definite and "
            f"has no optimum to speak of. Give a damping well above {max(0.0, -least):.3g}."
        )
    found: Tensor = factor
    return found


def _solved(factor: Tensor, gradients: Gradients, names: tuple[str, ...], trained: Trained) -> Gradients:
    """Return (H + λ I)⁻¹ h of every target."""
    live = dict(trained.model.named_parameters())
    examples = next(iter(gradients.values())).examples
    flat = [
        gradients[name].part(0, gradients[name].shape[0])
        if name in gradients
        else live[name].new_zeros(examples, live[name].numel())
        for name in names
    ]
    right = torch.cat(flat, 1)
    solved = torch.cholesky_solve(right.double().T, factor).T.to(right.dtype)
    pieces = solved.split([live[name].numel() for name in names], 1)
    return {
        name: Dense(piece.reshape(examples, *(live[name].shape or (1,))))
        for name, piece in zip(names, pieces, strict=True)
    }
