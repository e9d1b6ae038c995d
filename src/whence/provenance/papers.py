"""The networks of the paper, ready made (Provenance Networks, 7.1, 7.2, 7.6, 7.7)."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from whence._errors import ArgumentError
from whence._numbers import is_whole
from whence.datasets import as_examples
from whence.provenance.heads import LinearHead, MakeHead, SharedHead
from whence.provenance.network import ProvenanceNetwork, is_trained
from whence.provenance.parts import Branches

SIZES = {"small": (32, 64, 128), "medium": (64, 128, 256), "large": (128, 256, 512), "xlarge": (256, 512, 1024)}
_GRID = 4  # side of the pooled map


def single_branch(train_data: Any, *, channels: tuple[int, ...] = (128, 256, 512)) -> ProvenanceNetwork:
    """Return the single-branch network (7.1): features, two hidden layers, one output an example.

    The layers as written have 166 million parameters over 60,000 examples of one channel; the paper says about 129
    million, of which the last layer alone takes 123. The layers are followed.

    Args:
        train_data: Pictures and labels.
        channels: Of the convolutions.

    Raises:
        ArgumentError: If the data is not of pictures, they are too small to be halved before each convolution but
            the first, or channels are no whole numbers of at least 1.
    """
    _check_channels(channels)
    inside = channels[-1] * _GRID**2
    hidden = nn.Sequential(
        *_hidden(inside, 4096, 0.4),
        *_hidden(4096, 2048, 0.2),
        nn.Dropout(0.1),
    )
    parts = Branches(pool=nn.Flatten(), classes=None, index=hidden)
    found = ProvenanceNetwork(_convolutions(train_data, channels), train_data, head=LinearHead, branches=parts)
    return initialised(found)


def two_branches(
    train_data: Any,
    *,
    conditional: bool = True,
    channels: tuple[int, ...] = (64, 128, 256),
    head: MakeHead | None = None,
) -> ProvenanceNetwork:
    """Return the two-branch network (7.2): a projection, a class branch, an index branch.

    The layers as written have 23 million parameters over MNIST's 60,000 examples; the paper says about 8.7 million.
    The layers are followed. Without ``conditional`` the index is one of all examples, as section 3.2 says; equation 9
    gives the head as many outputs as the largest class has examples.

    Args:
        train_data: Pictures and labels.
        conditional: Whether the index is one within the class.
        channels: Of the convolutions.
        head: `SharedHead`, the paper's, by default if conditional, else `LinearHead`. One that is not trained, such
            as `Neighbours`, compares what the projection gives: there is no index branch before it.

    Raises:
        ArgumentError: If the data is not of pictures, they are too small to be halved before each convolution but
            the first, or channels are no whole numbers of at least 1.
    """
    _check_channels(channels)
    inside, classes = channels[-1] * _GRID**2, int(as_examples(train_data).labels.max()) + 1
    projection = nn.Sequential(nn.Flatten(), nn.Linear(inside, 2048), nn.ReLU(), nn.BatchNorm1d(2048), nn.Dropout(0.3))
    chosen = head or (SharedHead if conditional else LinearHead)
    index = nn.Sequential(*_hidden(2048 + classes * conditional, 2048, 0.2), *_hidden(2048, 1024, 0.1))
    parts = Branches(
        pool=projection,
        classes=nn.Sequential(*_hidden(2048, 512, 0.2), nn.Linear(512, classes)),
        index=index if is_trained(chosen) else None,
    )
    backbone = _convolutions(train_data, channels)
    return initialised(ProvenanceNetwork(backbone, train_data, head=chosen, conditional=conditional, branches=parts))


def shared_levels(
    train_data: Any, *, size: str = "small", level: int = 3, head: MakeHead = LinearHead
) -> ProvenanceNetwork:
    """Return the two networks of 7.6, one for the class and one for the index, sharing their first layers.

    Level 1 shares the first convolution, 2 two, 3 all three, 4 the first fully connected layer too. Class-independent,
    as 7.6.1 says. Convolutions 3x3 with ReLU and pooling to half, a hidden layer with dropout of 0.5.

    Args:
        train_data: Pictures and labels.
        size: ``"small"``, ``"medium"``, ``"large"`` or ``"xlarge"``.
        level: 1 to 4.
        head: Of the index network; the paper's is a linear layer.

    Raises:
        ArgumentError: If there is no such size or level, the data is not of pictures of 8×8 or more, or the head is one
            that is not trained.
    """
    if size not in tuple(SIZES) or not is_whole(level) or not 1 <= level <= 4:
        raise ArgumentError(f"`size` is one of {', '.join(SIZES)} and `level` 1 to 4; got {size!r} and {level!r}.")
    if not is_trained(head):
        raise ArgumentError(
            "A head that is not trained leaves the index network as it was drawn, so that its levels say nothing. Give "
            "a head that learns, such as LinearHead."
        )
    channels, classes = SIZES[size], int(as_examples(train_data).labels.max()) + 1
    sides = _picture(train_data, least=8)
    backbone = Levels(channels, sides, level)
    width = channels[-1]
    parts = Branches(
        classes=nn.Sequential(_Half(0), nn.Linear(width, classes)),
        index=_Half(1),
    )
    return ProvenanceNetwork(backbone, train_data, head=head, branches=parts)


@final
class Levels(nn.Module):
    """Two convolutional networks that share their first layers; gives the features of both, one behind the other.

    Args:
        channels: Of the three convolutions; the last is also the width of the hidden layer.
        sides: Channels, height and width of a picture.
        level: How many layers they share, 1 to 4.

    Attributes:
        shared: The shared layers.
        own: The other layers of each network.
    """

    def __init__(self, channels: tuple[int, ...], sides: tuple[int, int, int], level: int) -> None:
        super().__init__()

        def layers() -> list[nn.Module]:
            inside = (sides[0], *channels)
            found: list[nn.Module] = [
                nn.Sequential(nn.Conv2d(one, two, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
                for one, two in pairwise(inside)
            ]
            flat = channels[-1] * (sides[1] // 8) * (sides[2] // 8)
            hidden = nn.Sequential(nn.Flatten(), nn.Linear(flat, channels[-1]), nn.ReLU(), nn.Dropout(0.5))
            return [*found, hidden]

        first, second = layers(), layers()
        self.shared = nn.Sequential(*first[:level])
        self.own = nn.ModuleList((nn.Sequential(*first[level:]), nn.Sequential(*second[level:])))

    def forward(self, inputs: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch features"]:
        """Return the features for the class, then those for the index."""
        found = self.shared(inputs)
        return torch.cat([one(found) for one in self.own], 1)

    @property
    def sharing(self) -> float:
        """The share of the parameters that both use."""
        shared = sum(one.numel() for one in self.shared.parameters())
        return shared / sum(one.numel() for one in self.parameters())


@final
class _Half(nn.Module):
    """One of two halves of the features."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place

    def forward(self, features: Float[Tensor, "batch both"]) -> Float[Tensor, "batch half"]:
        """Return the half."""
        return features.chunk(2, 1)[self.place]


