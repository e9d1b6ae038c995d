"""Which optimizers can be walked again, and the numbers that each step of one depends on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

from whence._errors import RecordingError, ReplayError, UnsupportedOptimizerError
from whence.runs.private import unfit

SUPPORTED: tuple[type[Optimizer], ...] = (SGD, RMSprop, Adagrad, Adam, AdamW)
"""The optimizers that can be recorded; a subclass of one is another optimizer, and is refused."""

_NAMES = ", ".join(kind.__name__ for kind in SUPPORTED)


@final
@dataclass(frozen=True)
class GroupSettings:
    """One parameter group during one step.

    Attributes:
        names: The parameters of the group, by their names in the model.
        options: Learning rate, momentum, weight decay and all else that the group says.
    """

    names: tuple[str, ...]
    options: Mapping[str, Any]


def unsupported(optimizer: Optimizer) -> str | None:
    """Return why an optimizer cannot be recorded, or None when it can."""
    kind = type(optimizer)
    if kind not in SUPPORTED:
        return f"{kind.__module__}.{kind.__qualname__} is not one of the optimizers that can be walked again ({_NAMES})"
    if any(group.get("differentiable") for group in optimizer.param_groups):
        return f"{kind.__name__} has differentiable=True, which changes how its step is made"
    return None


def optimizer_class(name: str) -> type[Optimizer]:
    """Return the supported optimizer called ``name``.

    Raises:
        ReplayError: If there is none; the run is of a later version.
    """
    for kind in SUPPORTED:
        if kind.__name__ == name:
            return kind
    raise ReplayError(f"The run was recorded with {name!r}; this version of Whence walks only {_NAMES}.")


def check_optimizer(optimizer: Optimizer, model: nn.Module) -> None:
    """Check that an optimizer can be recorded and trains only parameters of ``model``.

    Raises:
        UnsupportedOptimizerError: If not; the message says which optimizer, option or parameter.
        RecordingError: If the model is no module, or of a kind that cannot be recorded.
    """
    if not isinstance(model, nn.Module):
        raise RecordingError(f"`model` is the torch module that the loop calls; got {model!r:.80}.")
    wrong = unfit(model)
    if wrong is not None:
        raise RecordingError(wrong)
    reason = unsupported(optimizer)
    if reason is not None:
        raise UnsupportedOptimizerError(f"This training cannot be recorded: {reason}. Choose one of {_NAMES}.")
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
            raise UnsupportedOptimizerError(
                f"The layer {name!r} gives sparse gradients, which cannot be recorded. Make it with sparse=False."
            )
    for name, parameter in model.named_parameters():
        kind = str(parameter.dtype).removeprefix("torch.")
        if kind not in {"float32", "float64"}:
            raise UnsupportedOptimizerError(
                f"The parameter {name!r} is {kind}; only float32 and float64 can be recorded. Keep the "
                "parameters in float32 and compute in a lower precision with torch.autocast."
            )
    known = {id(parameter) for parameter in model.parameters()}
    strangers = [tuple(p.shape) for group in optimizer.param_groups for p in group["params"] if id(p) not in known]
    if strangers:
        raise UnsupportedOptimizerError(
            f"The optimizer trains {len(strangers)} parameters that are not in the model (shapes {strangers[:4]}). "
            "Give record() the module that holds everything the optimizer trains, and make the optimizer "
            "after the model has its final form."
        )


def parameter_names(model: nn.Module) -> dict[Tensor, str]:
    """Return each parameter's name in the model, shared ones once."""
    return {parameter: name for name, parameter in model.named_parameters()}


def trained_names(optimizer: Optimizer, names: Mapping[Tensor, str]) -> tuple[str, ...]:
    """Return the names of the parameters in the optimizer, in its order."""
    return tuple(names[p] for group in optimizer.param_groups for p in group["params"])


