"""Modes followed along a run, minibatch by minibatch, by Oja's rule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from whence._errors import ArgumentError
from whence._numbers import check_budget, check_seed, is_number, is_whole
from whence._progress import progress
from whence.audit.products import fast_products
from whence.gradients import Captured, capture
from whence.kernel.layout import Layout
from whence.kernel.parameters import Layers, parameters_of
from whence.kernel.products import Gradients
from whence.kernel.trained import Trained
from whence.runs import ReplayedStep, Run, check_run

_FIRST = 1e4  # γ of the first batch, next to which the random directions that it is added to are small


@final
@dataclass(frozen=True, eq=False)
class OnlineModes:
    """Modes followed along a run; made by `online_modes`.

    The modes of an epoch are those learnt before it began: they stay fixed while its steps are measured with them. The
    first epoch has none, so that its measures are NaN.

    Attributes:
        names, shapes: Of the parameters.
        directions: Orthonormal rows in parameter space, by the epoch in which they are used, for the epochs asked for;
            those learnt by the end of the run stand under the number of epochs.
        captured: ‖ΦV‖_F / ‖Φ‖_F of each step that was looked at, Φ being the per-example gradients of its batch, dims
            ``("step",)``.
        singular_values: √(Σ ‖Φ v_k‖²) over the steps of each epoch, dims ``("epoch", "mode")``.
        drive: Λ_k, the sum over the steps of each epoch of v_k · the gradient of the batch's loss, dims
            ``("epoch", "mode")``. Where several batches make a step, their gradients are added up, undivided.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    directions: dict[int, Float[Tensor, "modes parameters"]]
    captured: xr.DataArray
    singular_values: xr.DataArray
    drive: xr.DataArray


def online_modes(
    run: Run,
    count: int = 125,
    *,
    every: int = 1,
    rate: float = 100.0,
    epochs: Sequence[int] = (),
    layers: Layers = "all",
    seed: int = 0,
    memory_budget: int = 2**29,
) -> OnlineModes:
    """Follow the leading modes of the minibatches' per-example gradients along a run (PLGK, appendix A.8).

    Oja's rule for a subspace: W ← qr(W + γ ΦᵀΦW / ‖Φ‖_F²) after each step, Φ being the gradients of its batch at the
    parameters before it, as training saw them. Divided by its energy every batch counts alike, as it does in
    `OnlineModes.captured`, and γ alone says how long batches are remembered: a direction that holds a share s of a
    batch's energy grows by 1 + γ s a step beside one that holds none, so one with s above 1 / (γ × steps of an epoch)
    is learnt within an epoch, and the last 1/(γ s) batches or so make it up. It begins with the first batch alone.

    Args:
        run: The run.
        count: How many modes.
        every: Look at every so many steps of an epoch only; the drive is then of those.
        rate: γ.
        epochs: Epochs whose modes to keep, besides those at the end.
        layers: Layers to take, as for attributors.
        seed: Of the directions that the first batch does not determine.
        memory_budget: Bytes that gradients may take when written out.

    Raises:
        ArgumentError: If an argument is outside what it may be, or the run has no step.
        LabelError: If there is no layer of a name.
        GradientError: If per-example gradients of the model cannot be formed.
        ReplayError: If the run does not replay.
    """
    check_run(run, "online_modes")
    check_budget(memory_budget)
    check_seed(seed)
    trained = Trained(run.model, run.examples, run.loss, run)
    trained.recorded("online_modes")
    names = parameters_of(trained, layers)
    layout = Layout.of(run.model, names)
    _check(run, layout, count, every, rate, epochs)
    follower = _Follower(layout, run, count, float(rate), memory_budget, seed)
    kept: dict[int, Tensor] = {}
    epoch_of = run.epoch_of_steps()
    first = {int(epoch): int(step) for step, epoch in reversed(list(enumerate(epoch_of)))}
    looked_at = [(step - first[int(epoch)]) % every == 0 for step, epoch in enumerate(epoch_of)]
    around = _Around(names, looked_at)
    with progress("online modes", run.steps) as advance:
        for made in run.replay(0, run.steps, around=around):
            epoch = int(epoch_of[made.index])
            if made.index == first[epoch]:
                follower.freeze(epoch)
                if epoch in epochs and follower.frozen is not None:
                    kept[epoch] = follower.frozen.T.contiguous()
            if looked_at[made.index]:
                follower.see(made)
            around.step = made.index + 1
            advance(1)
    kept[run.epochs] = _orthonormal(follower.live).T.contiguous()
    return OnlineModes(names, layout.shapes, kept, *follower.measures(run.epochs))


@final
class _Around:
    """Captures the microbatches of steps looked at; that shares add up to the batch gradient is checked at the first.

    Attributes:
        step: The step that is to come.
    """

    def __init__(self, names: tuple[str, ...], looked_at: Sequence[bool]) -> None:
        self.step = 0
        self._names, self._looked_at = names, looked_at
        self._checked = False

    def __call__(self, model: nn.Module) -> AbstractContextManager[Captured | None]:
        if not self._looked_at[self.step]:
            return nullcontext()
        check, self._checked = not self._checked, True
        return capture(model, self._names, check=check)


