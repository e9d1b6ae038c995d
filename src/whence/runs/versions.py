"""Notice parameters and buffers that something other than training changed in place."""

from collections.abc import Mapping
from typing import final

from torch import Tensor, nn


@final
class ParameterWatch:
    """Notice parameters that something other than the optimizer changed since :meth:`note`."""

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
    """Notice buffers that something other than a recorded call of the model changed since :meth:`note`."""

    def __init__(self, model: nn.Module) -> None:
        self._places = [
            (f"{prefix}{'.' if prefix else ''}{name}", module._buffers, name)
            for prefix, module in model.named_modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        self._versions: list[tuple[int, int]] = []
        self.note()

    def note(self) -> None:
        """Take the buffers as they are."""
        self._versions = self._read()

    def changed(self) -> dict[str, Tensor] | None:
        """Return copies of the buffers that were changed, by name; None if there are none."""
        now = self._read()
        if now == self._versions:
            return None
        return {
            place[0]: value.detach().cpu().clone()
            for place, version, kept in zip(self._places, now, self._versions, strict=True)
            if version != kept and (value := place[1][place[2]]) is not None
        }

    def _read(self) -> list[tuple[int, int]]:
        return [
            (id(value), value._version) if (value := buffers[name]) is not None else (0, 0)
            for _, buffers, name in self._places
        ]
