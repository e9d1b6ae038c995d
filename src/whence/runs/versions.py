"""Notice parameters and buffers that something other than training changed in place."""

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn


@final
class ParameterWatch:
    """Notice parameters that something other than the optimizer changed since `note`."""

    def __init__(self, names: Mapping[Tensor, str]) -> None:
        self._names = names
        self._versions: list[int] = []
        self.note()

    def note(self) -> None:
        """Take the parameters as they are."""
        self._versions = [parameter._version for parameter in self._names]

    def changed(self) -> tuple[str, ...]:
        """Return the names of the parameters that were changed."""
        now = [parameter._version for parameter in self._names]
        if now == self._versions:
            return ()
        return tuple(
            name
            for name, version, kept in zip(self._names.values(), now, self._versions, strict=True)
            if version != kept
        )


@final
class BufferWatch:
    """Notice buffers that something other than a recorded call of the model changed since `note`.

    A tensor's version tells of most changes, but not of those that BatchNorm makes; so every buffer of a module counts
    as changed when one of them is, and all do after a call of the model with such modules in training mode.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = [
            (prefix, module)
            for prefix, module in model.named_modules()
            if any(True for _ in module.buffers(recurse=False))
        ]
        self._versions: list[list[tuple[int, int]]] = []
        self._suspect = False
        self._every = list(model.named_modules())
        self._forms = self._read_forms()
        self.note()

    @property
    def any(self) -> bool:
        """Whether the model has buffers."""
        return bool(self._modules)

    def copies(self) -> dict[str, Tensor]:
        """Return copies of all buffers, by name."""
        return {
            name: buffer.detach().cpu().clone()
            for prefix, module in self._modules
            for name, buffer in module.named_buffers(prefix, recurse=False)
        }

    def reshaped(self) -> str | None:
        """Return the name of a buffer whose shape or type is not that at the beginning, and what they are; or None."""
        now = self._read_forms()
        if now == self._forms:
            return None
        place = next(one for one in {**self._forms, **now} if self._forms.get(one) != now.get(one))
        name = ".".join(part for part in place if part)
        return f"{name!r} (first {_form(self._forms.get(place))}, now {_form(now.get(place))})"

    def _read_forms(self) -> dict[tuple[str, str], tuple[torch.Size, torch.dtype]]:
        return {
            (prefix, name): (buffer.shape, buffer.dtype)
            for prefix, module in self._every
            for name, buffer in module._buffers.items()
            if buffer is not None
        }

    def note(self) -> None:
        """Take the buffers as they are."""
        self._versions = [_versions(module) for _, module in self._modules]
        self._suspect = False

    def suspect(self) -> None:
        """Take note of a call of the model that is not recorded."""
        self._suspect = self._suspect or any(module.training for _, module in self._modules)

    def changed(self) -> dict[str, Tensor] | None:
        """Return copies of the buffers that may have been changed, by name; None if there are none."""
        now = [_versions(module) for _, module in self._modules]
        if now == self._versions and not self._suspect:
            return None
        return {
            name: buffer.detach().cpu().clone()
            for (prefix, module), versions, kept in zip(self._modules, now, self._versions, strict=True)
            if self._suspect or versions != kept
            for name, buffer in module.named_buffers(prefix, recurse=False)
        }


def _form(form: tuple[torch.Size, torch.dtype] | None) -> str:
    return "not there" if form is None else f"{str(form[1]).removeprefix('torch.')} {tuple(form[0])}"


def _versions(module: nn.Module) -> list[tuple[int, int]]:
    return [(id(buffer), buffer._version) for buffer in module.buffers(recurse=False)]
