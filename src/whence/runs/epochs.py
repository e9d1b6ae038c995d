"""Numbers of epochs, and where one that was interrupted goes on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from whence._errors import RecordingError
from whence.runs.randomness import RandomState
from whence.runs.steps import StepTable


@final
@dataclass(frozen=True)
class Epoch:
    """One pass over the data.

    Attributes:
        number: From 0.
        handed: How many of its batches the steps before the interruption used; 0 for a new one.
        recorded: Ids of the batch at a position, for the positions at which a step ended before the interruption.
        start: The generators when it first began; None for a new one.
    """

    number: int
    handed: int
    recorded: Mapping[int, Tensor]
    start: "Generators | None"

    def check(self, position: int, ids: Tensor) -> None:
        """Check that the batch at ``position`` (from 1) is the recorded one.

        Raises:
            RecordingError: If the order has changed since the interruption.
        """
        wanted = self.recorded.get(position)
        if wanted is not None and not torch.equal(wanted, ids):
            raise RecordingError(
                f"Epoch {self.number} cannot be continued: its batch {position - 1} held {len(wanted)} examples, "
                f"{wanted[:4].tolist()}..., now it would hold {len(ids)}, {ids[:4].tolist()}.... "
                "Use the same batch size, seed, shuffle and loader as before the interruption."
            )


@final
@dataclass(frozen=True)
class Generators:
    """torch's random state and that of a loader's own generators."""

    random: RandomState
    own: tuple[Tensor, ...] = ()

    def encode(self) -> bytes:
        """Return the states as bytes."""
        tensors = {f"own/{number}": state for number, state in enumerate(self.own)} | {"cpu": self.random.cpu}
        if self.random.cuda is not None:
            tensors["cuda"] = self.random.cuda
        return save_tensors(tensors)

    @classmethod
    def decode(cls, content: bytes) -> "Generators":
        """Return the states that `encode` wrote."""
        tensors = load_tensors(content)
        own = tuple(tensors[f"own/{number}"] for number in range(sum(key.startswith("own/") for key in tensors)))
        return cls(RandomState(tensors["cpu"], tensors.get("cuda")), own)


@final
class Epochs:
    """Count the epochs of a run.

    Args:
        table: The run's steps.
        device: Where the model is.

    Attributes:
        current: The epoch to go on with: the one that is under way, or else the next.
    """

    def __init__(self, table: StepTable, device: torch.device) -> None:
        self._table = table
        self._device = device
        self._interrupted = False
        last = table.last_epoch()
        self.current = max(last, 0)
        self.under_way = False
        if last >= 0:
            finished = table.epoch_states(last)[1] is not None
            self.current = last + 1 if finished else last
            self._interrupted = not finished

    def begin(self, own: tuple[Tensor, ...] = ()) -> Epoch:
        """Begin the next epoch, or go on with the interrupted one.

        Args:
            own: The states of the loader's own generators.
        """
        if self._interrupted:
            self._interrupted = False
            self.under_way = True
            return self._continued()
        if self.under_way:  # the loop left the epoch before its end
            self.current += 1
        self.under_way = True
        state = Generators(RandomState.read(self._device), own)
        self._table.begin_epoch(self.current, state.encode())
        return Epoch(self.current, 0, {}, None)

    def end(self, epoch: Epoch, own: tuple[Tensor, ...] = ()) -> None:
        """Note that an epoch's batches are used up."""
        self._table.end_epoch(epoch.number, Generators(RandomState.read(self._device), own).encode())
        self.current = epoch.number + 1
        self.under_way = False

    def finished(self) -> Generators | None:
        """Return the generators at the end of the last epoch, if it came to its end."""
        state = self._table.epoch_states(self.current - 1)[1]
        return None if state is None or self._interrupted else Generators.decode(state)

    def _continued(self) -> Epoch:
        steps = self._table.ids_of_epoch(self.current)
        start = self._table.epoch_states(self.current)[0]
        return Epoch(
            number=self.current,
            handed=max((position for position, _ in steps), default=0),
            recorded={position: batches[-1] for position, batches in steps},
            start=None if start is None else Generators.decode(start),
        )
