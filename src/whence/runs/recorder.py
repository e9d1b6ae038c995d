"""The object inside ``with record(...)``: it hands out batches and writes what the hooks see."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from whence._errors import ArgumentError, RecordingError
from whence._numbers import is_whole
from whence.datasets import Examples
from whence.runs.cadence import Cadence
from whence.runs.epochs import Epochs
from whence.runs.loaders import WatchedLoader
from whence.runs.lock import RunLock
from whence.runs.microbatches import Microbatch
from whence.runs.observer import Observer
from whence.runs.randomness import RandomState, same_convolutions
from whence.runs.snapshots import read_state
from whence.runs.step_record import StepRecord
from whence.runs.steps import StepTable
from whence.runs.tapped import TappedLoader


@final
class Recorder:
    """Record a training; made by `record` or `start_recording`.

    Args:
        model: The model that the loop calls.
        optimizer: Its optimizer.
        examples: The training data.
        table: Where steps are written.
        cadence: Where and when snapshots are written.
        random: The random state that a replay stands at before the next step.
        lock: Held until the recorder is closed.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        examples: Examples,
        *,
        table: StepTable,
        cadence: Cadence,
        random: RandomState,
        lock: RunLock,
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._examples = examples
        self._table = table
        self._cadence = cadence
        self._device = device_of(model)
        self._epochs = Epochs(table, self._device)
        self._step = len(table)
        self._whole = True  # False while the parameters may be ahead of the table
        self._stack = ExitStack()
        self._stack.enter_context(same_convolutions(self._device))
        self._observer = Observer(
            model, optimizer, random=random, step=self._step, place=table.last_place(), emit=self._keep
        )
        self._stack.callback(lock.release)
        self._stack.callback(table.close)
        self._observer.attach(self._stack)
        self._open = True

    @property
    def step(self) -> int:
        """How many whole steps are recorded: the number of the next step."""
        return self._step

    @property
    def epoch(self) -> int:
        """The epoch to go on with: the one under way, or else the next."""
        return self._epochs.current

    def batches(
        self, batch_size: int, *, shuffle: bool = True, seed: int = 0, drop_last: bool = False
    ) -> Iterator[tuple[Any, Any]]:
        """Hand out one epoch of batches; each call is the next epoch.

        After resuming in the middle of an epoch, the first call goes on where it stopped.

        Args:
            batch_size: Examples a batch; the last may be smaller.
            shuffle: Whether each epoch has its own random order, which depends only on ``seed`` and the epoch.
            seed: What the order depends on. torch's global random state is not touched.
            drop_last: Whether to leave out a last batch that is smaller.

        Returns:
            An iterator of ``(inputs, labels)``.

        Raises:
            ArgumentError: If the batch size is not positive or the seed negative.
            RecordingError: If the recorder is closed.
        """
        if not (is_whole(batch_size) and is_whole(seed) and batch_size >= 1 and seed >= 0):
            raise ArgumentError(
                f"batch_size must be at least 1 and seed at least 0, whole numbers; got {batch_size!r} and {seed!r}."
            )
        self._check_open()
        return self._epoch_of_batches(batch_size, shuffle, seed, drop_last)

    def watch(self, loader: DataLoader[Any]) -> WatchedLoader:
        """Return an iterable that gives the same batches as ``loader``, each pass one epoch.

        Make it once, before the loop over epochs. Worker processes stay; the random draws are those of the loader.

        Args:
            loader: A ``DataLoader`` over the ``train_data`` of `record`.

        Raises:
            UnsupportedLoaderError: If the loader does not say which examples form a batch; the message says what
                to change.
            RecordingError: If the recorder is closed.
        """
        self._check_open()
        return WatchedLoader(
            loader,
            self._examples,
            epochs=self._epochs,
            device=self._device,
            offer=self._observer.offer,
            check_open=self._check_open,
        )

    def tap(self, loader: Any, *, skip: int = 0) -> TappedLoader:
        """Learn the batches of a loader that another library iterates; for callbacks. See `TappedLoader`.

        Args:
            loader: A ``DataLoader`` over the training data. Its batch sampler is replaced until it is released.
            skip: How many batches of the first pass the library leaves out.

        Raises:
            UnsupportedLoaderError: If the loader does not say which examples form a batch.
            RecordingError: If the recorder is closed.
        """
        self._check_open()
        return TappedLoader(
            loader, self._examples, epochs=self._epochs, device=self._device, offer=self._observer.offer, skip=skip
        )

    def close(self) -> None:
        """Write the last snapshot and take the hooks away; a second call does nothing.

        If the model was changed since the last step (as by loading its best weights), that snapshot is left out: the
        run ends at its last step.

        Raises:
            DiskError: If the snapshot cannot be written. The hooks are gone, and the run can be opened.
        """
        if not self._open:
            return
        self._open = False
        with self._stack:
            self._table.sync()
            if self._whole and not self._observer.disturbed() and not self._cadence.has(self._step):
                self._snapshot()

    def abandon(self) -> None:
        """Take the hooks away without another write, as after an error; the run stays whole up to its last step."""
        self._open = False
        self._stack.close()

    def _epoch_of_batches(
        self, batch_size: int, shuffle: bool, seed: int, drop_last: bool
    ) -> Iterator[tuple[Any, Any]]:
        self._check_open()
        epoch = self._epochs.begin()
        order = epoch_order(len(self._examples), seed, epoch.number) if shuffle else torch.arange(len(self._examples))
        for position, ids in enumerate(torch.split(order, batch_size), start=1):
            if drop_last and len(ids) < batch_size:
                break
            if position <= epoch.handed:
                epoch.check(position, ids)
                continue
            inputs, labels = self._examples.batch(ids, epoch=epoch.number)
            self._observer.offer(Microbatch(ids, epoch.number, position, inputs))
            yield inputs, labels
            self._check_open()
        self._epochs.end(epoch)

    def _keep(self, record: StepRecord) -> None:
        self._whole = False
        self._table.append(record)
        self._step = record.step + 1
        self._whole = True
        if self._cadence.due(self._step):
            self._snapshot()

    def _snapshot(self) -> None:
        self._cadence.write(self._step, read_state(self._model, self._optimizer, self._observer.random))

    def _check_open(self) -> None:
        if not self._open:
            raise RecordingError("The recorder is closed. Take batches inside the `with record(...)` block.")


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """Return the order of examples in an epoch, int64 (count,): a function of seed and epoch alone."""
    state = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(state[0]) >> 1)
    return torch.randperm(count, generator=generator)


def device_of(model: nn.Module) -> torch.device:
    """Return where a model's parameters are."""
    tensor = next(model.parameters(), None)
    return torch.device("cpu") if tensor is None else tensor.device