@final
class _Follower:
    """The projector that is learnt, the one that is frozen, and what was measured with that."""

    def __init__(self, layout: Layout, run: Run, count: int, rate: float, budget: int, seed: int) -> None:
        self._layout, self._count, self._rate, self._budget = layout, count, rate, budget
        like = next(iter(run.model.parameters()))
        draws = torch.randn(layout.parameters, count, generator=torch.Generator().manual_seed(seed))
        self.live = torch.linalg.qr(draws.to(like.device, like.dtype))[0]
        self.frozen: Tensor | None = None
        self._begun = False
        self._epoch = 0
        self._captured: dict[int, float] = {}
        self._squares: dict[int, Tensor] = {}
        self._drive: dict[int, Tensor] = {}

    def freeze(self, epoch: int) -> None:
        """Begin an epoch with what has been learnt, if anything has."""
        self._epoch = epoch
        if self._begun:
            self.frozen = self.live = _orthonormal(self.live)
            self._squares[epoch] = torch.zeros(self._count, dtype=torch.float64)
            self._drive[epoch] = torch.zeros(self._count, dtype=torch.float64)

    def see(self, made: ReplayedStep) -> None:
        """Measure one step with the frozen projector, then learn from it."""
        batches = [one.gradients() for one in made.seen]
        with fast_products():
            images, energy = zip(*(self._images(one) for one in batches), strict=True)
            total = sum(energy)
            if total == 0:
                return
            self._measure(made.index, images, total)
            self._learn(batches, images, total)

    def _measure(self, step: int, images: Sequence[Tensor], energy: float) -> None:
        if self.frozen is None:
            return
        parts = [one[:, self._count :].double() for one in images]
        squares = torch.stack([one.square().sum(0) for one in parts]).sum(0).cpu()
        self._captured[step] = float(squares.sum() / energy) ** 0.5
        self._squares[self._epoch] += squares
        self._drive[self._epoch] += torch.stack([one.sum(0) for one in parts]).sum(0).cpu()

    def _learn(self, batches: Sequence[Gradients], images: Sequence[Tensor], energy: float) -> None:
        change = torch.zeros_like(self.live)
        for gradients, image in zip(batches, images, strict=True):
            for place, part in self._layout.pieces(gradients, self._budget):
                change[place].addmm_(part.T, image[:, : self._count])
        moved = self.live.add(change, alpha=(self._rate if self._begun else _FIRST) / energy)
        self.live, self._begun = (_nearly_orthonormal if self._begun else _orthonormal)(moved), True

    def _images(self, gradients: Gradients) -> tuple[Float[Tensor, "examples both"], float]:
        """Return the gradients of a batch along what is learnt and what is frozen, and their energy."""
        both = self.live if self.frozen is None else torch.cat([self.live, self.frozen], 1)
        found, energy = None, 0.0
        for place, part in self._layout.pieces(gradients, self._budget):
            image = part @ both[place]
            found = image if found is None else found.add_(image)
            energy += float(torch.linalg.vector_norm(part, dim=1).double().square().sum())
        return both.new_zeros(0, both.shape[1]) if found is None else found, energy

    def measures(self, epochs: int) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
        """Return what was measured, labelled."""
        epoch = np.arange(epochs)
        empty = torch.full((self._count,), torch.nan, dtype=torch.float64)

        def by_epoch(found: Mapping[int, Tensor], name: str, unit: str) -> xr.DataArray:
            values = torch.stack([found.get(one, empty) for one in range(epochs)]).numpy()
            coords = {"epoch": epoch, "mode": np.arange(self._count)}
            return xr.DataArray(values, coords, ("epoch", "mode"), name, {"unit": unit})

        steps = np.array(list(self._captured), dtype=np.int64)
        values = np.array(list(self._captured.values()))
        captured = xr.DataArray(values, {"step": steps}, ("step",), "captured", {"unit": "share of the norm"})
        sizes = by_epoch(
            {one: values.sqrt() for one, values in self._squares.items()}, "singular_value", "units of loss gradient"
        )
        return captured, sizes, by_epoch(self._drive, "drive", "units of loss gradient, summed over steps")


def _orthonormal(vectors: Float[Tensor, "entries columns"]) -> Float[Tensor, "entries columns"]:
    """Return the orthonormal factor of vectors, each with the sign of its own."""
    basis, upper = torch.linalg.qr(vectors)
    signed: Tensor = basis * torch.where(upper.diagonal() < 0, -1.0, 1.0).to(basis.dtype)
    return signed


def _nearly_orthonormal(vectors: Float[Tensor, "entries columns"]) -> Float[Tensor, "entries columns"]:
    """Do as `_orthonormal`, in two fifths of the time, to the precision of the type times their condition squared.

    What it leaves is put right by the next step's, and by `_orthonormal` where it would be measured.
    """
    gram = (vectors.T @ vectors).double()
    upper, failed = torch.linalg.cholesky_ex(gram, upper=True)
    if int(failed):
        return _orthonormal(vectors)
    one = torch.eye(len(upper), dtype=upper.dtype, device=upper.device)
    basis: Tensor = vectors @ torch.linalg.solve_triangular(upper, one, upper=True).to(vectors.dtype)
    return basis


def _check(run: Run, layout: Layout, count: int, every: int, rate: float, epochs: Any) -> None:
    if not is_whole(count) or not 1 <= count <= layout.parameters:
        raise ArgumentError(
            f"`count` is a number of modes, 1 to {layout.parameters}, the entries of the parameters; got {count!r}."
        )
    if not is_whole(every) or every < 1:
        raise ArgumentError(f"`every` looks at each step (1) or each so many; got {every!r}.")
    if not is_number(rate) or rate <= 0:
        raise ArgumentError(f"`rate` is the γ of Oja's rule, a number above 0; got {rate!r}.")
    several = isinstance(epochs, Iterable) and not isinstance(epochs, str)
    if not several or not all(is_whole(one) and 0 < one < run.epochs for one in epochs):
        raise ArgumentError(
            f"`epochs` lists epochs of the run that have modes, 1 to {run.epochs - 1} (those learnt at the end are "
            f"kept anyway, and the first epoch has none); got {epochs!r}."
        )
