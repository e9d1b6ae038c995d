"""What a sparse autoencoder learns by, and how features that went silent come back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.optim import Optimizer

from whence.invariants.autoencoders.network import Relu, SparseAutoencoder, TopK

# Length of a resampled feature's encoder row, as a share of the others' mean: of `Relu` as in Bricken et al. (2023).
_FAINT: dict[type[Relu | TopK], float] = {Relu: 0.2, TopK: 0.5}


@final
@dataclass(frozen=True, eq=False)
class AutoencoderLoss:
    """A batch's loss and what it is made of, in shares of the activations' variance.

    Attributes:
        total: What is minimised: ``reconstruction`` and, of `Relu`, the weight times ``sparsity``.
        reconstruction: Mean squared distance of activations and reconstructions, both over the scale.
        sparsity: Mean sum of codes.
        codes: Codes.
        error: Activations less reconstructions, over the scale.
    """

    total: Float[Tensor, ""]
    reconstruction: Float[Tensor, ""]
    sparsity: Float[Tensor, ""]
    codes: Float[Tensor, "rows features"]
    error: Float[Tensor, "rows width"]


def autoencoder_loss(autoencoder: SparseAutoencoder, rows: Float[Tensor, "rows width"]) -> AutoencoderLoss:
    """Return the loss of some activations (Cunningham et al., 2023, section 2; of `TopK` Gao et al., 2024, 2.3).

    Examples:
        >>> autoencoder = SparseAutoencoder(2, 2, Relu(l1=0.5))
        >>> with torch.no_grad():
        ...     [one.copy_(torch.eye(2)) for one in (autoencoder.encoder, autoencoder.decoder)][0].shape
        torch.Size([2, 2])
        >>> found = autoencoder_loss(autoencoder, torch.tensor([[2.0, -1.0]]))
        >>> found.reconstruction.item(), found.sparsity.item(), found.total.item()
        (1.0, 2.0, 2.0)
    """
    codes = autoencoder.encode(rows)
    error = autoencoder.scaled(rows) - F.linear(codes, autoencoder.decoder, autoencoder.pre_bias)
    reconstruction, sparsity = error.square().sum(1).mean(), codes.sum(1).mean()
    weight = autoencoder.activation.l1 if isinstance(autoencoder.activation, Relu) else 0.0
    return AutoencoderLoss(reconstruction + weight * sparsity, reconstruction, sparsity, codes, error)


@torch.no_grad()
def resample(
    autoencoder: SparseAutoencoder,
    optimizer: Optimizer,
    rows: Float[Tensor, "rows width"],
    dead: Bool[Tensor, " features"],
    generator: torch.Generator,
) -> int:
    """Point silent features at activations that are reconstructed badly (Bricken et al., 2023, "Neuron resampling").

    Activations are drawn with a chance that grows with their squared loss, each once. A feature's column becomes what
    the encoder sees of its activation, at length 1; its encoder row the same, at a fifth of the others' mean length, of
    `TopK` at half of it; its bias 0. The optimizer forgets what it knew of them.

    A code above 0 is enough for `Relu`; `TopK` asks for one of the k largest. At a share s of the others' length, a
    feature outdoes on its own activation those whose cosine with it is below s, about. Gao et al. (2024, appendix A.2)
    bring features of `TopK` back by an auxiliary loss instead.

    Returns:
        How many features were pointed anew: all silent ones, or as many as activations have an error.
    """
    losses = autoencoder_loss(autoencoder, rows).error.square().sum(1).double().square()
    count = min(int(dead.sum()), int((losses > 0).sum()))
    if count == 0:
        return 0
    chosen = torch.multinomial(losses.cpu(), count, generator=generator).to(rows.device)
    places = dead.nonzero()[:count, 0]
    seen = F.normalize(autoencoder.scaled(rows[chosen]) - autoencoder.pre_bias, dim=1)
    alive = autoencoder.encoder[~dead].norm(dim=1)
    autoencoder.decoder[:, places] = seen.T
    autoencoder.encoder[places] = seen * _FAINT[type(autoencoder.activation)] * (alive.mean() if len(alive) else 1.0)
    autoencoder.bias[places] = 0.0
    _forget(autoencoder, optimizer, places)
    return count


def _forget(autoencoder: SparseAutoencoder, optimizer: Optimizer, places: Tensor) -> None:
    """Set an optimizer's averages of some features to 0."""
    for parameter in (autoencoder.decoder, autoencoder.encoder, autoencoder.bias):
        for name, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and name != "step":
                (value.T if parameter is autoencoder.decoder else value)[places] = 0.0
