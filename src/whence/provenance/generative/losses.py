"""The loss of the generative network (Provenance Networks, 5.5 and 7.15)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from whence.provenance.generative.checks import as_weights
from whence.provenance.generative.networks import Reconstruction

WEIGHTS = (0.6, 0.4)
"""The paper's lambda_gen and lambda_cls."""


class GenerativeLoss(NamedTuple):
    """The loss of a batch and its parts, each a mean over the batch's examples, in nats.

    Attributes:
        total: lambda_gen (reconstruction + divergence) + lambda_cls (classification + indexing).
        reconstruction: Binary cross-entropy of the pixels, summed over a picture.
        divergence: Kullback-Leibler divergence of the latent vector from a standard normal one, summed over its length.
        classification: Cross-entropy of the class.
        indexing: Cross-entropy of the example's number within its class.
    """

    total: Tensor
    reconstruction: Tensor
    divergence: Tensor
    classification: Tensor
    indexing: Tensor


def generative_loss(
    made: Reconstruction,
    inputs: Float[Tensor, "batch channels height width"],
    labels: Int[Tensor, " batch"],
    index_logits: Float[Tensor, "batch examples"],
    ids: Int[Tensor, " batch"],
    *,
    weights: Sequence[float] = WEIGHTS,
) -> GenerativeLoss:
    """Return the paper's loss and its parts.

    The paper writes -log p(x | z) and the divergence of the whole latent vector (7.15): both are sums over pixels and
    over latent numbers, and so they are here; all four parts are means over the examples of the batch. The paper leaves
    open how its code averages. Where a mean over pixels is wanted instead, give ``weights=(0.6 / pixels, 0.4)``, which
    divides the divergence by their number, too. Also open is the index
    loss of other classes' heads: an example has no number in them, so only the head of its true class is asked, as the
    class-conditional networks are trained (7.2.3).

    Args:
        made: What the network made of the pictures.
        inputs: The pictures, from 0 to 1.
        labels: Their true classes.
        index_logits: Of `GenerativeNetwork.index_logits` for these classes.
        ids: The pictures' example ids.
        weights: lambda_gen and lambda_cls.

    Raises:
        ArgumentError: If the weights are not two numbers from 0.
    """
    generative, discriminative = as_weights(weights)
    reconstruction = F.binary_cross_entropy_with_logits(made.logits, inputs, reduction="sum") / len(inputs)
    divergence = divergence_from_standard(made.mean, made.log_variance).mean()
    classification = F.cross_entropy(made.class_logits, labels)
    indexing = F.cross_entropy(index_logits, ids)
    total = generative * (reconstruction + divergence) + discriminative * (classification + indexing)
    return GenerativeLoss(total, reconstruction, divergence, classification, indexing)


def divergence_from_standard(
    mean: Float[Tensor, "batch latent"], log_variance: Float[Tensor, "batch latent"]
) -> Float[Tensor, " batch"]:
    """Return the divergence of a normal distribution with independent parts from the standard one, for each example.

    Examples:
        >>> import torch
        >>> divergence_from_standard(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2)).tolist()
        [2.5]
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
