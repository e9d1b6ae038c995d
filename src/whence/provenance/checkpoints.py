"""Where a training of a provenance network stands after an epoch, in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import nn
from torch.optim import Optimizer

from whence._errors import ArgumentError, ChangedDataError, DataError
from whence._files import make_folder, write_atomically
from whence.runs.randomness import RandomState
from whence.runs.snapshots import Snapshots, TrainingState, apply_state, read_state

FORMAT = 1


@final
class Checkpoint:
    """A folder with the last epoch's parameters, buffers and optimizer states, and what the training is of.

    Args:
        folder: Made if it is not there.
        told: What the training is of: a checkpoint of another is refused.

    Raises:
        ArgumentError: If a file stands where the folder would be.
        DiskError: If the disk is full or refuses to write.
    """

    def __init__(self, folder: Path, told: Mapping[str, Any]) -> None:
        make_folder(folder)
        self.folder, self.told, self._snapshots = (
            folder,
            json.loads(json.dumps(told, default=_plain)),
            Snapshots(folder),
        )

    def keep(self, network: nn.Module, optimizers: Sequence[Optimizer], history: list[list[float]]) -> None:
        """Write the state after an epoch, whole or not at all; then let the one before go.

        Raises:
            DiskError: If the disk is full or refuses to write; the epoch before is then still there.
        """
        random = RandomState(torch.get_rng_state())
        states = [read_state(network, one, random) for one in optimizers]
        merged = {name: entry for state in states for name, entry in state.optimizer.items()}
        buffers = {name: one.detach() for name, one in network.named_buffers()}
        state = TrainingState({name: one.detach() for name, one in network.named_parameters()}, buffers, merged, random)
        self._snapshots.save(len(history), state)
        told = {"format": FORMAT, **self.told, "history": history}
        write_atomically(self.folder / "training.json", (json.dumps(told, indent=1) + "\n").encode())
        for step in self._snapshots.steps():
            if step != len(history):
                self._snapshots.delete(step)

    def restore(self, network: nn.Module, optimizers: Sequence[Optimizer]) -> list[list[float]]:
        """Bring network and optimizers to where the training stands; return its history, empty if there is none.

        Raises:
            ChangedDataError: If the checkpoint is of other data.
            ArgumentError: If it is of other settings.
            DataError: If it cannot be read.
            SnapshotError: If it was truncated or altered.
        """
        place = self.folder / "training.json"
        if not place.exists():
            return []
        history = self._same(_read(place))
        state = self._snapshots.load(len(history))
        if {name: one.shape for name, one in network.named_parameters()} != {
            name: one.shape for name, one in state.parameters.items()
        }:
            raise ArgumentError(f"The checkpoint at {self.folder} is of another network. Give another `path`.")
        names = {id(one): name for name, one in network.named_parameters()}
        for optimizer in optimizers:
            own = {names[id(one)] for group in optimizer.param_groups for one in group["params"]}
            entries = {name: entry for name, entry in state.optimizer.items() if name in own}
            apply_state(TrainingState(state.parameters, state.buffers, entries, state.random), network, optimizer)
        return history

    def _same(self, found: dict[str, Any]) -> list[list[float]]:
        """Return the history of a checkpoint of this training.

        Raises:
            ChangedDataError: If it is of other data.
            ArgumentError: If it is of other settings.
        """
        history: list[list[float]] = found.pop("history")
        if found.pop("format", None) != FORMAT:
            raise ArgumentError(f"The checkpoint at {self.folder} is of another format. Give another `path`.")
        if found.get("fingerprint") != self.told["fingerprint"]:
            raise ChangedDataError(
                f"The checkpoint at {self.folder} is of other data: {found.get('fingerprint')}, not "
                f"{self.told['fingerprint']}. Give the data it was trained on, or another `path`."
            )
        other = [name for name in self.told if found.get(name) != self.told[name]]
        if other:
            raise ArgumentError(
                f"The checkpoint at {self.folder} was made with other settings: {other[0]} was "
                f"{found.get(other[0])!r} and is {self.told[other[0]]!r}. Give the same, or another `path`."
            )
        return history


def _plain(number: Any) -> Any:
    """Return a number of NumPy's as Python's."""
    return number.item()


def _read(place: Path) -> dict[str, Any]:
    """Return what a JSON file holds.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        found: dict[str, Any] = json.loads(place.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{place} cannot be read: {error}. Delete the folder, or restore it from a copy.") from error
    return found
