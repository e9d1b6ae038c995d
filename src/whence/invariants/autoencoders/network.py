"""A sparse autoencoder: a layer's activations as sums of few directions out of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from whence._errors import ArgumentError, LabelError
from whence._numbers import is_number, is_whole
from whence.invariants.autoencoders.layout import axis_of, rows_of


@final
@dataclass(frozen=True)
class Relu:
    """Codes are pre-activations above 0; training weighs their sum, the L1 norm (Cunningham et al., 2023, section 2).

    Attributes:
        l1: How much a sum of codes of 1 weighs beside the whole variance of the activations.

    Raises:
        ArgumentError: If it is no number, at least 0.
    """

    l1: float = 0.2

    def __post_init__(self) -> None:
        """Check the weight."""
        if not is_number(self.l1) or self.l1 < 0:
            raise ArgumentError(f"`l1` is a weight, at least 0; got {self.l1!r}.")

    def __call__(self, before: Float[Tensor, "... features"]) -> Float[Tensor, "... features"]:
        """Return the codes."""
        return before.relu()


@final
@dataclass(frozen=True)
class TopK:
    """Codes are the k largest pre-activations, where above 0 (Gao et al., 2024, section 2.3).

    Attributes:
        k: How many features an activation may have at most.

    Raises:
        ArgumentError: If it is no whole number, at least 1.
    """

    k: int

    def __post_init__(self) -> None:
        """Check the number."""
        if not is_whole(self.k) or self.k < 1:
            raise ArgumentError(f"`k` is a whole number of features, at least 1; got {self.k!r}.")

    def __call__(self, before: Float[Tensor, "... features"]) -> Float[Tensor, "... features"]:
        """Return the codes."""
        values, places = before.topk(self.k, dim=-1)
        return torch.zeros_like(before).scatter(-1, places, values.relu())


@final
class SparseAutoencoder(nn.Module):
    """An autoencoder of a layer's activations with one hidden layer (Bricken et al., 2023, "Sparse autoencoder setup").

    With activations x over one ``scale``: pre-activations E(x/scale - b) + e, codes f of them by the activation, and
    the reconstruction scale·(D f + b). The columns of D, one a feature, have length 1; E starts as the transpose of D
    (Gao et al., 2024, appendix A.1).

    Args:
        width: Channels of the layer.
        features: Columns of the dictionary.
        activation: What makes codes of pre-activations.
        channel_axis: Where the channels stand in the layer's output. When left out: on axis 1 of an output of four or
            more axes, as of a convolution over images; else on the last one, as of a transformer or a linear layer.
        seed: Of the dictionary's first directions. The global generators are left as they were.

    Attributes:
        decoder: D, (width, features).
        encoder: E, (features, width).
        bias: e.
        pre_bias: b.
        scale: What activations are divided by.

    Raises:
        ArgumentError: If a number is not what it should be.

    Examples:
        >>> autoencoder = SparseAutoencoder(4, 16, TopK(3))
        >>> codes, reconstruction = autoencoder(torch.randn(5, 4))
        >>> codes.count_nonzero(1).tolist(), tuple(reconstruction.shape)
        ([3, 3, 3, 3, 3], (5, 4))
    """

    scale: Tensor

    def __init__(
        self, width: int, features: int, activation: Relu | TopK, *, channel_axis: int | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        for name, number in (("width", width), ("features", features)):
            if not is_whole(number) or number < 1:
                raise ArgumentError(f"`{name}` is a whole number, at least 1; got {number!r}.")
        if not isinstance(activation, Relu | TopK):
            raise ArgumentError(f"`activation` is Relu() or TopK(k); got {activation!r}.")
        if isinstance(activation, TopK) and activation.k > features:
            raise ArgumentError(f"TopK({activation.k}) needs at least {activation.k} features; there are {features}.")
        if channel_axis is not None and not is_whole(channel_axis):
            raise ArgumentError(f"`channel_axis` is the number of an axis; got {channel_axis!r}.")
        self.activation, self.channel_axis = activation, channel_axis
        generator = torch.Generator().manual_seed(seed)
        directions = F.normalize(torch.randn(width, features, generator=generator, dtype=torch.float64), dim=0)
        directions = directions.to(torch.get_default_dtype())
        self.decoder = nn.Parameter(directions)
        self.encoder = nn.Parameter(directions.T.clone())
        self.bias = nn.Parameter(torch.zeros(features))
        self.pre_bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))

    @property
    def width(self) -> int:
        """Channels of the layer."""
        return self.decoder.shape[0]

    @property
    def features(self) -> int:
        """Columns of the dictionary."""
        return self.decoder.shape[1]

    def scaled(self, activations: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
        """Return activations over the scale, in the autoencoder's type."""
        return activations.to(self.decoder.dtype) / self.scale

    def before(self, activations: Float[Tensor, "... width"]) -> Float[Tensor, "... features"]:
        """Return the pre-activations: they have a gradient also where a feature is silent."""
        return F.linear(self.scaled(activations) - self.pre_bias, self.encoder, self.bias)

    def encode(self, activations: Float[Tensor, "... width"]) -> Float[Tensor, "... features"]:
        """Return the codes: how much of each feature there is, 0 of most."""
        return self.activation(self.before(activations))

    def decode(self, codes: Float[Tensor, "... features"]) -> Float[Tensor, "... width"]:
        """Return the activations that codes stand for."""
        return self.scale * F.linear(codes, self.decoder, self.pre_bias)

    def forward(
        self, activations: Float[Tensor, "... width"]
    ) -> tuple[Float[Tensor, "... features"], Float[Tensor, "... width"]]:
        """Return codes and reconstruction."""
        codes = self.encode(activations)
        return codes, self.decode(codes)

    def told(self) -> dict[str, Any]:
        """Return what the autoencoder is made of, as JSON's types."""
        return {
            "width": self.width,
            "features": self.features,
            "activation": {"kind": type(self.activation).__name__, **asdict(self.activation)},
            "channel_axis": self.channel_axis,
        }


