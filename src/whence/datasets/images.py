"""Images of one size, held in memory."""

from collections.abc import Sequence
from typing import final

import numpy as np
import torch
from jaxtyping import Integer, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from whence._errors import ArgumentError, DataError


@final
class Images(Dataset[tuple[Tensor, Tensor]]):
    """Images of one size with one class each, held in memory as bytes, given out as floats.

    An item is ``((pixels / divisor - mean) / std, label)``: a float32 tensor (channels, height, width) and an int64
    number.

    Args:
        pixels: Raw values, (examples, channels, height, width).
        labels: Classes, (examples,).
        divisor: The raw value of full brightness.
        mean: Taken from each channel, in units of full brightness.
        std: By which each channel is then divided.
        class_names: What each class is called.

    Raises:
        DataError: If there is not one label per image.
        ArgumentError: If a standard deviation is not positive, or ``mean`` and ``std`` do not fit the channels.
    """

    def __init__(
        self,
        pixels: UInt8[Tensor, "examples channels height width"],
        labels: Integer[Tensor, "labels"],
        *,
        divisor: float = 255.0,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        class_names: Sequence[str] | None = None,
    ) -> None:
        if len(pixels) != len(labels):
            raise DataError(f"Each image needs one label; got {len(pixels)} images and {len(labels)} labels.")
        self.pixels = pixels
        self.labels = labels.to(torch.int64)
        self.divisor = divisor
        self.class_names = None if class_names is None else tuple(class_names)
        self.mean = per_channel("mean", mean, pixels.shape[1])
        self.std = per_channel("std", std, pixels.shape[1])
        if bool((self.std <= 0).any()):
            raise ArgumentError(f"std must be positive in every channel; got {list(std)}.")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._scaled(self.pixels[index]), self.labels[index]

    def gather(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the items ``ids`` in one batch, as a collated list of them would be."""
        return self._scaled(self.pixels.index_select(0, ids)), self.labels.index_select(0, ids)

    def tensors(self) -> tuple[Tensor, ...]:
        """Return all that the items are made of, for the fingerprint."""
        return self.pixels, self.labels, torch.tensor(self.divisor), self.mean, self.std

    def all_labels(self) -> Tensor:
        """Return every label, in order."""
        return self.labels

    def display(self, index: int) -> UInt8[np.ndarray, "height width"] | UInt8[np.ndarray, "height width 3"] | None:
        """Return one image as a picture, before normalisation; None unless it has one or three channels."""
        return picture((self.pixels[index].to(torch.float32) * (255.0 / self.divisor)).round())

    def _scaled(self, pixels: Tensor) -> Tensor:
        scaled = pixels.to(torch.float32).div_(self.divisor)
        return scaled.sub_(self.mean).div_(self.std)


def per_channel(name: str, values: Sequence[float], channels: int) -> Tensor:
    """Return one number a channel, shaped to broadcast over (channels, height, width).

    Raises:
        ArgumentError: If there is neither one number nor one a channel.
    """
    if len(values) not in (1, channels):
        raise ArgumentError(f"{name} needs one number, or one for each of {channels} channels; got {len(values)}.")
    return torch.tensor(list(values), dtype=torch.float32).reshape(-1, 1, 1)


def picture(pixels: Tensor) -> np.ndarray | None:
    """Return (1 or 3, height, width) values of 0 to 255 as (height, width) or (height, width, 3) bytes; else None."""
    channels = pixels.shape[0]
    if channels not in (1, 3):
        return None
    array = np.asarray(pixels.detach().cpu().to(torch.uint8).numpy())
    return array[0] if channels == 1 else np.ascontiguousarray(array.transpose(1, 2, 0))
