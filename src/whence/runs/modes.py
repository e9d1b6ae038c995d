"""What decides how a forward pass works beside parameters and inputs: modes, frozen parameters, autocast."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from torch import Tensor, nn


@final
@dataclass(frozen=True)
class Modes:
    """How a model stood when it was called.

    Attributes:
        training: A "1" for each module in training mode, else "0", in the order of ``model.modules()``.
        trainable: The same for ``requires_grad``, in the order of ``model.parameters()``.
        autocast: Name of the type of autocast, or None when it was off.
    """

    training: str
    trainable: str
    autocast: str | None

    def apply(self, modules: Sequence[nn.Module], parameters: Sequence[Tensor]) -> None:
        """Bring a model into these modes, given its modules and parameters: listing these takes longer."""
        for module, flag in zip(modules, self.training, strict=True):
            if module.training != (flag == "1"):
                module.training = flag == "1"
        for parameter, flag in zip(parameters, self.trainable, strict=True):
            if parameter.requires_grad != (flag == "1"):
                parameter.requires_grad_(flag == "1")

    def precision(self, device: torch.device) -> AbstractContextManager[Any]:
        """Return the autocast block, on or off, to enter around forward and loss."""
        kind = None if self.autocast is None else getattr(torch, self.autocast)
        return torch.autocast(device.type, dtype=kind, enabled=kind is not None)

    def encode(self) -> dict[str, Any]:
        """Return the modes as JSON's types."""
        return asdict(self)

    @classmethod
    def decode(cls, encoded: Mapping[str, Any]) -> "Modes":
        """Return the modes from what `encode` made."""
        return cls(encoded["training"], encoded["trainable"], encoded["autocast"])


@final
class ModesReader:
    """Read a model's modes at each call; while nothing changes, the same object is returned."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._modules = list(model.modules())
        self._parameters = list(model.parameters())
        self._device = device.type
        self._key: object = None
        self._modes = Modes("", "", None)

    def read(self) -> Modes:
        """Return the modes now."""
        training = [module.training for module in self._modules]
        trainable = [parameter.requires_grad for parameter in self._parameters]
        autocast = torch.get_autocast_dtype(self._device) if torch.is_autocast_enabled(self._device) else None
        key = (training, trainable, autocast)
        if key != self._key:
            kind = None if autocast is None else str(autocast).removeprefix("torch.")
            self._modes = Modes(_flags(training), _flags(trainable), kind)
            self._key = key
        return self._modes


def _flags(values: list[bool]) -> str:
    return "".join("1" if value else "0" for value in values)
