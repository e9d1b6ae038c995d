"""The generative provenance network: a variational autoencoder that names its sources (Provenance Networks, 5.5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from whence._errors import ArgumentError, ShapeError
from whence.provenance.generative.checks import Shape, as_shape, check_full, whole
from whence.provenance.generative.coders import (
    POOLED,
    ConnectedDecoder,
    ConnectedEncoder,
    ConvolutionalDecoder,
    ConvolutionalEncoder,
    check_sides,
)
from whence.provenance.generative.heads import ClassHeads
from whence.provenance.indices import ClassIndex
from whence.provenance.modes import Resting
from whence.runs import kept_randomness

Head = Callable[[int, ClassIndex], nn.Module]
"""Makes an index head of a feature's width and the classes: `ClassHeads`, `SharedClassHead`."""


class Reconstruction(NamedTuple):
    """What a network makes of a batch.

    Attributes:
        logits: Of the pixels; their sigmoid is the picture, (batch, channels, height, width).
        mean: Of the latent vector, (batch, latent).
        log_variance: Of the latent vector, (batch, latent).
        feature: What the heads read, (batch, width).
        class_logits: (batch, classes).
    """

    logits: Tensor
    mean: Tensor
    log_variance: Tensor
    feature: Tensor
    class_logits: Tensor

    @property
    def pictures(self) -> Tensor:
        """The pictures, from 0 to 1."""
        return self.logits.sigmoid()


