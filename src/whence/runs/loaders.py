"""A ``DataLoader`` whose every batch is known by its example ids."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from whence._errors import UnsupportedLoaderError
from whence.datasets import Examples
from whence.runs.epochs import Epoch, Epochs
from whence.runs.microbatches import Microbatch, ids_of
from whence.runs.randomness import RandomState

_INSTEAD = "or take recorder.batches(...) instead of a loader"


@final
class WatchedLoader:
    """What `Recorder.watch` gives: the same batches as the loader, each pass one epoch.

    The loader's batch sampler is asked for the ids; worker processes, pinned memory and the order of random draws stay
    as they are.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        examples: Examples,
        *,
        epochs: Epochs,
        device: torch.device,
        offer: Callable[[Microbatch], None],
        check_open: Callable[[], None],
    ) -> None:
        _check(loader, examples)
        self._check_open = check_open
        self._examples = examples
        self._epochs = epochs
        self._device = device
        self._offer = offer
        self._tap = _Tap(loader.batch_sampler, len(examples))
        self._loader = _tapped(loader, self._tap)
        self._generators = _generators_of(loader)
        finished = epochs.finished()
        if finished is not None:
            self._restore(finished.own)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        self._check_open()
        epoch = self._epochs.begin(self._states())
        self._examples.set_epoch(epoch.number)
        self._tap.epoch = epoch
        iterator, found = self._start(epoch)
        while found is not None:
            position, ids = self._tap.handed.popleft()
            inputs = found[0] if isinstance(found, tuple | list) and len(found) == 2 else None
            self._offer(Microbatch(ids, epoch.number, position, inputs))
            yield found
            self._check_open()
            found = next(iterator, None)
        self._epochs.end(epoch, self._states())

    def _start(self, epoch: Epoch) -> tuple[Iterator[Any], Any]:
        """Return the loader's iterator and the first batch; an interrupted epoch draws as when it first began."""
        now = RandomState.read(self._device)
        if epoch.start is not None:
            self._restore(epoch.start.own)
            epoch.start.random.restore(self._device)
        iterator = iter(self._loader)
        found = next(iterator, None)
        if epoch.handed:
            now.restore(self._device)
        return iterator, found

    def _states(self) -> tuple[Tensor, ...]:
        return tuple(generator.get_state() for generator in self._generators)

    def _restore(self, states: tuple[Tensor, ...]) -> None:
        for generator, state in zip(self._generators, states, strict=False):
            generator.set_state(state)


class _Tap:
    """A batch sampler that remembers what the one inside gave, in order."""

    def __init__(self, inner: Any, count: int) -> None:
        self.handed: deque[tuple[int, Tensor]] = deque()
        self.epoch: Epoch | None = None
        self._inner = inner
        self._count = count  # of examples

    def __len__(self) -> int:
        return len(self._inner)

    def __iter__(self) -> Iterator[Any]:
        self.handed.clear()
        for position, ids in enumerate(self._inner, start=1):
            known = ids_of(ids, self._count)
            if self.epoch is not None and position <= self.epoch.handed:
                self.epoch.check(position, known)
                continue
            self.handed.append((position, known))
            yield ids


def _tapped(loader: DataLoader[Any], tap: _Tap) -> DataLoader[Any]:
    """Return a loader with the same settings and another batch sampler."""
    settings: dict[str, Any] = {
        name: getattr(loader, name)
        for name in ("num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "generator")
    }
    if loader.num_workers > 0:
        settings |= {
            name: getattr(loader, name) for name in ("multiprocessing_context", "prefetch_factor", "persistent_workers")
        }
    return DataLoader(loader.dataset, batch_sampler=tap, **settings)


def _generators_of(loader: DataLoader[Any]) -> tuple[torch.Generator, ...]:
    """Return the generators of the loader and its samplers, each once."""
    holders = (loader, loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None))
    found = [getattr(holder, "generator", None) for holder in holders]
    return tuple({id(generator): generator for generator in found if isinstance(generator, torch.Generator)}.values())


def _check(loader: Any, examples: Examples) -> None:
    """Check that a loader says which examples form a batch.

    Raises:
        UnsupportedLoaderError: If not.
    """
    if not isinstance(loader, DataLoader):
        raise UnsupportedLoaderError(
            f"watch() takes a torch DataLoader; got {type(loader).__name__}. Give the DataLoader itself, {_INSTEAD}."
        )
    reason = _reason(loader, examples)
    if reason is not None:
        raise UnsupportedLoaderError(f"This DataLoader cannot be watched: {reason}, {_INSTEAD}.")


def _reason(loader: DataLoader[Any], examples: Examples) -> str | None:
    """Return the first thing that stands in the way, and what to do about it."""
    data, wanted = loader.dataset, examples.source
    stream = isinstance(data, IterableDataset)
    checks = (
        (stream, "its dataset is a stream (IterableDataset): its examples have no ids. Make it a map-style Dataset"),
        (
            type(loader).__iter__ is not DataLoader.__iter__,
            f"{type(loader).__name__} iterates in its own way. Make a plain DataLoader with the same settings",
        ),
        (loader.batch_sampler is None, "batch_size=None turns batching off. Give it a batch_size"),
        (not getattr(loader, "in_order", True), "in_order=False lets batches overtake each other. Leave in_order=True"),
        (
            data is not wanted,
            f"its dataset (a {type(data).__name__}) is not the train_data given to record() "
            f"(a {type(wanted).__name__} of {len(examples)}). Give record() the very dataset that the loader reads",
        ),
        (
            loader.collate_fn != examples.collate_fn,
            "its collate_fn is not that of train_data. Give record() "
            "train_data=whence.datasets.as_examples(dataset, collate_fn=...) with the loader's collate_fn",
        ),
    )
    return next((reason for stands, reason in checks if stands), None)
