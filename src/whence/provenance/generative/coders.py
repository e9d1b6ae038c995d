"""Encoders and decoders: what makes a latent vector of a picture, and a picture of a latent vector."""

from __future__ import annotations

from math import prod
from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from whence._errors import ArgumentError
from whence.provenance.generative.checks import Shape

POOLED = 128  # channels of the decoder's feature
_REDUCED = 4  # the encoder makes pictures smaller by this
_LEAST = 8  # pixels a side: batch normalisation needs more than one place


def check_sides(shape: Shape) -> None:
    """Check that the convolutional network can halve a picture twice and double it back.

    Raises:
        ArgumentError: If a side is too small, or not divisible by four.
    """
    _, height, width = shape
    if any(side % _REDUCED or side < _LEAST for side in (height, width)):
        raise ArgumentError(
            f"The convolutional network halves pictures twice, so both sides must be divisible by {_REDUCED} and at "
            f"least {_LEAST}; got {height} by {width}. Resize them, as by load_image_folder(folder, size=(height, "
            "width)), or take GenerativeNetwork.fully_connected, which takes any size."
        )


@final
class ConvolutionalEncoder(nn.Module):
    """Three convolutions of 64, 128 and 256 channels and two linear layers (7.11, figure 25).

    Args:
        shape: Of a picture.
        latent: How long the latent vector is.
    """

    def __init__(self, shape: Shape, latent: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
            nn.Conv2d(64, 128, 3, stride=2, padding=1), nn.BatchNorm2d(128), nn.ReLU(),
            nn.Conv2d(128, 256, 3, padding=1), nn.BatchNorm2d(256), nn.ReLU(), nn.Flatten(),
        )  # fmt: skip
        flat = 256 * (height // _REDUCED) * (width // _REDUCED)
        self.mean = nn.Linear(flat, latent)
        self.log_variance = nn.Linear(flat, latent)

    def forward(
        self, inputs: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch latent"]]:
        """Return mean and log-variance of the latent vector."""
        found = self.layers(inputs)
        return self.mean(found), self.log_variance(found)


@final
class ConvolutionalDecoder(nn.Module):
    """A linear layer, three transposed convolutions of 128, 64 and 32 channels and one convolution (7.13, figure 26).

    The feature is the mean over places of the first one's 128 channels.

    Args:
        shape: Of a picture.
        latent: How long the latent vector is.
    """

    def __init__(self, shape: Shape, latent: int) -> None:
        super().__init__()
        channels, height, width = shape
        small = (256, height // _REDUCED, width // _REDUCED)
        self.first = nn.Sequential(
            nn.Linear(latent, prod(small)), nn.Unflatten(1, small),
            nn.ConvTranspose2d(256, POOLED, 3, padding=1), nn.BatchNorm2d(POOLED), nn.ReLU(),
        )  # fmt: skip
        self.rest = nn.Sequential(
            nn.ConvTranspose2d(POOLED, 64, 3, stride=2, padding=1, output_padding=1), nn.BatchNorm2d(64), nn.ReLU(),
            nn.ConvTranspose2d(64, 32, 3, stride=2, padding=1, output_padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, channels, 3, padding=1),
        )  # fmt: skip

    def forward(
        self, latent: Float[Tensor, "batch latent"]
    ) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, "batch width_of_feature"]]:
        """Return the logits of the pixels, and the feature that heads read."""
        planes = self.first(latent)
        return self.rest(planes), planes.mean((2, 3))


@final
class ConnectedEncoder(nn.Module):
    """Three linear layers, the last one twice: for mean and for log-variance (5.5, faces).

    Args:
        shape: Of a picture.
        latent: How long the latent vector is.
        widths: Of the first and second layer.
    """

    def __init__(self, shape: Shape, latent: int, widths: tuple[int, int]) -> None:
        super().__init__()
        first, second = widths
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(prod(shape), first), nn.ReLU(), nn.Linear(first, second), nn.ReLU()
        )
        self.mean = nn.Linear(second, latent)
        self.log_variance = nn.Linear(second, latent)

    def forward(
        self, inputs: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "batch latent"], Float[Tensor, "batch latent"]]:
        """Return mean and log-variance of the latent vector."""
        found = self.layers(inputs)
        return self.mean(found), self.log_variance(found)


@final
class ConnectedDecoder(nn.Module):
    """Three linear layers, the encoder's in reverse; the feature is what the first one gives (5.5, faces).

    Args:
        shape: Of a picture.
        latent: How long the latent vector is.
        widths: Of the encoder's first and second layer.
    """

    def __init__(self, shape: Shape, latent: int, widths: tuple[int, int]) -> None:
        super().__init__()
        first, second = widths
        self.first = nn.Sequential(nn.Linear(latent, second), nn.ReLU())
        self.rest = nn.Sequential(
            nn.Linear(second, first), nn.ReLU(), nn.Linear(first, prod(shape)), nn.Unflatten(1, shape)
        )

    def forward(
        self, latent: Float[Tensor, "batch latent"]
    ) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, "batch width_of_feature"]]:
        """Return the logits of the pixels, and the feature that heads read."""
        feature = self.first(latent)
        return self.rest(feature), feature
