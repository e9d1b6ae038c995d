"""``run.json``: what a run was recorded with."""

import hashlib
import json
import platform
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final
from uuid import uuid4

import numpy as np
import safetensors
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from whence._errors import ChangedDataError, ModelMismatchError, RunFormatError, RunNotFoundError
from whence._files import write_atomically
from whence.datasets import Examples
from whence.runs.loss import TrainingLoss
from whence.runs.private import unfit
from whence.runs.settings import GroupSettings, SettingsReader, encode_settings, parameter_names, trained_names

FORMAT = 2
"""The version of the format that this version of Whence writes and reads."""

_NAME = "run.json"
_SHOWN = 8  # differences listed in a message


@final
@dataclass(frozen=True)
class TensorForm:
    """Name, shape and type of a parameter or buffer."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@final
@dataclass(frozen=True)
class Manifest:
    """The content of ``run.json``.

    Attributes:
        model: Name of the model's class.
        modules: Names of all its modules, whose modes each step records in this order.
        parameters, buffers: All tensors of the model.
        trained: Names of the parameters in the optimizer.
        optimizer: Name of the optimizer's class.
        groups: The parameter groups when recording began.
        loss: What the loss is called.
        fingerprint: Of the training data.
        examples: Number of training examples.
        versions: Of the libraries that trained.
        format: Version of the format.
        threads: How many threads torch had.
        id: Of this one run: random, so that two runs with the same settings differ.
    """

    model: str
    modules: tuple[str, ...]
    parameters: tuple[TensorForm, ...]
    buffers: tuple[TensorForm, ...]
    trained: tuple[str, ...]
    optimizer: str
    groups: Sequence[Mapping[str, Any]]
    loss: str
    fingerprint: str
    examples: int
    versions: Mapping[str, str]
    format: int = FORMAT
    threads: int = field(default_factory=torch.get_num_threads)
    id: str = field(default_factory=lambda: uuid4().hex)

    def save(self, folder: Path) -> None:
        """Write ``run.json``; a folder is a run once this is there."""
        content = asdict(self)
        write_atomically(folder / _NAME, json.dumps({**content, "checksum": _checksum(content)}, indent=1).encode())

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Read ``run.json``.

        Raises:
            RunNotFoundError: If there is none.
            RunFormatError: If it cannot be read, or is of another format.
        """
        path = folder / _NAME
        if not path.is_file():
            raise RunNotFoundError(
                f"There is no run at {folder}: it has no {_NAME}. Give the folder that record() made."
            )
        try:
            content = json.loads(path.read_bytes())
            if content["format"] != FORMAT:
                raise RunFormatError(
                    f"{path} has format {content['format']}; this version of Whence reads {FORMAT}. "
                    "Install the version that recorded the run."
                )
            if content.pop("checksum") != _checksum(content):
                raise RunFormatError(f"{path} was altered: its checksum does not fit. Restore the file from a copy.")
            for key in ("parameters", "buffers"):
                content[key] = tuple(TensorForm(t["name"], tuple(t["shape"]), t["dtype"]) for t in content[key])
            return cls(**{**content, **{key: tuple(content[key]) for key in ("trained", "modules")}})
        except (ValueError, KeyError, TypeError) as error:
            raise RunFormatError(f"{path} cannot be read: {error!r}. Restore the file from a copy.") from error

    def ever_trained(self, last: Iterable[GroupSettings], updated: Collection[str]) -> tuple[str, ...]:
        """Return the parameters in the optimizer's last groups, then those that it gave up, in the model's order.

        Args:
            last: The groups.
            updated: The parameters that some step updated.
        """
        held = tuple(name for group in last for name in group.names)
        given_up = set(updated).difference(held)
        return held + tuple(form.name for form in self.parameters if form.name in given_up)

    @staticmethod
    def exists(folder: Path) -> bool:
        """Return whether a folder holds a run."""
        return (folder / _NAME).is_file()


def _checksum(content: Mapping[str, Any]) -> str:
    digest = hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16)
    return f"blake2b:{digest.hexdigest()}"


def describe(model: nn.Module, optimizer: Optimizer, examples: Examples, loss: TrainingLoss) -> Manifest:
    """Return what ``run.json`` says of a training that begins now."""
    names = parameter_names(model)
    return Manifest(
        model=type(model).__qualname__,
        modules=module_names(model),
        parameters=forms(dict(model.named_parameters())),
        buffers=forms(dict(model.named_buffers())),
        trained=trained_names(optimizer, names),
        optimizer=type(optimizer).__name__,
        groups=encode_settings(SettingsReader(optimizer, names).read()),
        loss=loss.name,
        fingerprint=examples.fingerprint,
        examples=len(examples),
        versions={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "safetensors": safetensors.__version__,
        },
    )


def module_names(model: nn.Module) -> tuple[str, ...]:
    """Return the names of all modules, the model itself left out."""
    return tuple(name for name, _ in model.named_modules() if name)


def forms(tensors: Mapping[str, Tensor]) -> tuple[TensorForm, ...]:
    """Return name, shape and type of each tensor."""
    return tuple(
        TensorForm(name, tuple(value.shape), str(value.dtype).removeprefix("torch.")) for name, value in tensors.items()
    )


def check_model(manifest: Manifest, model: nn.Module) -> None:
    """Check that a model has the tensors of the recorded one.

    Raises:
        ModelMismatchError: If not, or if it is of a kind that cannot be opened; the message lists the differences.
    """
    if not isinstance(model, nn.Module):
        raise ModelMismatchError(
            f"`model` is a torch module built as the recorded {manifest.model}; got {model!r:.80}."
        )
    reason = unfit(model)
    if reason is not None:
        raise ModelMismatchError(reason)
    recorded = {form.name: form for form in (*manifest.parameters, *manifest.buffers)}
    given = {form.name: form for form in forms(dict([*model.named_parameters(), *model.named_buffers()]))}
    differences = [f"{name} is missing" for name in recorded if name not in given]
    differences += [f"{name} is not in the run" for name in given if name not in recorded]
    differences += [
        f"{name} is {form.dtype} {form.shape}, recorded as {recorded[name].dtype} {recorded[name].shape}"
        for name, form in given.items()
        if name in recorded and form != recorded[name]
    ]
    before, now = manifest.modules, module_names(model)
    differences += [f"module {name} is missing" for name in before if name not in now]
    differences += [f"module {name} is not in the run" for name in now if name not in before]
    if not differences and before != now:
        differences = ["its modules stand in another order"]
    if differences:
        more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        raise ModelMismatchError(
            f"The run was recorded with a {manifest.model}; the model given, a {type(model).__qualname__}, differs: "
            f"{'; '.join(differences[:_SHOWN])}{more}. Build the model as in the training."
        )


def check_data(manifest: Manifest, examples: Examples) -> None:
    """Check that data is the data of the run.

    Raises:
        ChangedDataError: If not.
    """
    if len(examples) != manifest.examples:
        raise ChangedDataError(
            f"The run was recorded with {manifest.examples} training examples; the data given has {len(examples)}. "
            "Give the training data as it was, in the same order."
        )
    if examples.fingerprint != manifest.fingerprint:
        raise ChangedDataError(
            f"The training data has changed since the run was recorded (fingerprint {examples.fingerprint}, recorded "
            f"{manifest.fingerprint}). Give the training data as it was: same values, types and order."
        )