def initialised(network: ProvenanceNetwork) -> ProvenanceNetwork:
    """Draw the weights as the paper does (7.1.2): convolutions Kaiming normal by fan out, linear layers N(0, 0.02)."""
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(part, nn.Linear) and not any(part is one for one in network.head.modules()):
            nn.init.normal_(part.weight, 0, 0.02)
        if isinstance(part, nn.Conv2d | nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
    return network


def _convolutions(train_data: Any, channels: tuple[int, ...]) -> nn.Module:
    """Return blocks of convolution, batch normalisation, ReLU and pooling, the last to a grid of 4 x 4."""
    first = _picture(train_data, least=2 ** (len(channels) - 1))[0]
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    for place, (one, two) in enumerate(pairwise((first, *channels))):
        pool = nn.MaxPool2d(2) if place < len(channels) - 1 else nn.AdaptiveAvgPool2d(_GRID)
        convolution = nn.Conv2d(one, two, 3, padding=1)
        blocks[f"block{place + 1}"] = nn.Sequential(convolution, nn.BatchNorm2d(two), nn.ReLU(), pool)
    return nn.Sequential(blocks)


def _check_channels(channels: Any) -> None:
    """Refuse channels that no convolution has.

    Raises:
        ArgumentError: If there is none, or one is no whole number of at least 1.
    """
    if (
        not isinstance(channels, tuple | list)
        or not channels
        or not all(is_whole(one) and one >= 1 for one in channels)
    ):
        raise ArgumentError(f"`channels` are whole numbers, at least 1, one a convolution; got {channels!r}.")


def _hidden(one: int, two: int, dropout: float) -> tuple[nn.Module, ...]:
    return nn.Linear(one, two), nn.BatchNorm1d(two), nn.ReLU(), nn.Dropout(dropout)


def _picture(train_data: Any, *, least: int) -> tuple[int, int, int]:
    """Return channels, height and width of the pictures.

    Raises:
        ArgumentError: If the data is not of pictures, or these are too small.
    """
    inputs = as_examples(train_data).batch([0])[0]
    if not isinstance(inputs, Tensor) or inputs.dim() != 4:
        shape = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        raise ArgumentError(
            f"The paper's networks take pictures, (channels, height, width) each; a batch is {shape}. For other data "
            "give ProvenanceNetwork a backbone of your own."
        )
    channels, height, width = inputs.shape[1:]
    if min(height, width) < least:
        raise ArgumentError(
            f"The paper's layers halve pictures until nothing is left of {height}×{width}: they need {least}×{least}. "
            "Enlarge the pictures, or give ProvenanceNetwork small_backbone(data), which suits any size."
        )
    return channels, height, width
