"""Where the training of a sparse autoencoder starts, and what keeps its dictionary's columns of length 1."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from whence._errors import ArgumentError
from whence.invariants.autoencoders.network import SparseAutoencoder

_SMALL = 1e-6  # relative: where the search for a median ends


def geometric_median(rows: Float[Tensor, "rows width"], iterations: int = 100) -> Float[Tensor, " width"]:
    """Return the point whose distances to all rows have the smallest sum (Weiszfeld's iteration from the mean).

    Examples:
        >>> [round(one, 3) for one in geometric_median(torch.tensor([[0.0], [1.0], [1.0], [1.0], [50.0]])).tolist()]
        [1.0]
    """
    exact = rows.double()
    found = exact.mean(0)
    spread = float((exact - found).norm(dim=1).mean())
    for _ in range(iterations):
        weights = 1 / (exact - found).norm(dim=1).clamp_min(_SMALL * max(spread, 1e-300))
        moved = weights @ exact / weights.sum()
        near = float((moved - found).norm()) <= _SMALL * spread
        found = moved
        if near:
            break
    return found.to(rows.dtype)


@torch.no_grad()
def start_from(autoencoder: SparseAutoencoder, rows: Float[Tensor, "rows width"]) -> None:
    """Take scale and pre-bias from activations: their variance over all channels becomes 1, b their geometric median.

    With that scale a squared error is a share of the variance, of any layer, so a weight of the codes' sum means the
    same everywhere (pre-bias: Bricken et al., 2023, "Sparse autoencoder setup"; Gao et al., 2024, appendix A.1).

    Raises:
        ArgumentError: If activations are not finite, or all the same.
    """
    if not bool(rows.isfinite().all()):
        raise ArgumentError(
            "Some of the layer's activations are not finite. Look at the inputs and parameters of the model for nan "
            "and infinite values, or name an earlier layer."
        )
    variance = float((rows.double() - rows.double().mean(0)).square().sum(1).mean())
    if variance <= torch.finfo(torch.float32).tiny:
        raise ArgumentError(
            f"The layer's activations are the same at all of {len(rows)} positions, so there is nothing to take apart. "
            "Name another layer, or give more data."
        )
    autoencoder.scale.fill_(variance**0.5)
    autoencoder.pre_bias.copy_(geometric_median(rows) / autoencoder.scale)
    normalise(autoencoder)  # a change of type took some digits of the lengths


@torch.no_grad()
def remove_lengthening(autoencoder: SparseAutoencoder) -> None:
    """Take from the dictionary's gradient what would only change its columns' lengths (Bricken et al., 2023)."""
    gradient = autoencoder.decoder.grad
    if gradient is not None:
        gradient -= autoencoder.decoder * (gradient * autoencoder.decoder).sum(0)


@torch.no_grad()
def normalise(autoencoder: SparseAutoencoder) -> None:
    """Bring the dictionary's columns back to length 1."""
    lengths = autoencoder.decoder.norm(dim=0)
    autoencoder.decoder.div_(lengths.clamp_min(torch.finfo(lengths.dtype).tiny))
