"""Snapshots: everything a step depends on, at one moment, in a checksummed file."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.optim import Optimizer

from whence._bytes import bytes_of
from whence._errors import SnapshotError
from whence._files import write_atomically
from whence.runs.randomness import RandomState

_SUFFIX = ".safetensors"


@final
@dataclass(frozen=True)
class TrainingState:
    """Where a training stands between two steps.

    Attributes:
        parameters: All parameters of the model by name, trained or not.
        buffers: All buffers by name.
        optimizer: The optimizer's tensors and numbers for each parameter, by parameter name.
        random: The random state that the next microbatch goes on from (see `StepRecord`).
    """

    parameters: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    optimizer: Mapping[str, Mapping[str, Any]]
    random: RandomState


def read_state(model: nn.Module, optimizer: Optimizer, random: RandomState) -> TrainingState:
    """Return the state of a training, referring to its live tensors."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    entries = {
        names[parameter]: {key: value for key, value in entry.items() if value is not None}
        for parameter, entry in optimizer.state.items()
    }
    return TrainingState(
        {name: parameter.detach() for name, parameter in model.named_parameters()},
        {name: buffer.detach() for name, buffer in model.named_buffers()},
        entries,
        random,
    )


def copied(state: TrainingState) -> TrainingState:
    """Return a state that refers to nothing live."""
    return TrainingState(
        {name: value.clone() for name, value in state.parameters.items()},
        {name: value.clone() for name, value in state.buffers.items()},
        {
            name: {key: value.clone() if isinstance(value, Tensor) else value for key, value in entry.items()}
            for name, entry in state.optimizer.items()
        },
        state.random,
    )


def apply_state(state: TrainingState, model: nn.Module, optimizer: Optimizer | None) -> None:
    """Bring a model, and its optimizer, into a state."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(state.parameters[name])
        for name, buffer in model.named_buffers():
            buffer.copy_(state.buffers[name])
    if optimizer is None:
        return
    optimizer.state.clear()
    live = dict(model.named_parameters())
    on_device = {
        parameter: bool(group.get("capturable") or group.get("fused"))
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for name, entry in state.optimizer.items():  # also of what the groups gave up, and may take back
        parameter = live[name]
        for key, value in entry.items():
            optimizer.state[parameter][key] = _placed(key, value, parameter, on_device.get(parameter, False))


def _placed(key: str, value: Any, parameter: Tensor, on_device: bool) -> Any:
    """Return a copy of an optimizer's value where torch keeps it: step counters on the CPU, unless on_device."""
    if not isinstance(value, Tensor):
        return value
    if key == "step":
        return value.to(parameter.device if on_device else "cpu", copy=True)
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value).detach()


@final
@dataclass(frozen=True)
class ModelState:
    """Copies of a model's tensors at one moment, by name.

    Attributes:
        parameters: All parameters, trained or not.
        buffers: All buffers.
    """

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]

    @classmethod
    def of(cls, state: TrainingState) -> "ModelState":
        """Return copies of the model's part of a state."""
        return cls(
            {name: value.detach().clone() for name, value in state.parameters.items()},
            {name: value.detach().clone() for name, value in state.buffers.items()},
        )


@final
class Snapshots:
    """The folder of snapshots of a run, one file a step named by its number.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        """Return where the snapshot before step ``step`` is, or would be."""
        return self.folder / f"{step:09d}{_SUFFIX}"

    def steps(self) -> tuple[int, ...]:
        """Return the steps before which there are snapshots, ascending."""
        names = (path.name.removesuffix(_SUFFIX) for path in self.folder.glob(f"*{_SUFFIX}"))
        return tuple(sorted(int(name) for name in names if name.isdecimal()))

    def save(self, step: int, state: TrainingState) -> int:
        """Write a snapshot and return its size in bytes.

        Raises:
            DiskError: If it cannot be written; then there is no new file.
        """
        tensors, numbers = _flatten(state)
        described = json.dumps({"step": step, "numbers": numbers}, sort_keys=True)
        metadata = {"whence": described, "checksum": _checksum(tensors, described)}
        content = save_tensors(tensors, metadata)
        write_atomically(self.path(step), content)
        return len(content)

    def load(self, step: int) -> TrainingState:
        """Read the snapshot before step ``step``.

        Raises:
            SnapshotError: If it is missing, truncated or altered.
        """
        try:
            content = self.path(step).read_bytes()
        except OSError as error:
            raise SnapshotError(f"{self._damaged(step)} cannot be read: {error.strerror}. {_remedy(step)}") from error
        try:
            length = int.from_bytes(content[:8], "little")
            metadata = json.loads(content[8 : 8 + length])["__metadata__"]
            tensors = load_tensors(content)
            described, written = metadata["whence"], metadata["checksum"]
            numbers = json.loads(described)["numbers"]
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise SnapshotError(f"{self._damaged(step)} is truncated or altered ({error}). {_remedy(step)}") from error
        if _checksum(tensors, described) != written or json.loads(described)["step"] != step:
            raise SnapshotError(f"{self._damaged(step)} was altered: its checksum does not fit. {_remedy(step)}")
        return _unflatten(tensors, numbers)

    def delete(self, step: int) -> None:
        """Delete a snapshot."""
        self.path(step).unlink(missing_ok=True)

    def size(self) -> int:
        """Return the bytes that all snapshots take."""
        return sum(self.path(step).stat().st_size for step in self.steps())

    def clean(self) -> None:
        """Delete what writing left behind when the process was killed."""
        for leftover in self.folder.glob(f".*{_SUFFIX}.*.tmp"):
            with suppress(OSError):
                leftover.unlink()

    def _damaged(self, step: int) -> str:
        return f"The snapshot before step {step} ({self.path(step)})"


def _remedy(step: int) -> str:
    if step == 0:
        return "It is the first, and cannot be made again: restore the file from a copy, or record anew."
    return "Run.verify(repair=True) makes it anew from the snapshot before; or restore the file from a copy."


def _flatten(state: TrainingState) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Return a state's tensors under one name each, and the optimizer's plain numbers."""
    tensors = {f"parameter/{name}": value for name, value in state.parameters.items()}
    tensors |= {f"buffer/{name}": value for name, value in state.buffers.items()}
    numbers: dict[str, dict[str, Any]] = {}
    for name, entry in state.optimizer.items():
        numbers[name] = {key: value for key, value in entry.items() if not isinstance(value, Tensor)}
        tensors |= {f"optimizer/{key}/{name}": value for key, value in entry.items() if isinstance(value, Tensor)}
    tensors["random/cpu"] = state.random.cpu
    if state.random.cuda is not None:
        tensors["random/cuda"] = state.random.cuda
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, numbers


def _unflatten(tensors: Mapping[str, Tensor], numbers: Mapping[str, Mapping[str, Any]]) -> TrainingState:
    parameters, buffers = {}, {}
    optimizer: dict[str, dict[str, Any]] = {name: dict(entry) for name, entry in numbers.items()}
    for key, value in tensors.items():
        kind, _, name = key.partition("/")
        if kind == "parameter":
            parameters[name] = value
        elif kind == "buffer":
            buffers[name] = value
        elif kind == "optimizer":
            entry, _, parameter = name.partition("/")
            optimizer.setdefault(parameter, {})[entry] = value
    random = RandomState(tensors["random/cpu"], tensors.get("random/cuda"))
    return TrainingState(parameters, buffers, optimizer, random)


def _checksum(tensors: Mapping[str, Tensor], described: str) -> str:
    digest = hashlib.blake2b(described.encode(), digest_size=16)
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(bytes_of(value))
    return f"blake2b:{digest.hexdigest()}"
