"""The modes of a training: the directions in parameter space along which examples' loss gradients pull most."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from whence._errors import ArgumentError
from whence._numbers import check_seed, is_number, is_whole
from whence._progress import progress
from whence.audit.chunks import chosen_ids
from whence.kernel.layout import Layout
from whence.kernel.matrix import GradientMatrix
from whence.kernel.parameters import Layers, parameters_of
from whence.kernel.trained import Trained, at_step
from whence.runs import Run


@final
@dataclass(frozen=True, eq=False)
class Modes:
    """Truncated singular value decomposition Φ ≈ U S Vᵀ of training examples' loss gradients; made by `modes`.

    A row of Φ is one example's gradient g_m. Of each pair (u_k, v_k) and (-u_k, -v_k) the one is taken whose v_k has a
    positive entry of largest size, so that signs are the same in every computation.

    Attributes:
        names, shapes: Of the parameters.
        directions: v_k, orthonormal rows in parameter space, largest singular value first.
        singular_values: σ_k.
        alignment: a_k = u_k · 1: how far the examples agree along mode k.
        drive: Λ_k = a_k σ_k, which is v_k · Σ_m g_m: how hard all examples together push along mode k.
        energy: ‖Φ‖_F², of all modes, also those not computed.
        examples: Ids of the training examples.
        step: The gradients are those before this step of the run; None for a trained model taken as it is.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    directions: Float[Tensor, "modes parameters"]
    singular_values: Float[Tensor, " modes"]
    alignment: Float[Tensor, " modes"]
    drive: Float[Tensor, " modes"]
    energy: float
    examples: tuple[int, ...]
    step: int | None

    @cached_property
    def captured(self) -> Float[Tensor, " modes"]:
        """Share of the energy in the first 1, 2, ... modes: Σ σ_k² / ‖Φ‖_F²."""
        return self.singular_values.double().square().cumsum(0) / self.energy

    @property
    def layout(self) -> Layout:
        """Where each parameter stands in a direction."""
        return Layout(self.names, self.shapes)

    def __len__(self) -> int:
        return len(self.singular_values)


def modes(  # noqa: PLR0913 - each is a question of its own
    source: Run | Trained,
    *,
    step: int | None = None,
    count: int = 50,
    ids: Sequence[int] | None = None,
    layers: Layers = "all",
    oversampling: int = 10,
    iterations: int = 2,
    seed: int = 0,
    memory_budget: int = 2**29,
) -> Modes:
    """Decompose the training examples' loss gradients at one state into modes (PLGK, section 6.3 and algorithm 1).

    The decomposition is that of a random subspace brought near the leading one (Halko, Martinsson & Tropp, 2011,
    algorithms 4.4 and 5.1): Q from Φᵀ times random numbers, then ``iterations`` times from ΦᵀΦQ, at last the singular
    value decomposition of ΦQ. So directions are orthonormal and Φ v_k = σ_k u_k whatever the number of iterations; a
    σ_k is never too large, and its error falls by (σ_r/σ_k)⁴ an iteration, with r the size of the subspace. Each
    iteration goes through all examples; their gradients are formed anew unless they fit the budget.

    The model is in evaluation mode: no dropout, running averages in batch normalisation.

    Args:
        source: A recorded run, or a trained model (`as_trained`).
        step: The step before which the run's state is taken; its end when left out.
        count: How many modes.
        ids: Training examples to take; all when left out.
        layers: Layers to take, as for attributors.
        oversampling: Dimensions of the subspace beyond ``count``.
        iterations: How often the subspace is improved.
        seed: Of the random numbers.
        memory_budget: Bytes that gradients may take.

    Raises:
        ArgumentError: If there are not so many modes, an argument is outside what it may be, the source has no such
            step, no gradient differs from zero, or one is not finite.
        LabelError: If there is no layer of a name.
        GradientError: If per-example gradients of the model cannot be formed.
    """
    check_seed(seed)
    trained, at = standing(source, step)
    chosen = chosen_ids(ids, len(trained.examples), "training example").tolist()
    names = parameters_of(trained, layers)
    matrix = GradientMatrix(trained, trained.examples, chosen, trained.loss.per_example, names, memory_budget)
    _check(count, matrix)
    for name, value in (("oversampling", oversampling), ("iterations", iterations)):
        if not is_whole(value) or value < 0:
            raise ArgumentError(f"`{name}` is a whole number, at least 0; got {value!r}.")
    directions, values, alignment = _decomposed(matrix, count, count + oversampling, iterations, seed)
    return Modes(
        names=names,
        shapes=matrix.layout.shapes,
        directions=directions,
        singular_values=values,
        alignment=alignment,
        drive=alignment * values,
        energy=matrix.energy,
        examples=tuple(chosen),
        step=at,
    )


