"""Where a training of a provenance network stands after an epoch, in a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, final

import torch
from torch import nn
from torch.optim import Optimizer

from whence._errors import ArgumentError, ChangedDataError, DataError
from whence._files import make_folder, write_atomically
from whence.provenance.network import ProvenanceNetwork
from whence.runs.randomness import RandomState
from whence.runs.snapshots import Snapshots, TrainingState, apply_state, read_state

FORMAT = 2
_RESTORE = "Delete the folder, or restore it from a copy."
_PLAIN = (bool, int, float, str, type(None))


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
            DataError: If it has no history.
        """
        if found.pop("format", None) != FORMAT:
            raise ArgumentError(f"The checkpoint at {self.folder} is of another format. Give another `path`.")
        history: Any = found.pop("history", None)
        if not isinstance(history, list) or not all(isinstance(row, list) for row in history):
            raise DataError(f"{self.folder / 'training.json'} has no history. {_RESTORE}")
        if found.get("fingerprint") != self.told["fingerprint"]:
            raise ChangedDataError(
                f"The checkpoint at {self.folder} is of other data: {found.get('fingerprint')}, not "
                f"{self.told['fingerprint']}. Give the data it was trained on, or another `path`."
            )
        other = first_difference(found, self.told)
        if other:
            raise ArgumentError(
                f"The checkpoint at {self.folder} was made with other settings: {other}. Give the same, or another "
                "`path`."
            )
        return list(history)


def head_settings(network: ProvenanceNetwork) -> dict[str, Any]:
    """Return what makes a network's head beside its tensors: its kind and the plain values that it holds by name."""
    head: Any = network.head
    parts = dict(head.named_modules()) if isinstance(head, nn.Module) else {"": head}
    found = {"conditional": network.conditional, "head": type(head).__name__}
    for place, part in parts.items():
        for name, value in getattr(part, "__dict__", {}).items():
            if isinstance(value, _PLAIN) and not name.startswith("_") and name != "training":
                found[f"the head's {place}.{name}" if place else f"the head's {name}"] = value
    return found


def parts_of(network: nn.Module) -> list[str]:
    """Return a network's parts as torch prints them, a line each, such as ``(1): Dropout(p=0.5, inplace=False)``."""
    return [line.strip() for line in same_everywhere(network).splitlines()]


def same_everywhere(given: object) -> str:
    """Return what a thing is called, without its place in memory, which is another in each process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(given))


def first_difference(found: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    """Say which setting is the first that differs, and how; nothing if none does."""
    for name in dict.fromkeys((*told, *found)):
        was, is_now = found.get(name), told.get(name)
        if was == is_now:
            continue
        if isinstance(was, list) and isinstance(is_now, list):
            was, is_now = next((one, other) for one, other in zip_longest(was, is_now) if one != other)
        return f"{name} was {was!r} and is {is_now!r}"
    return ""


def _plain(number: Any) -> Any:
    """Return a number of NumPy's as Python's."""
    return number.item()


def _read(place: Path) -> dict[str, Any]:
    """Return what a JSON file holds.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        found: Any = json.loads(place.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{place} cannot be read: {error}. {_RESTORE}") from error
    if not isinstance(found, dict):
        raise DataError(f"{place} holds no training. {_RESTORE}")
    return found