@final
class GenerativeNetwork(Resting):
    """A variational autoencoder with a class head and index heads on the decoder's feature (7.10 to 7.13, figure 27).

    Made by `GenerativeNetwork.convolutional` or `GenerativeNetwork.fully_connected`, or of an encoder and a decoder
    of your own. It names the examples of one data set: those that its index numbers.

    Args:
        index: The classes and examples that heads can name; see `class_index`.
        encoder: Gives mean and log-variance, each (batch, latent), of pictures.
        decoder: Gives logits of pixels, and a feature (batch, width), of latent vectors.
        shape: Of a picture: channels, height, width.
        latent: How long the latent vector is.
        width: How long the decoder's feature is.
        head: `ClassHeads`, as the paper: one index head for each class; or `SharedClassHead`: one for all.

    Attributes:
        index: As given.
        shape: As given.
        latent: As given.

    Raises:
        ArgumentError: If a class has no example, or a number or shape is none.
    """

    def __init__(
        self,
        index: ClassIndex,
        encoder: nn.Module,
        decoder: nn.Module,
        *,
        shape: Sequence[int],
        latent: int,
        width: int,
        head: Head = ClassHeads,
    ) -> None:
        super().__init__()
        check_full(index)
        self.index = index
        self.shape: Shape = as_shape(shape)
        self.latent = whole("latent", latent, 1)
        self.encoder = encoder
        self.decoder = decoder
        self.class_head = nn.Linear(width, index.classes)
        self.index_head = head(width, index)
        self.labels: Tensor
        self.register_buffer("labels", index.labels.clone(), persistent=False)

    @classmethod
    def convolutional(
        cls,
        index: ClassIndex,
        shape: Sequence[int] = (1, 28, 28),
        *,
        latent: int = 128,
        head: Head = ClassHeads,
        seed: int = 0,
    ) -> GenerativeNetwork:
        """Return the paper's network for MNIST and FashionMNIST, for pictures of any channels (7.11 to 7.13).

        The paper's text has a latent vector of 128, its listing one of 64 by default; this takes the text's.

        Args:
            index: The classes and examples that heads can name.
            shape: Of a picture; height and width divisible by four.
            latent: How long the latent vector is.
            head: `ClassHeads` or `SharedClassHead`.
            seed: Of the initial weights; torch's own generator stays as it is.

        Raises:
            ArgumentError: If a class has no example, the sides do not fit, or a number is none.

        Examples:
            >>> from whence.provenance import class_index
            >>> network = GenerativeNetwork.convolutional(class_index([0, 1, 1]), (3, 8, 8), latent=4)
            >>> network(torch.rand(2, 3, 8, 8)).pictures.shape
            torch.Size([2, 3, 8, 8])
        """
        of, size = as_shape(shape), whole("latent", latent, 1)
        check_sides(of)
        with _seeded(seed):
            coders = ConvolutionalEncoder(of, size), ConvolutionalDecoder(of, size)
            return cls(index, *coders, shape=of, latent=size, width=POOLED, head=head)

    @classmethod
    def fully_connected(
        cls,
        index: ClassIndex,
        shape: Sequence[int],
        *,
        latent: int = 100,
        widths: tuple[int, int] = (512, 256),
        head: Head = ClassHeads,
        seed: int = 0,
    ) -> GenerativeNetwork:
        """Return the paper's network for faces: three fully connected layers each way (5.5), for any size and colour.

        The paper says "3-layer fully-connected encoder-decoder architecture with a 100D latent space" and trains it
        for 150 epochs. It leaves open: the widths, the activation (here ReLU), normalisation (here none), and where
        the heads read (here after the decoder's first layer, as in the convolutional network).

        Args:
            index: The classes and examples that heads can name.
            shape: Of a picture.
            latent: How long the latent vector is.
            widths: Of the encoder's first and second layer; the decoder has them in reverse.
            head: `ClassHeads` or `SharedClassHead`.
            seed: Of the initial weights; torch's own generator stays as it is.

        Raises:
            ArgumentError: If a class has no example, or a number or shape is none.
        """
        of, size = as_shape(shape), whole("latent", latent, 1)
        given: Any = widths
        if not isinstance(given, tuple | list) or len(given) != 2:
            raise ArgumentError(f"`widths` are of the encoder's first and second layer; got {given!r}.")
        first, second = (whole("widths", one, 1) for one in widths)
        with _seeded(seed):
            coders = ConnectedEncoder(of, size, (first, second)), ConnectedDecoder(of, size, (first, second))
            return cls(index, *coders, shape=of, latent=size, width=second, head=head)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.class_head.weight.device

    def forward(
        self,
        inputs: Float[Tensor, "batch channels height width"],
        noise: Float[Tensor, "batch latent"] | None = None,
    ) -> Reconstruction:
        """Encode and decode pictures.

        Args:
            inputs: Pictures, from 0 to 1.
            noise: Standard normal, for the latent vector: mean + deviation · noise (7.12). None takes the mean.

        Raises:
            ShapeError: If pictures are of another shape than the network's.
        """
        if tuple(inputs.shape[1:]) != self.shape:
            raise ShapeError(
                f"Pictures of shape {tuple(inputs.shape[1:])} do not fit the network, which was made for {self.shape} "
                "(channels, height, width)."
            )
        mean, log_variance = self.encoder(inputs)
        latent = mean if noise is None else mean + (0.5 * log_variance).exp() * noise
        return Reconstruction(mean=mean, log_variance=log_variance, **self.decode(latent))

    def decode(self, latent: Float[Tensor, "batch latent"]) -> dict[str, Tensor]:
        """Return ``logits`` of the pixels, ``feature`` and ``class_logits`` of latent vectors."""
        logits, feature = self.decoder(latent)
        return {"logits": logits, "feature": feature, "class_logits": self.class_head(feature)}

    def index_logits(
        self, feature: Float[Tensor, "batch width"], labels: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch examples"]:
        """Return the logits of the index head of a class, by example id; minus infinity for other classes' examples.

        Args:
            feature: What the decoder gave.
            labels: Whose head to read.
        """
        logits: Tensor = self.index_head(feature)
        return logits.masked_fill(self.outside(labels), -torch.inf)

    def outside(self, labels: Int[Tensor, " batch"]) -> Bool[Tensor, "batch examples"]:
        """Return which examples are of another class."""
        return labels[:, None] != self.labels


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Have torch's generator of the CPU begin at a seed, and then as it was."""
    known = whole("seed", seed, 0)
    with kept_randomness(torch.device("cpu")):
        torch.default_generator.manual_seed(known)
        yield