def modes_for_energy(modes: Modes, shares: Any = (0.9, 0.95, 0.99)) -> dict[float, int]:
    """Return how many modes hold each share of the energy ‖Φ‖_F² (PLGK, table 3: K@X%).

    Args:
        modes: The modes.
        shares: Above 0 and at most 1.

    Raises:
        ArgumentError: If the shares are no list, one is no share, or the modes computed do not hold it.
    """
    if isinstance(shares, str) or not isinstance(shares, Iterable):
        raise ArgumentError(f"`shares` is a list of shares of the energy, such as [0.9, 0.99]; got {shares!r}.")
    wrong = [share for share in shares if not is_number(share) or not 0 < share <= 1]
    if wrong:
        raise ArgumentError(f"Shares of the energy are above 0 and at most 1; got {wrong[0]!r}.")
    return {share: _needed(modes, share) for share in shares}


def standing(source: Run | Trained, step: int | None) -> tuple[Trained, int | None]:
    """Return the model at a state, and the step before which that is.

    Raises:
        ArgumentError: If the source is of another kind, or has no such step.
    """
    if not isinstance(source, Run | Trained):
        raise ArgumentError(
            f"Give a recorded run or a trained model (as_trained(model, train_data, loss=...)); got {_kind(source)}."
        )
    if isinstance(source, Trained) and step is None:
        return source, None
    run = source if isinstance(source, Run) else source.recorded("The state before a step")
    at = run.steps if step is None else step
    if not is_whole(at) or not 0 <= at <= run.steps:
        raise ArgumentError(f"`step` is one of the run's, 0 to {run.steps} ({run.steps} is its end); got {step!r}.")
    return at_step(run, int(at)), int(at)


def _kind(source: Any) -> str:
    return type(source).__name__


def _check(count: int, matrix: GradientMatrix) -> None:
    most = min(matrix.rows, matrix.columns)
    if not is_whole(count) or not 1 <= count <= most:
        raise ArgumentError(
            f"`count` is a number of modes, 1 to {most}: {matrix.rows} examples have gradients of {matrix.columns} "
            f"entries; got {count!r}."
        )


def _decomposed(
    matrix: GradientMatrix, count: int, size: int, iterations: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return directions, singular values and alignments."""
    size = min(size, matrix.rows, matrix.columns)
    draws = torch.randn(matrix.rows, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    with progress("modes", (iterations + 2) * matrix.rows) as advance:
        basis = _orthonormal(matrix.transposed_times(draws.to(matrix.device, matrix.dtype), advance))
        for _ in range(iterations):
            basis = _orthonormal(matrix.normal_times(basis, advance))
        image = matrix.times(basis, advance)
    if not math.isfinite(matrix.energy):
        raise ArgumentError(
            f"Among the loss gradients of these {matrix.rows} examples some are not finite, so they have no modes. "
            "Leave the examples with nan or infinite inputs or losses out (`ids`), or take an earlier `step`."
        )
    if matrix.energy == 0:
        raise ArgumentError(
            f"The loss gradients of all {matrix.rows} examples are zero, so they have no modes. Take an earlier "
            "`step`, or other `ids` or `layers`."
        )
    left, values, rotation = torch.linalg.svd(image.double(), full_matrices=False)
    directions = rotation[:count].to(basis.dtype) @ basis.T
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    signs = torch.where(largest < 0, -1.0, 1.0).to(basis.dtype)
    alignment = left[:, :count].sum(0).to(basis.dtype) * signs[:, 0]
    return directions * signs, values[:count].to(basis.dtype), alignment


def _orthonormal(vectors: Float[Tensor, "entries columns"]) -> Float[Tensor, "entries columns"]:
    basis: Tensor = torch.linalg.qr(vectors)[0]
    return basis


def _needed(modes: Modes, share: float) -> int:
    enough = (modes.captured >= share).nonzero()
    if len(enough):
        return int(enough[0]) + 1
    most = min(len(modes.examples), modes.layout.parameters)
    raise ArgumentError(
        f"The {len(modes)} modes hold {float(modes.captured[-1]):.4f} of the energy, not {share}. "
        f"Ask modes() for more, such as count={_guess(modes, share, most)}."
    )


def _guess(modes: Modes, share: float, most: int) -> int:
    """Return a count that would do if every further mode held as much as the last; at least twice as many."""
    lacking = (share - float(modes.captured[-1])) * modes.energy
    further = min(most, lacking / max(float(modes.singular_values[-1]) ** 2, lacking / most))
    return min(most, len(modes) + max(len(modes), int(further) + 1))