def feature_values(
    activations: Float[Tensor, "batch ..."], autoencoder: SparseAutoencoder, index: int, *, before: bool = False
) -> Float[Tensor, "batch positions"]:
    """Return one feature's code at every position of a layer's output; gradients flow back.

    Positions are those of a convolution's map, row by row, or a transformer's tokens; a layer without any has one.

    Args:
        activations: The layer's output.
        autoencoder: Of the layer.
        index: The feature.
        before: The pre-activation in place of the code: it has a gradient also where the feature is silent.

    Raises:
        LabelError: If there is no such feature.
        ShapeError: If the activations are not as wide as the autoencoder's.
    """
    return values_of(activations, autoencoder, [index], before=before)[..., 0]


def values_of(
    activations: Float[Tensor, "batch ..."], autoencoder: SparseAutoencoder, chosen: Sequence[int], *, before: bool
) -> Float[Tensor, "batch positions chosen"]:
    """Return some features' codes, or pre-activations, at every position.

    Raises:
        LabelError: If there is no such feature.
        ShapeError: If the activations are not as wide as the autoencoder's.
    """
    outside = [one for one in chosen if not is_whole(one) or not 0 <= one < autoencoder.features]
    if outside:
        raise LabelError(f"No feature {outside[0]!r}: the autoencoder has features 0 to {autoencoder.features - 1}.")
    rows = rows_of(activations, axis_of(activations, autoencoder.channel_axis, autoencoder.width))
    places = torch.as_tensor(list(chosen), device=rows.device)
    if not before and isinstance(autoencoder.activation, TopK):  # which are the largest, all decide
        return autoencoder.encode(rows)[..., places]
    centred = autoencoder.scaled(rows) - autoencoder.pre_bias
    found = F.linear(centred, autoencoder.encoder[places], autoencoder.bias[places])
    return found if before else autoencoder.activation(found)
