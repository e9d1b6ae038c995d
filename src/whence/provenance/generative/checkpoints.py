"""What a generative training keeps on disk, so that it can go on: nothing of it is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import torch
from torch import nn
from torch.optim import Optimizer

from whence._errors import ArgumentError, ModelMismatchError, RunFormatError, SnapshotError
from whence._files import make_folder, write_atomically
from whence.provenance.generative.checks import check_fingerprint
from whence.runs import RandomState
from whence.runs.lock import LOCK, RunLock
from whence.runs.snapshots import Snapshots, apply_state, read_state

FORMAT = 1
_SETTINGS, _HISTORY, _SNAPSHOTS = "training.json", "history.json", "snapshots"
_ADVICE = "Restore it from a copy, or delete the folder and train again."

Rows = list[list[float]]
"""The measures of each epoch that is over."""


@final
class Checkpoint:
    """The folder of a training: its settings, its history, and where it stood after its last whole epoch.

    Args:
        folder: Where; None keeps nothing.
        settings: What a training that goes on must have in common with the one that began, as JSON's types.
    """

    def __init__(self, folder: Path | None, settings: Mapping[str, Any]) -> None:
        self._folder = folder
        self._settings = {"format": FORMAT, **json.loads(json.dumps(settings))}

    def resume(self, network: nn.Module, optimizer: Optimizer, generator: torch.Generator) -> Rows:
        """Bring a training to where it stood, if it was begun, and return the measures of its epochs.

        Raises:
            ArgumentError: If the folder holds something else, or a training with other settings.
            ChangedDataError: If the training was begun with other data.
            ModelMismatchError: If the training was begun with another network.
            RunFormatError: If a file is not what it should be.
            SnapshotError: If the state is missing, truncated or altered.
        """
        if self._folder is None:
            return []
        if not (self._folder / _SETTINGS).exists():
            _check_free(self._folder)
            make_folder(self._folder / _SNAPSHOTS)
            write_atomically(self._folder / _SETTINGS, _encoded(self._settings))
            return []
        self._check(_read(self._folder / _SETTINGS))
        snapshots = Snapshots(self._folder / _SNAPSHOTS)
        make_folder(snapshots.folder)
        snapshots.clean()
        if not (steps := snapshots.steps()):
            return []
        rows = _read(self._folder / _HISTORY)
        if not isinstance(rows, list) or len(rows) < steps[-1]:
            raise RunFormatError(f"{self._folder / _HISTORY} does not reach epoch {steps[-1]}. {_ADVICE}")
        try:
            state = snapshots.load(steps[-1])
        except SnapshotError as error:
            raise SnapshotError(f"The state {snapshots.path(steps[-1])} is truncated or altered. {_ADVICE}") from error
        apply_state(state, network, optimizer)
        generator.set_state(state.random.cpu)
        return [[float(one) for one in row] for row in rows[: steps[-1]]]

    def keep(self, rows: Rows, network: nn.Module, optimizer: Optimizer, generator: torch.Generator) -> None:
        """Write where a training stands after an epoch; the state comes last, so that a kill loses an epoch at most.

        Raises:
            DiskError: If the disk is full or refuses to write.
        """
        if self._folder is None:
            return
        write_atomically(self._folder / _HISTORY, _encoded(rows))
        snapshots = Snapshots(self._folder / _SNAPSHOTS)
        snapshots.save(len(rows), read_state(network, optimizer, RandomState(generator.get_state())))
        for step in snapshots.steps():
            if step < len(rows):
                snapshots.delete(step)

    def _check(self, kept: Any) -> None:
        """Check that a training that was begun is this one."""
        if not isinstance(kept, dict) or kept.get("format") != FORMAT or kept.keys() != self._settings.keys():
            raise RunFormatError(f"{self._folder} holds no generative training of format {FORMAT}. {_ADVICE}")
        check_fingerprint(kept["data"], self._settings["data"], self._folder)
        if kept["network"] != self._settings["network"]:
            names = {*kept["network"].items(), *self._settings["network"].items()}
            first = min(
                name for name, shape in names if kept["network"].get(name) != self._settings["network"].get(name)
            )
            raise ModelMismatchError(
                f"The training at {self._folder} was begun with another network: {first} is "
                f"{kept['network'].get(first)} there and {self._settings['network'].get(first)} here. Make the network "
                "as it was, or give another path."
            )
        for name, value in self._settings.items():
            if kept[name] != value:
                raise ArgumentError(
                    f"The training at {self._folder} was begun with {name}={kept[name]!r}; got {value!r}. Give the "
                    "same, or another path."
                )


@contextmanager
def held(path: str | Path | None, settings: Mapping[str, Any]) -> Iterator[Checkpoint]:
    """Yield the checkpoint at a path, which no other training writes to meanwhile.

    Args:
        path: Where; None keeps nothing.
        settings: As of `Checkpoint`.

    Yields:
        The checkpoint.

    Raises:
        ArgumentError: If something else stands at the path.
        RunExistsError: If another training holds it.
        DiskError: If the folder cannot be written to.
    """
    if path is None:
        yield Checkpoint(None, settings)
        return
    folder = Path(path)
    make_folder(folder)
    if not (folder / _SETTINGS).exists():
        _check_free(folder)
    lock = RunLock.take(folder)
    try:
        yield Checkpoint(folder, settings)
    finally:
        lock.release()


def shapes_of(network: nn.Module) -> dict[str, str]:
    """Return the type and shape of each of a network's tensors, as text."""
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return {name: f"{str(one.dtype).removeprefix('torch.')} {tuple(one.shape)}" for name, one in tensors.items()}


def _check_free(folder: Path) -> None:
    """Check that a folder without settings is what a kill at the very beginning left, at most."""
    ours = (_SNAPSHOTS, LOCK, f".{_SETTINGS}.")
    others = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith(ours))
    if others:
        raise ArgumentError(
            f"{folder} holds no generative training, but {', '.join(others[:4])}. Nothing was touched; choose "
            "another path."
        )


def _encoded(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise RunFormatError(f"{file} cannot be read: {error}. {_ADVICE}") from error
