"""A recorded run: its steps, and how to walk them again."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import SupportsIndex, final

import numpy as np
from torch import nn

from whence._errors import ArgumentError, ReplayError
from whence._numbers import is_whole
from whence.datasets import Examples
from whence.runs.clipping import Clipping, find_clipping
from whence.runs.landing import Landing, check_landing, measure
from whence.runs.layout import snapshots_of, table_path
from whence.runs.loss import TrainingLoss
from whence.runs.manifest import Manifest
from whence.runs.private import model_copy
from whence.runs.retraining import as_weights, retrain
from whence.runs.settings import decode_settings, optimizer_class
from whence.runs.snapshots import ModelState, Snapshots, TrainingState, copied
from whence.runs.step_record import StepRecord
from whence.runs.steps import StepTable
from whence.runs.verification import Verification, verify
from whence.runs.walker import Around, ReplayedStep, Walker


@final
@dataclass(frozen=True)
class Segment:
    """Steps ``start`` to ``stop - 1``; there is a snapshot before step ``start``."""

    start: int
    stop: int


@final
class Run:
    """A recorded run; made by `open_run`.

    Attributes:
        path: Its folder.
        steps: Number of whole steps.
        epochs: Number of epochs that have steps.
        examples: The training data.
        loss: The loss of the training.
        model: A private copy of the model, with which steps are walked again; its parameters change then.
        parameter_names: The trained parameters, shared ones once; see `Manifest.ever_trained`.
        manifest: What ``run.json`` says.
        identity: 32 hexadecimal digits, drawn when recording began: no other run has them.
    """

    def __init__(
        self, path: Path, manifest: Manifest, model: nn.Module, examples: Examples, loss: TrainingLoss
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.identity = manifest.id
        self.model = model
        self.examples = examples
        self.loss = loss
        self._table = StepTable.read_from(table_path(path))
        self._snapshots = snapshots_of(path)
        self._epochs = self._table.epochs_of_steps()
        self.steps = len(self._epochs)
        self.epochs = int(self._epochs.max()) + 1 if self.steps else 0
        groups = self.record_of(self.steps - 1).settings if self.steps else decode_settings(manifest.groups)
        self.parameter_names = manifest.ever_trained(groups, self._table.updated_names())
        self._load = lru_cache(maxsize=2)(self._snapshots.load)
        kind = optimizer_class(manifest.optimizer)
        self._walker = Walker(model, kind, examples, loss)
        self._aside = Walker(model_copy(model), kind, examples, loss)  # so that state_at leaves a walk alone
        self._walks = 0
        self._clipping: Clipping | None = None

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.steps} steps, {self.epochs} epochs)"

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the run's files."""
        self._table.close()

    def reopen(self) -> None:
        """Open the run's files anew, in a process that inherited this object."""
        self._table = StepTable.read_from(table_path(self.path))

    @property
    def snapshots(self) -> Snapshots:
        """The snapshots of the run."""
        return self._snapshots

    def record_of(self, step: int) -> StepRecord:
        """Return what was recorded of a step.

        Raises:
            ArgumentError: If there is no such step.
            RunFormatError: If its row cannot be read.
        """
        return self._table.read(step)

    def epoch_of_steps(self) -> np.ndarray:
        """Return the epoch of each step, int64 (steps,)."""
        return self._epochs.copy()

    def segments(self) -> tuple[Segment, ...]:
        """Return the stretches between snapshots, in order, covering all steps."""
        starts = sorted({0, *(step for step in self._snapshots.steps() if step < self.steps)}) if self.steps else []
        return tuple(Segment(start, stop) for start, stop in zip(starts, [*starts[1:], self.steps], strict=True))

    def state_at(self, step: int) -> ModelState:
        """Return parameters and buffers before step ``step``; ``run.steps`` is the end of the training.

        Raises:
            ArgumentError: If the step is not between 0 and ``run.steps``.
            SnapshotError: If the snapshot needed is truncated, altered or missing.
            ReplayError: If the steps from that snapshot on do not give what was recorded.
        """
        state = self.training_state_at(step)
        return ModelState.of(state)

    def training_state_at(self, step: int) -> TrainingState:
        """Return all that the training stood at before step ``step``, optimizer and random state included.

        Errors are those of `state_at`.
        """
        self._check_range(step, step)
        start = self._snapshot_before(step)
        if start == step:
            return self._load(start)
        self._stand(self._aside, start)
        for number in range(start, step):
            self._aside.step(self.record_of(number))
        return self._aside.state()

    def states_at(self, steps: Sequence[int]) -> dict[int, TrainingState]:
        """Return copies of all that the training stood at before each of some steps, in one walk over them.

        Args:
            steps: The steps, in order.

        Errors are those of `replay`.
        """
        if not steps:
            return {}
        found = {steps[0]: copied(self.training_state_at(steps[0]))}
        for made in self.replay(steps[0], steps[-1]):
            if made.index + 1 in steps:
                found[made.index + 1] = copied(self._walker.state())
        return found

    def replay(
        self, start: int, stop: int, *, around: Around | None = None, state: TrainingState | None = None
    ) -> Iterator[ReplayedStep]:
        """Make steps ``start`` to ``stop - 1`` again, from the nearest snapshot before them.

        Each step is yielded just after ``optimizer.step()``. Wherever a snapshot is passed, the walk is compared with
        it and goes on from it. torch's random state, outside of the steps, is left alone.

        Args:
            start, stop: The first step, and the one after the last.
            around: Given the model, a block to enter around forward and backward of each microbatch. Where the loop
                accumulated gradients, finding out how may take a second attempt at a step, which enters it again.
            state: Where the training stood before step ``start``, if that is known (`states_at`).

        Yields:
            The steps.

        Raises:
            ArgumentError: If the steps are not between 0 and ``run.steps``.
            SnapshotError: If a snapshot needed is truncated, altered or missing.
            ReplayError: If a gradient is not the recorded one, or the walk misses a snapshot, naming the steps and
                likely causes; or if another walk of this object begins meanwhile.
        """
        yield from self.walk(start, stop, around, self.land, state)

    def walk(
        self,
        start: int,
        stop: int,
        around: Around | None,
        arrive: Callable[[int, int], object],
        state: TrainingState | None = None,
    ) -> Iterator[ReplayedStep]:
        """Do as `replay`, calling ``arrive(previous, step)`` wherever a snapshot is passed; errors are its."""
        self._check_range(start, stop)
        if start == stop:
            return
        walk = self._begin_walk()
        last = self._snapshot_before(start)
        kept = set(self._snapshots.steps())
        first = last if state is None else start
        self._stand(self._walker, first, state)
        for number in range(first, stop):
            if number != first and number in kept:
                arrive(last, number)
                self._stand(self._walker, number)
                last = number
            made = self._walker.step(self.record_of(number), around if number >= start else None)
            if number >= start:
                yield made
                self._check_walk(walk)
        if stop in kept:
            arrive(last, stop)

    def clipping(self) -> Clipping:
        """Return what the loop did to its gradients, found in one walk over the whole run (once; then it is known).

        Raises:
            ReplayError: If the run does not replay, or no rule explains what the loop did.
        """
        if self._clipping is None:
            live = dict(self.model.named_parameters())
            self._clipping = find_clipping(lambda: self.replay(0, self.steps), live)
        return self._clipping

    def retrain(
        self, without: Iterable[SupportsIndex] = (), *, weights: Mapping[int, float] | Sequence[float] | None = None
    ) -> ModelState:
        """Train again as recorded, with training examples left out or weighted.

        Initialisation, order and randomness are the recorded ones. An example's weight multiplies its loss; what a
        batch is divided by stays. With every weight 1 the end is the recorded one: bit by bit on the machine that
        recorded, but for the last digits of a clipping's bound.

        Args:
            without: Ids of examples to leave out: weight 0.
            weights: Weights of other examples, by id, or one for each training example.

        Returns:
            Parameters and buffers at the end.

        Raises:
            ArgumentError: If an id or weight is none, or more examples are left out than there are.
            ReplayError: If the run does not replay, or no rule explains how the loop clipped its gradients.
        """
        return retrain(self, as_weights(len(self.examples), without, weights))

    def verify(self, *, repair: bool = False) -> Verification:
        """Walk the whole run again and compare with every snapshot.

        Args:
            repair: Write a snapshot that is truncated or altered anew, from the one before it; not the very first. A
                deleted one is not missed: the walk goes past it.

        Returns:
            What was compared, and how closely it agreed.

        Raises:
            SnapshotError: If a snapshot is damaged and ``repair`` is False, or it is the first.
            ReplayError: If the run cannot be walked again.
        """
        return verify(self, repair=repair)

    def land(self, start: int, stop: int) -> Landing:
        """Compare the walk, which came from the snapshot before ``start``, with the one before ``stop``.

        Raises:
            SnapshotError: If a snapshot is truncated, altered or missing.
            ReplayError: If the walk misses it.
        """
        found = measure(self._walker.state(), self._load(stop), self._load(start), stop - start)
        check_landing(found, start, stop, self._table.touched(start, stop))
        return found

    def rewrite_snapshot(self, step: int) -> None:
        """Write the snapshot before ``step`` anew from where the walk stands."""
        self._snapshots.save(step, self._walker.state())

    def _begin_walk(self) -> int:
        self._walks += 1
        return self._walks

    def _check_walk(self, walk: int) -> None:
        if walk != self._walks:
            raise ReplayError(
                "Another walk of this run has begun, on the same model. Finish one before the next, "
                "or open the run twice with open_run()."
            )

    def _stand(self, walker: Walker, step: int, state: TrainingState | None = None) -> None:
        settings = self.record_of(step).settings if step < self.steps else decode_settings(self.manifest.groups)
        walker.stand(self._load(step) if state is None else state, settings)

    def _snapshot_before(self, step: int) -> int:
        return max((kept for kept in self._snapshots.steps() if kept <= step), default=0)

    def _check_range(self, start: int, stop: int) -> None:
        if not is_whole(start) or not is_whole(stop) or not 0 <= start <= stop <= self.steps:
            raise ArgumentError(f"The run has steps 0 to {self.steps}; got {start!r} to {stop!r}.")
