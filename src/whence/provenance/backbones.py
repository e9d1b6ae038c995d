"""A small convolutional network for pictures of any size, to start with."""

from __future__ import annotations

from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from whence._errors import ArgumentError
from whence.datasets import Examples, as_examples

_CHANNELS, _HIDDEN, _GRID = (16, 32, 64), 256, 4
_HALVED = ((), (1,), (0, 1), (0, 1, 2))  # after which convolutions pictures are halved, by how often
_SEEN = 5000  # training pictures, evenly spaced, that mean, deviation and range are of


def small_backbone(train_data: Any) -> nn.Module:
    """Return a convolutional network that suits the size of the training pictures: to 256 features.

    Three convolutions of 16, 32 and 64 channels with batch normalisation and ReLU, halved as often as leaves a grid of
    4 x 4, and a hidden layer of 256. It takes away the training pictures' mean and divides by their deviation itself,
    so that distortions can act on pictures from 0 to 1.

    Args:
        train_data: Pictures and labels: anything `as_examples` takes.

    Raises:
        ArgumentError: If the data is not of pictures.

    Examples:
        >>> small_backbone((torch.rand(10, 1, 8, 8), torch.arange(10) % 2)).eval()(torch.rand(3, 1, 8, 8)).shape
        torch.Size([3, 256])
    """
    seen = some_pictures(as_examples(train_data))
    halvings = _HALVED[next(many for many in (3, 2, 1, 0) if many == 0 or min(seen.shape[2:]) > (_GRID - 1) * 2**many)]
    layers: list[nn.Module] = [Standardised(seen)]
    for place, (one, two) in enumerate(zip((seen.shape[1], *_CHANNELS), _CHANNELS, strict=False)):
        layers += [nn.Conv2d(one, two, 3, padding=1), nn.BatchNorm2d(two), nn.ReLU()]
        if place in halvings:
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
    hidden = nn.Linear(_CHANNELS[-1] * _GRID**2, _HIDDEN)
    layers += [nn.AdaptiveAvgPool2d(_GRID), nn.Flatten(), hidden, nn.BatchNorm1d(_HIDDEN), nn.ReLU()]
    return nn.Sequential(*layers)


@final
class Standardised(nn.Module):
    """Takes away a mean and divides by a deviation, one a channel, that go with the network's tensors.

    Args:
        pictures: Whose mean and deviation; a channel that is the same everywhere is divided by 1.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, pictures: Float[Tensor, "some channels height width"]) -> None:
        super().__init__()
        deviation = pictures.std((0, 2, 3), keepdim=True, correction=0)
        self.register_buffer("mean", pictures.mean((0, 2, 3), keepdim=True))
        self.register_buffer("deviation", torch.where(deviation > 0, deviation, torch.ones_like(deviation)))

    def forward(
        self, pictures: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the pictures with mean 0 and deviation 1, as the training pictures had them."""
        return ((pictures - self.mean) / self.deviation).contiguous(memory_format=torch.channels_last)


def some_pictures(examples: Examples) -> Float[Tensor, "some channels height width"]:
    """Return evenly spaced examples, which must be pictures.

    Raises:
        ArgumentError: If they are not.
    """
    count = len(examples)
    rows = range(count) if count <= _SEEN else [place * (count - 1) // (_SEEN - 1) for place in range(_SEEN)]
    found = examples.batch(rows)[0]
    if not isinstance(found, Tensor) or found.dim() != 4 or not found.is_floating_point():
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ArgumentError(
            f"The small backbone takes pictures, floating-point (channels, height, width) each; a batch is {shape}. "
            "For other data give ProvenanceNetwork a backbone of your own."
        )
    return found


def range_of(pictures: Float[Tensor, "some channels height width"]) -> tuple[float, float]:
    """Return the ends of the pictures' range: 0 and 1, or where they go beyond, their smallest and largest number."""
    low, high = float(pictures.min()), float(pictures.max())
    return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