@final
class SettingsReader:
    """Read an optimizer's settings each step; while nothing changes, the same object is returned."""

    def __init__(self, optimizer: Optimizer, names: Mapping[Tensor, str]) -> None:
        self._optimizer = optimizer
        self._names = names
        self._key: object = None
        self._settings: tuple[GroupSettings, ...] = ()

    def read(self) -> tuple[GroupSettings, ...]:
        """Return the settings of each group now.

        Raises:
            UnsupportedOptimizerError: If a group holds a parameter that is not in the model, or an option that is
                neither a number nor a tensor.
        """
        key = [
            (list(map(id, group["params"])), [_plain(value) for name, value in group.items() if name != "params"])
            for group in self._optimizer.param_groups
        ]
        if key != self._key:
            self._settings = tuple(self._group(group) for group in self._optimizer.param_groups)
            self._key = key
        return self._settings

    def _group(self, group: Mapping[str, Any]) -> GroupSettings:
        self._check_options(group)
        missing = [tuple(p.shape) for p in group["params"] if p not in self._names]
        if missing:
            raise UnsupportedOptimizerError(
                f"A parameter group holds parameters that are not in the model (shapes {missing[:4]}). "
                "Give record() the module that holds everything the optimizer trains."
            )
        options = {name: _plain(value) for name, value in group.items() if name != "params"}
        return GroupSettings(tuple(self._names[p] for p in group["params"]), options)

    def _check_options(self, group: Mapping[str, Any]) -> None:
        """Refuse a value of one of the optimizer's own options that cannot be kept; it does not read the others."""
        strange = [name for name in self._optimizer.defaults if not _is_plain(group.get(name))]
        if strange:
            value = group[strange[0]]
            raise UnsupportedOptimizerError(
                f"The option {strange[0]!r} of {type(self._optimizer).__name__} is {value!r:.80}, a "
                f"{type(value).__name__}, which cannot be recorded. Give a number, or a tensor."
            )


def encode_settings(settings: Iterable[GroupSettings]) -> list[dict[str, Any]]:
    """Return settings as JSON's types."""
    return [{"names": list(group.names), "options": dict(group.options)} for group in settings]


def decode_settings(encoded: Iterable[Mapping[str, Any]]) -> tuple[GroupSettings, ...]:
    """Return settings from what `encode_settings` made."""
    return tuple(
        GroupSettings(tuple(group["names"]), {name: _as_key(value) for name, value in group["options"].items()})
        for group in encoded
    )


def new_optimizer(
    kind: type[Optimizer], settings: Iterable[GroupSettings], parameters: Mapping[str, Tensor]
) -> Optimizer:
    """Make an optimizer over ``parameters`` with the recorded groups and settings."""
    groups = [{"params": [parameters[name] for name in group.names]} for group in settings]
    optimizer = kind(groups or [{"params": []}], lr=0.0)  # type: ignore[call-arg]  # every supported class takes lr
    apply_settings(optimizer, settings, parameters)
    return optimizer


def apply_settings(optimizer: Optimizer, settings: Iterable[GroupSettings], parameters: Mapping[str, Tensor]) -> None:
    """Give an optimizer the recorded groups of one step: their parameters, which may come and go, and their settings.

    The options are all that a group holds, so that one is added without ``add_param_group``, which wants the names of
    parameters where the others have them, and no parameter that moves from one group to another.
    """
    count = 0
    for count, group in enumerate(settings, start=1):
        if count > len(optimizer.param_groups):
            optimizer.param_groups.append({})
        live = {name: _live(value) for name, value in group.options.items()}
        optimizer.param_groups[count - 1].update(live, params=[parameters[name] for name in group.names])
    del optimizer.param_groups[count:]


def _plain(value: Any) -> Any:
    """Return a group's value as JSON's types can hold it; a tensor with its type."""
    if isinstance(value, Tensor):
        return {"tensor": value.tolist(), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, tuple | list):
        return tuple(_plain(part) for part in value)
    if isinstance(value, np.generic):
        return _plain(value.item())
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return repr(value)


def _is_plain(value: Any) -> bool:
    """Return whether `_plain` keeps what a value is; of anything else it keeps how it is written."""
    return isinstance(value, str) or not isinstance(_plain(value), str)


def _as_key(value: Any) -> Any:
    return tuple(_as_key(part) for part in value) if isinstance(value, list) else value


def _live(value: Any) -> Any:
    """Undo `_plain`."""
    if isinstance(value, Mapping):
        return torch.tensor(value["tensor"], dtype=getattr(torch, value["dtype"]))
    return tuple(_live(part) for part in value) if isinstance(value, tuple) else value
