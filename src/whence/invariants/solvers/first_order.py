"""Solvers by gradient descent on the latent: the published algorithm as it is written, and any torch optimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.optim import Optimizer

from whence._errors import ArgumentError
from whence._numbers import is_number, is_whole
from whence.invariants.filters import low_pass
from whence.invariants.problem import Problem, row_gradient
from whence.invariants.solvers.protocol import Search, Status


@final
@dataclass(frozen=True, eq=False)
class InfiniteOptimization:
    """Algorithm 1 of EquiDiff (appendix .1), as it is written: for comparison.

    Each latent goes down the gradient of λ(‖L(x) - L(x*)‖² + ‖L(F x) - L(x*)‖²), F an ideal low-pass filter, until
    that is below τ. The second term asks the filtered sample to take the value of the query as it is, which the
    filtered query itself does not take: the query is no zero of this loss, and where details matter nothing is. λ,
    τ and the rate act together: of the published rate, 10, no λ is known. So this is not what `invariants` does by
    default.

    Attributes:
        rate: Of the gradient descent.
        scale: λ.
        cutoff: Of the filter; None leaves the second term out.
        steps: The budget B.
        threshold: τ, of the loss.
        feasible: Compare the filtered sample with the filtered query instead; the filter is then that of the call of
            `invariants`, which needs a ``cutoff``.

    Raises:
        ArgumentError: If a number is not what it must be.
    """

    rate: float = 10.0
    scale: float = 1.0
    cutoff: float | None = 0.5
    steps: int = 512
    threshold: float = 0.01
    feasible: bool = False

    def __post_init__(self) -> None:
        _check_numbers(self, ("rate", "scale", "threshold"))
        if self.cutoff is not None and not (is_number(self.cutoff) and 0 < self.cutoff <= 1):
            raise ArgumentError(
                f"cutoff is a share of the highest frequency, above 0 to 1, or None; got {self.cutoff!r}."
            )

    def solve(self, problem: Problem, search: Search) -> None:
        """Go down the gradient until the loss is below the threshold, or the steps are used up.

        A sample whose value is within the objective's tolerance at the end is solved, though its loss is not below the
        threshold: the loss asks for more than the value.

        Raises:
            ArgumentError: If the feasible target is asked for and the problem has no filter.
        """
        loss = self.loss_of(problem)
        for _ in range(self.steps):
            rows = search.rows()
            if not len(rows):
                return
            points, losses = _lossy(problem, search, rows, loss)
            below = losses.detach() < self.threshold
            search.close(rows[below], Status.SOLVED)
            if bool(below.all()):
                continue
            gradient = row_gradient(problem, losses[~below], points)[~below]
            search.went_back(rows[~below], problem.prior)
            search.latents[rows[~below]] -= self.rate * gradient
            _drop_lost(search, rows[~below])
        _end_within_tolerance(problem, search)

    def loss_of(self, problem: Problem) -> Callable[[Tensor], Tensor]:
        """Return the loss of each of a batch of inputs.

        Raises:
            ArgumentError: If the feasible target is asked for and the problem has no filter.
        """
        if self.feasible and (problem.cutoff is None or problem.filtered_goal is None):
            raise ArgumentError("A feasible filtered target needs `cutoff` in the call of invariants, such as 0.5.")
        cutoff = problem.cutoff if self.feasible else self.cutoff
        target = problem.filtered_goal if self.feasible and problem.filtered_goal is not None else problem.goal

        def loss(inputs: Tensor) -> Tensor:
            whole = (problem.objective(inputs) - problem.goal).square().sum(1)
            if cutoff is not None:
                whole = whole + (problem.objective(low_pass(inputs, cutoff)) - target).square().sum(1)
            return self.scale * whole

        return loss


@final
@dataclass(frozen=True, eq=False)
class FirstOrder:
    """Any optimizer of torch on the mean squared residual of each latent.

    With Adam and ``renormalise`` it is the scheme of DiG-IN (Augustin et al. 2024); over the prior `Pixels` it is
    plain optimisation of the input.

    Attributes:
        optimizer: A class of torch.optim that acts on each number by itself, as all but L-BFGS do.
        rate: Its learning rate.
        steps: At most so many.
        renormalise: Bring each latent back to its initial length after each step.

    Raises:
        ArgumentError: If a number is not what it must be.
    """

    optimizer: Callable[..., Optimizer] = torch.optim.Adam
    rate: float = 0.05
    steps: int = 512
    renormalise: bool = False

    def __post_init__(self) -> None:
        _check_numbers(self, ("rate",))
        if not callable(self.optimizer):
            raise ArgumentError(f"optimizer is a class, such as torch.optim.Adam; got {self.optimizer!r}.")
        if self.optimizer is torch.optim.LBFGS:
            raise ArgumentError(
                "L-BFGS mixes the numbers of all samples. Take an optimizer that acts on each number alone, such as "
                "torch.optim.Adam, or GaussNewton."
            )

    def solve(self, problem: Problem, search: Search) -> None:
        """Step until each is solved."""
        moved = search.latents.clone().requires_grad_()
        optimizer = self.optimizer([moved], lr=self.rate)
        lengths = _length(search.latents)
        for _ in range(self.steps):
            rows = search.rows()
            if not len(rows):
                return
            points = search.latents[rows].requires_grad_()
            with torch.enable_grad():
                measured = problem.at(points)
                losses = measured.residuals.square().mean(1)
                search.went_forward(rows, problem.prior)
                solved = measured.solved
                search.close(rows[solved], Status.SOLVED)
                if bool(solved.all()):
                    continue
                gradient = row_gradient(problem, losses[~solved], points)
            search.went_back(rows[~solved], problem.prior)
            moved.grad = torch.zeros_like(moved).index_copy_(0, rows, gradient)
            optimizer.step()
            left = rows[~solved]
            found = moved.detach()[left]
            if self.renormalise:
                found = found * (lengths[left] / _length(found).clamp_min(1e-30))
                moved.data[left] = found
            search.latents[left] = found
            _drop_lost(search, left)


def _check_numbers(solver: Any, above: tuple[str, ...]) -> None:
    """Refuse numbers that are not above 0, and steps that are no whole number above 0.

    Raises:
        ArgumentError: If there are such.
    """
    for name in above:
        if not is_number(getattr(solver, name)) or getattr(solver, name) <= 0:
            raise ArgumentError(f"{name} is a number above 0; got {getattr(solver, name)!r}.")
    if not is_whole(solver.steps) or solver.steps < 1:
        raise ArgumentError(f"steps is a whole number above 0; got {solver.steps!r}.")


def _lossy(
    problem: Problem, search: Search, rows: Int[Tensor, " some"], loss: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Float[Tensor, " some"]]:
    """Return the latents of some rows and their losses, with the graph between them."""
    points = search.latents[rows].requires_grad_()
    with torch.enable_grad():
        losses = loss(problem.prior.decode(points))
    search.went_forward(rows, problem.prior)
    return points, losses


def _end_within_tolerance(problem: Problem, search: Search) -> None:
    """End the searches whose steps are used up as solved where their values are within the tolerance."""
    rows = search.rows()
    if len(rows):
        with torch.no_grad():
            solved = problem.at(search.latents[rows]).solved
        search.went_forward(rows, problem.prior)
        search.close(rows[solved], Status.SOLVED)


def _length(latents: Tensor) -> Any:
    """Return the length of each latent, to multiply it with."""
    return latents.flatten(1).norm(dim=1).reshape(-1, *[1] * (latents.ndim - 1))


def _drop_lost(search: Search, rows: Int[Tensor, " some"]) -> None:
    """End the searches whose latents are no numbers any more."""
    lost = ~search.latents[rows].flatten(1).isfinite().all(1)
    search.close(rows[lost], Status.LOST)
