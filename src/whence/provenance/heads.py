"""Index heads: from an embedding to a logit for every training example, behind one protocol."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol, final, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from whence._errors import ArgumentError, ShapeError
from whence._numbers import is_number
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


@final
class CosineHead(nn.Module):
    """One row an example, compared by cosine: a parametric instance classifier (Cao et al., 2020).

    With few columns for a wide data set (``Objective(negatives=...)``) give ``sparse=True``: only the rows in a batch
    are then touched, in the gradient and in the optimizer's state, so that a million examples fit.

    Args:
        width: Of the embedding.
        index: The training examples.
        temperature: Divides the cosines.
        sparse: Give the rows sparse gradients, for `torch.optim.SparseAdam`; `train` sees to it.

    Raises:
        ArgumentError: If the temperature is not above 0.
    """

    trained = True

    def __init__(self, width: int, index: ClassIndex, *, temperature: float = 0.1, sparse: bool = False) -> None:
        super().__init__()
        self.index, self.temperature = index, _temperature(temperature)
        self.rows = nn.Embedding(len(index), width, sparse=sparse)
        nn.init.normal_(self.rows.weight, 0, width**-0.5)

    def logits(self, embedding: Float[Tensor, "batch width"], ids: Int[Tensor, " some"] | None = None) -> Logits:
        """Return the logits of some examples, as `IndexHead` does."""
        return cosines(embedding, self.rows.weight if ids is None else self.rows(ids), self.temperature)

    def within(self, embedding: Float[Tensor, "batch width"], labels: Int[Tensor, " batch"]) -> Logits:
        """Return the logits within classes, as `IndexHead` does."""
        rows = self.rows(torch.arange(len(self.index), device=embedding.device))
        score = partial(cosines, temperature=self.temperature)
        return by_class(score, (rows,), embedding, labels, self.index)

    def initialise(self, embeddings: Float[Tensor, "examples width"]) -> None:
        """Take the embeddings, scaled to length 1, as rows (Liu et al., 2021).

        Raises:
            ShapeError: If there is not one embedding an example.
        """
        with torch.no_grad():
            self.rows.weight.copy_(F.normalize(_one_each(embeddings, self.rows.weight), dim=1))


@final
class MemoryBank(nn.Module):
    """The examples' own embeddings, kept as they were last seen: instance discrimination (Wu et al., 2018).

    It has no parameters. While it trains, the examples of the batch are compared with as they are now, so that the
    gradient reaches both sides; the others with as they were. `initialise` takes all anew: `train` does so at its end.

    Args:
        width: Of the embedding.
        index: The training examples.
        temperature: Divides the cosines.

    Raises:
        ArgumentError: If the temperature is not above 0.
    """

    trained = True

    def __init__(self, width: int, index: ClassIndex, *, temperature: float = 0.1) -> None:
        super().__init__()
        self.index, self.temperature = index, _temperature(temperature)
        self.bank: Tensor
        self.register_buffer("bank", F.normalize(torch.randn(len(index), width), dim=1))
        self._now: tuple[Tensor, Tensor] | None = None

    def logits(self, embedding: Float[Tensor, "batch width"], ids: Int[Tensor, " some"] | None = None) -> Logits:
        """Return the logits of some examples, as `IndexHead` does."""
        return cosines(embedding, self._rows(ids), self.temperature)

    def within(self, embedding: Float[Tensor, "batch width"], labels: Int[Tensor, " batch"]) -> Logits:
        """Return the logits within classes, as `IndexHead` does."""
        score = partial(cosines, temperature=self.temperature)
        return by_class(score, (self._rows(None),), embedding, labels, self.index)

    def _rows(self, ids: Int[Tensor, " some"] | None) -> Float[Tensor, "some width"]:
        """Return the embeddings of some examples, those of the batch as they are now."""
        if self._now is None:
            return self.bank if ids is None else self.bank[ids]
        seen, live = self._now
        if ids is None:
            return self.bank.index_put((seen,), live.to(self.bank))
        place = torch.full((len(self.bank),), -1, dtype=torch.int64, device=ids.device)
        place[seen] = torch.arange(len(seen), device=ids.device)
        at = place[ids]
        return torch.where((at >= 0)[:, None], live[at.clamp(min=0)], self.bank[ids])

    def remember(self, ids: Int[Tensor, " batch"], embedding: Float[Tensor, "batch width"]) -> None:
        """Keep the embeddings of a batch, and compare with them, gradient and all, until `forget`."""
        self._now = (ids, F.normalize(embedding, dim=1))
        self.bank[ids] = self._now[1].detach().to(self.bank)

    def forget(self) -> None:
        """Let go of the batch's gradient."""
        self._now = None

    def initialise(self, embeddings: Float[Tensor, "examples width"]) -> None:
        """Take the embeddings, scaled to length 1.

        Raises:
            ShapeError: If there is not one embedding an example.
        """
        self.bank.copy_(F.normalize(_one_each(embeddings, self.bank), dim=1))


@final
class Neighbours(nn.Module):
    """Plain nearest neighbours by cosine in the embedding, which the index loss does not train: the baseline.

    Args:
        width: Of the embedding.
        index: The training examples.
        temperature: Divides the cosines, where they are read as probabilities.

    Raises:
        ArgumentError: If the temperature is not above 0.
    """

    trained = False

    def __init__(self, width: int, index: ClassIndex, *, temperature: float = 0.1) -> None:
        super().__init__()
        self.index, self.temperature = index, _temperature(temperature)
        self.bank: Tensor
        self.register_buffer("bank", torch.zeros(len(index), width))

    def logits(self, embedding: Float[Tensor, "batch width"], ids: Int[Tensor, " some"] | None = None) -> Logits:
        """Return the logits of some examples, as `IndexHead` does."""
        return cosines(embedding, self.bank if ids is None else self.bank[ids], self.temperature)

    def within(self, embedding: Float[Tensor, "batch width"], labels: Int[Tensor, " batch"]) -> Logits:
        """Return the logits within classes, as `IndexHead` does."""
        score = partial(cosines, temperature=self.temperature)
        return by_class(score, (self.bank,), embedding, labels, self.index)

    def initialise(self, embeddings: Float[Tensor, "examples width"]) -> None:
        """Take the embeddings, scaled to length 1.

        Raises:
            ShapeError: If there is not one embedding an example.
        """
        self.bank.copy_(F.normalize(_one_each(embeddings, self.bank), dim=1))


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


def cosines(
    one: Float[Tensor, "rows width"], other: Float[Tensor, "columns width"], temperature: float
) -> Float[Tensor, "rows columns"]:
    """Return the cosine of each row with each of the other's, over the temperature."""
    return F.linear(F.normalize(one, dim=1) / temperature, F.normalize(other, dim=1))


def _one_each(embeddings: Tensor, rows: Tensor) -> Tensor:
    if embeddings.shape != rows.shape:
        raise ShapeError(
            f"The head needs an embedding of {rows.shape[1]} numbers for each of {rows.shape[0]} examples; got "
            f"{tuple(embeddings.shape)}."
        )
    return embeddings.to(rows)


def _temperature(given: float) -> float:
    if not is_number(given) or given <= 0:
        raise ArgumentError(f"`temperature` is a number above 0; got {given!r}.")
    return float(given)
