"""Which training examples a feature comes from: within the predicted class, or across classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whence._errors import ArgumentError
from whence.provenance.generative.networks import GenerativeNetwork

Scoring = Callable[[GenerativeNetwork, Tensor, Tensor], Tensor]
"""Network, feature (batch, width), class logits (batch, classes) → log-probability of each example (batch, examples);
minus infinity where an example cannot be named."""


def within_class(
    network: GenerativeNetwork, feature: Float[Tensor, "batch width"], class_logits: Float[Tensor, "batch classes"]
) -> Float[Tensor, "batch examples"]:
    """Return what the index head of the predicted class says, as the paper (5.5, figure 8): log p(example | class).

    Args:
        network: Whose heads to read.
        feature, class_logits: What it gave.
    """
    return network.index_logits(feature, class_logits.argmax(1)).log_softmax(1)


def across_classes(
    network: GenerativeNetwork, feature: Float[Tensor, "batch width"], class_logits: Float[Tensor, "batch classes"]
) -> Float[Tensor, "batch examples"]:
    """Return what all index heads say, weighted by the class head: log p(class) + log p(example | class).

    For data with classes of few examples, as faces with one picture of a person, where the head of the predicted
    class has not enough to name; figure 28 lists faces "derived from the class and index branches".

    Args:
        network: Whose heads to read.
        feature, class_logits: What it gave.
    """
    logits: Tensor = network.index_head(feature)
    labels = network.labels
    highest = torch.full_like(class_logits, -torch.inf).scatter_reduce(1, labels.expand_as(logits), logits, "amax")
    moved = logits - highest[:, labels]
    sums = torch.zeros_like(class_logits).index_add(1, labels, moved.exp())
    return moved - sums.log()[:, labels] + class_logits.log_softmax(1)[:, labels]


def best(
    scores: Float[Tensor, "batch examples"], k: int
) -> tuple[Int[Tensor, "batch rank"], Float[Tensor, "batch rank"]]:
    """Return the ids of the k likeliest examples, best first, and their probabilities.

    Args:
        scores: What a `Scoring` gives.
        k: How many.

    Raises:
        ArgumentError: If there are not as many that can be named.
    """
    able = int((scores > -torch.inf).sum(1).min())
    if k > able:
        raise ArgumentError(
            f"`k` exemplars, {k}, are more than the {able} training examples of a predicted class. Ask for at most "
            f"{able}, or name them by all heads: scoring=across_classes."
        )
    found, ids = scores.topk(k, 1)
    return ids, found.exp()
