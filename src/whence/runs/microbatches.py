"""The batches that a step is formed of, and those whose gradients the loop threw away."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, SupportsIndex, final

import torch
from torch import Tensor

from whence._errors import RecordingError
from whence.runs.modes import Modes
from whence.runs.randomness import RandomState


@dataclass(eq=False)
class Microbatch:
    """A batch that was handed to the loop, and what the hooks saw of it.

    Attributes:
        ids: Example ids, int64 (batch,).
        epoch: Number of the epoch.
        position: How many batches of the epoch had been handed out with this one.
        inputs: What was handed out, until the model was called with it.
        modes: The model's modes when it was called.
        before: torch's random state before the call.
        after: The same after it; None if the call drew nothing.
        buffers: The buffers that a replay must be given before the call.
        copies: All buffers before the call, while it may turn out that those are such.
        called, backward: Times of the observer's clock, 0 for never.
    """

    ids: Tensor
    epoch: int
    position: int
    inputs: Any = None
    modes: Modes | None = None
    before: RandomState | None = None
    after: RandomState | None = None
    buffers: Mapping[str, Tensor] | None = None
    copies: Mapping[str, Tensor] | None = None
    called: int = 0
    backward: int = 0


@final
class Pending:
    """The microbatches since the last step, in the order in which the model was called.

    A replay calls the model only with those that led to a gradient. What the other calls did to buffers and random
    numbers is given to it instead, before the next call.
    """

    def __init__(self) -> None:
        self._batches: list[Microbatch] = []

    def __bool__(self) -> bool:
        return bool(self._batches)

    def add(self, batch: Microbatch) -> None:
        """Add a microbatch with which the model was just called."""
        self._batches.append(batch)

    @property
    def gone_through(self) -> bool:
        """Whether one of them went backward."""
        return any(batch.backward for batch in self._batches)

    def gone_through_before(self, batch: Microbatch) -> list[Microbatch]:
        """Return those whose backward pass was before the call with ``batch``."""
        return [other for other in self._batches if 0 < other.backward < batch.called]

    def drop(self, dropped: Collection[Microbatch]) -> bool:
        """Forget microbatches; return whether the last one was among them."""
        kept: list[Microbatch] = []
        skipped = False
        for batch in self._batches:
            if batch in dropped:
                skipped = True
                continue
            if skipped and batch.copies:
                batch.buffers = batch.copies
            skipped = False
            kept.append(batch)
        self._batches = kept
        return skipped

    def confirm(self, batch: Microbatch) -> None:
        """Take note that nothing before ``batch`` was thrown away, unless something is still without backward pass."""
        if all(other.backward for other in self._batches[: self._batches.index(batch)]):
            batch.copies = None

    def take(self) -> tuple[list[Microbatch], bool]:
        """Return the microbatches that led to a gradient, and whether the model was called after them; forget all."""
        called_after = self.gone_through and self.drop([batch for batch in self._batches if not batch.backward])
        batches, self._batches = self._batches, []
        return batches, called_after


def ids_of(drawn: Iterable[SupportsIndex], count: int) -> Tensor:
    """Return the example ids of a batch that a sampler drew, int64 (batch,); -1 is the last example, as in Python.

    Raises:
        RecordingError: If there is no such example.
    """
    ids = torch.tensor([int(index) for index in drawn], dtype=torch.int64)
    beyond = ids[(ids < -count) | (ids >= count)]
    if len(beyond):
        raise RecordingError(
            f"The sampler drew the example {int(beyond[0])}; the training data has the examples 0 to {count - 1}. Let "
            "it draw from these."
        )
    return torch.where(ids < 0, ids + count, ids)


def random_before(batches: Collection[Microbatch], state: RandomState) -> tuple[list[RandomState | None], RandomState]:
    """Return the random state to set before each microbatch, and the one after the last.

    Args:
        batches: The microbatches of a step.
        state: Where a replay stands before the first.

    Returns:
        None for a microbatch that goes on from the one before, or draws nothing.
    """
    found: list[RandomState | None] = []
    for batch in batches:
        goes_on = batch.after is None or batch.before is None or batch.before.same(state)
        found.append(None if goes_on else batch.before)
        state = batch.after or state
    return found, state
