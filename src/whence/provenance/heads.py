"""Index heads: from an embedding to a logit for every training example, behind one protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, final, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from whence._errors import DataError, ShapeError
from whence.provenance.indices import ClassIndex

Logits = Float[Tensor, "batch some"]
_NEVER = float("-inf")


@runtime_checkable
class IndexHead(Protocol):
    """A module that gives each training example a logit; made by a function of ``(width, index)``.

    Attributes:
        trained: Whether the head learns by the index loss; without, the embedding is left to the other losses.
    """

    trained: bool

    def logits(self, embedding: Float[Tensor, "batch width"], ids: Int[Tensor, " some"] | None = None) -> Logits:
        """Return the logits of the examples ``ids``, of all by default."""
        ...

    def within(self, embedding: Float[Tensor, "batch width"], labels: Int[Tensor, " batch"]) -> Logits:
        """Return the logits within each row's class, by number within it; minus infinity beyond the class's end."""
        ...

    def initialise(self, embeddings: Float[Tensor, "examples width"]) -> None:
        """Start from the embeddings of the training examples, where the head can."""
        ...


MakeHead = Callable[[int, ClassIndex], IndexHead]


@final
class LinearHead(nn.Module):
    """One output an example: the paper's head (7.1, equation 3); within classes, its variant of one head a class (3.2).

    Args:
        width: Of the embedding.
        index: The training examples.
    """

    trained = True

    def __init__(self, width: int, index: ClassIndex) -> None:
        super().__init__()
        self.index = index
        self.weight = nn.Parameter(torch.empty(len(index), width).normal_(0, 0.01))
        self.bias = nn.Parameter(torch.zeros(len(index)))

    def logits(self, embedding: Float[Tensor, "batch width"], ids: Int[Tensor, " some"] | None = None) -> Logits:
        """Return the logits of some examples, as `IndexHead` does."""
        if ids is None:
            return F.linear(embedding, self.weight, self.bias)
        return F.linear(embedding, self.weight[ids], self.bias[ids])

    def within(self, embedding: Float[Tensor, "batch width"], labels: Int[Tensor, " batch"]) -> Logits:
        """Return the logits within classes, as `IndexHead` does."""
        return by_class(F.linear, (self.weight, self.bias), embedding, labels, self.index)

    def initialise(self, embeddings: Float[Tensor, "examples width"]) -> None:
        """Do nothing: the paper starts from random weights."""


@final
class SharedHead(nn.Module):
    """One output for each number within a class, shared by all classes, masked beyond a class's end (7.2.2, 7.2.3).

    An output stands for one example of every class: it means something only beside a class, so the head serves networks
    that are class-conditional.

    Args:
        width: Of the embedding.
        index: The training examples.
    """

    trained = True
    only_within = True

    def __init__(self, width: int, index: ClassIndex) -> None:
        super().__init__()
        self.index = index
        self.linear = nn.Linear(width, index.largest)
        nn.init.normal_(self.linear.weight, 0, 0.01)
        nn.init.zeros_(self.linear.bias)

    def logits(self, embedding: Float[Tensor, "batch width"], ids: Int[Tensor, " some"] | None = None) -> Logits:
        """Return the logits of some examples as if each were of the class that the embedding is for."""
        local = self.index.local if ids is None else self.index.local[ids.cpu()]
        found: Tensor = self.linear(embedding)
        return found[:, local.to(embedding.device)]

    def within(self, embedding: Float[Tensor, "batch width"], labels: Int[Tensor, " batch"]) -> Logits:
        """Return the logits within classes, as `IndexHead` does: the paper's equation 17."""
        valid = self.index.valid[labels.cpu()].to(embedding.device)
        found: Tensor = self.linear(embedding)
        return found.masked_fill(~valid, _NEVER)

    def initialise(self, embeddings: Float[Tensor, "examples width"]) -> None:
        """Do nothing: the paper starts from random weights."""


def as_embeddings(given: Any, examples: int, width: int) -> Float[Tensor, "examples width"]:
    """Return the embeddings that a head is to start from.

    Raises:
        ShapeError: If there is not one of the head's width an example.
        DataError: If a number is not finite.
    """
    found = torch.as_tensor(given).detach()
    if found.shape != (examples, width):
        raise ShapeError(
            f"The head needs an embedding of {width} numbers for each of {examples} examples; got {tuple(found.shape)}."
        )
    wrong = (~torch.isfinite(found)).any(1).nonzero()[:, 0].tolist()
    if wrong:
        raise DataError(
            f"The embedding of example {wrong[0]} is no finite number, as of {len(wrong)} in all. Look for numbers "
            "that are not finite in the inputs and in the network's parameters."
        )
    return found


def by_class(
    score: Callable[..., Tensor],
    rows: tuple[Tensor, ...],
    embedding: Float[Tensor, "batch width"],
    labels: Int[Tensor, " batch"],
    index: ClassIndex,
) -> Logits:
    """Return the logits within each row's class of a head that holds something of its own for each example.

    Args:
        score: From embeddings and some of ``rows`` to logits.
        rows: What the head holds, first axis the examples.
        embedding, labels: The batch.
        index: The training examples.
    """
    order = index.order.to(embedding.device)  # each class's rows side by side: one gather for all of them
    parts = zip(*(one.index_select(0, order).split(index.sizes.tolist()) for one in rows), strict=True)
    by_label = torch.argsort(labels, stable=True)
    counts = torch.bincount(labels, minlength=index.classes).tolist()
    found = [
        F.pad(score(some, *own), (0, index.largest - len(own[0])), value=_NEVER)
        for some, own in zip(embedding.index_select(0, by_label).split(counts), parts, strict=True)
        if len(some)
    ]
    return torch.cat(found).index_select(0, torch.argsort(by_label))
