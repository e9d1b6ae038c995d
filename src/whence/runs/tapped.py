"""A ``DataLoader`` in the hands of another library, whose every batch is known by its example ids."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from whence._errors import RecordingError, UnsupportedLoaderError
from whence.datasets import Examples
from whence.runs.epochs import Epoch, Epochs
from whence.runs.microbatches import Microbatch, ids_of
from whence.runs.randomness import kept_randomness


@final
class TappedLoader:
    """What `Recorder.tap` gives: a loader that tells the ids of its batches while someone else iterates it.

    The loader's batch sampler is replaced in place, until `release`. Nothing else of it changes: worker
    processes, prefetching and random draws stay as they are.
    """

    def __init__(
        self,
        loader: Any,
        examples: Examples,
        *,
        epochs: Epochs,
        device: torch.device,
        offer: Callable[[Microbatch], None],
        skip: int,
    ) -> None:
        check_loader(loader, examples)
        self._loader = loader
        self._examples = examples
        self._epochs = epochs
        self._device = device
        self._offer = offer
        self._skip = skip
        self._compared = False
        self._tap = _Tap(loader.batch_sampler, len(examples), self._begin)
        _replace_batch_sampler(loader, self._tap)

    @property
    def begun(self) -> bool:
        """Whether an epoch has begun."""
        return self._tap.epoch is not None

    def offer(self) -> None:
        """Note that the model is called next with the batch that was fetched longest ago.

        Raises:
            RecordingError: If no batch was fetched from the loader.
        """
        epoch = self._tap.epoch
        if epoch is None or not self._tap.handed:
            raise RecordingError(
                "A batch reached the model that did not come through the training DataLoader's batch sampler, so its "
                "examples are not known. Train on one plain DataLoader over the recorded data."
            )
        position, ids = self._tap.handed.popleft()
        inputs = None
        if not self._compared:  # the model's inputs are compared with the data once, by the hooks
            with kept_randomness(self._device):
                inputs, _ = self._examples.batch(ids, epoch=epoch.number)
            self._compared = True
        self._offer(Microbatch(ids, epoch.number, position, inputs))

    def end_epoch(self) -> None:
        """Note the end of an epoch, if its batches are used up."""
        epoch = self._tap.epoch
        if epoch is not None and self._tap.exhausted and not self._tap.handed:
            self._epochs.end(epoch)

    def release(self) -> None:
        """Give the loader its own batch sampler back."""
        self._tap.open = False
        if self._loader.batch_sampler is self._tap:
            _replace_batch_sampler(self._loader, self._tap.inner)

    def _begin(self) -> tuple[Epoch, int]:
        """Return the epoch that a pass over the loader is, and how many batches of it are skipped."""
        skip, self._skip = self._skip, 0
        epoch = self._epochs.begin()
        if epoch.handed and epoch.handed != skip:  # interrupted, and the pass starts anew: another epoch
            self._epochs.end(epoch)
            epoch = self._epochs.begin()
        self._examples.set_epoch(epoch.number)
        return epoch, skip


class _Tap:
    """A batch sampler that remembers what the one inside gave, in order, and is like that one in all else."""

    def __init__(self, inner: Any, count: int, begin: Callable[[], tuple[Epoch, int]]) -> None:
        self.inner = inner
        self.handed: deque[tuple[int, Tensor]] = deque()
        self.epoch: Epoch | None = None
        self.exhausted = False
        self.open = True
        self._count = count  # of examples
        self._begin = begin

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # not made yet, as while it is unpickled
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __len__(self) -> int:
        return len(self.inner)

    def __iter__(self) -> Iterator[Any]:
        if not self.open:
            yield from self.inner
            return
        self.epoch, skip = self._begin()
        self.handed.clear()
        self.exhausted = False
        count = len(self.inner) if hasattr(self.inner, "__len__") else None
        for position, ids in enumerate(self.inner, start=1):
            known = ids_of(ids, self._count)
            self.epoch.check(position, known)
            if position > skip:
                self.handed.append((position, known))
            self.exhausted = position == count
            yield ids
        self.exhausted = True


def check_loader(loader: Any, examples: Examples) -> None:
    """Check that a loader says which examples form a batch.

    Raises:
        UnsupportedLoaderError: If not; the message says what to change.
    """
    if not isinstance(loader, DataLoader):
        raise UnsupportedLoaderError(
            f"Training on a {type(loader).__name__} cannot be recorded. Train on one torch DataLoader."
        )
    data, wanted = loader.dataset, examples.source
    checks = (
        (isinstance(data, IterableDataset), "it reads a stream (IterableDataset), whose examples have no ids"),
        (type(loader).__iter__ is not DataLoader.__iter__, f"{type(loader).__name__} iterates in its own way"),
        (loader.batch_sampler is None, "batch_size=None turns batching off"),
        (not getattr(loader, "in_order", True), "in_order=False lets batches overtake each other"),
        (
            data is not wanted,
            f"its dataset (a {type(data).__name__}) is not train_data (a {type(wanted).__name__} of {len(examples)})",
        ),
    )
    reason = next((reason for stands, reason in checks if stands), None)
    if reason is not None:
        raise UnsupportedLoaderError(
            f"The training DataLoader cannot be recorded: {reason}. Train on a plain DataLoader in batches, over the "
            "very dataset that is given as train_data."
        )


def check_collation(collate_fn: Any, examples: Examples) -> None:
    """Check that a loader makes its batches as ``examples`` do.

    Raises:
        UnsupportedLoaderError: If their ``collate_fn`` are not equal.
    """
    if collate_fn != examples.collate_fn:
        raise UnsupportedLoaderError(
            f"The training DataLoader makes its batches with {_called(collate_fn)}, the recorded data with "
            f"{_called(examples.collate_fn)}. Give train_data=whence.as_examples(dataset, collate_fn=...) with the "
            "collate_fn of the training, and the same to open_run()."
        )


def _called(function: Any) -> str:
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__)


def _replace_batch_sampler(loader: Any, sampler: Any) -> None:
    """Give a loader another batch sampler, which a ``DataLoader`` refuses by itself."""
    object.__setattr__(loader, "batch_sampler", sampler)
    loader._iterator = None  # workers that stayed alive would go on with the sampler they began with
