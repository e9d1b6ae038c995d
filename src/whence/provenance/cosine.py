"""Index heads that compare by cosine: learned rows, remembered embeddings, plain nearest neighbours."""

from __future__ import annotations

from functools import partial
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from whence._errors import ArgumentError
from whence._numbers import is_number
from whence.provenance.heads import Logits, as_embeddings, by_class
from whence.provenance.indices import ClassIndex

_SMALL = 1e-12


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
        return cosines(embedding, self._rows(ids), self.temperature)

    def within(self, embedding: Float[Tensor, "batch width"], labels: Int[Tensor, " batch"]) -> Logits:
        """Return the logits within classes, as `IndexHead` does."""
        score = partial(cosines, temperature=self.temperature)
        return by_class(score, (self._rows(None),), embedding, labels, self.index)

    def _rows(self, ids: Int[Tensor, " some"] | None) -> Float[Tensor, "some width"]:
        """Return some rows, or all; looked up if sparse, as `torch.optim.SparseAdam` refuses other gradients."""
        if ids is None and not self.rows.sparse:
            return self.rows.weight
        found: Tensor = self.rows(torch.arange(len(self.index), device=self.rows.weight.device) if ids is None else ids)
        return found

    def initialise(self, embeddings: Float[Tensor, "examples width"]) -> None:
        """Take the embeddings, scaled to length 1, as rows (Liu et al., 2021).

        Raises:
            ShapeError: If there is not one embedding of this width an example.
            DataError: If a number is not finite.
        """
        with torch.no_grad():
            self.rows.weight.copy_(
                F.normalize(as_embeddings(embeddings, *self.rows.weight.shape).to(self.rows.weight), dim=1)
            )


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
        return to_units(embedding, self._rows(ids), self.temperature)

    def within(self, embedding: Float[Tensor, "batch width"], labels: Int[Tensor, " batch"]) -> Logits:
        """Return the logits within classes, as `IndexHead` does."""
        score = partial(to_units, temperature=self.temperature)
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
            ShapeError: If there is not one embedding of this width an example.
            DataError: If a number is not finite.
        """
        self.bank.copy_(F.normalize(as_embeddings(embeddings, *self.bank.shape).to(self.bank), dim=1))


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
        return to_units(embedding, self._filled() if ids is None else self._filled()[ids], self.temperature)

    def within(self, embedding: Float[Tensor, "batch width"], labels: Int[Tensor, " batch"]) -> Logits:
        """Return the logits within classes, as `IndexHead` does."""
        score = partial(to_units, temperature=self.temperature)
        return by_class(score, (self._filled(),), embedding, labels, self.index)

    def _filled(self) -> Float[Tensor, "examples width"]:
        """Return the embeddings.

        Raises:
            ArgumentError: If there are none yet.
        """
        if not (bool(self.bank[0].any()) or bool(self.bank.any())):
            raise ArgumentError(
                "Neighbours have no embeddings to compare with yet. `train` takes them at its end; of a network that "
                "is trained already take them by network.head.initialise(embeddings(network, inputs, labels)), of the "
                "training data."
            )
        return self.bank

    def initialise(self, embeddings: Float[Tensor, "examples width"]) -> None:
        """Take the embeddings, scaled to length 1.

        Raises:
            ShapeError: If there is not one embedding of this width an example.
            DataError: If a number is not finite.
        """
        self.bank.copy_(F.normalize(as_embeddings(embeddings, *self.bank.shape).to(self.bank), dim=1))


def cosines(
    one: Float[Tensor, "rows width"], other: Float[Tensor, "columns width"], temperature: float
) -> Float[Tensor, "rows columns"]:
    """Return the cosine of each row with each of the other's, over the temperature."""
    lengths: Tensor = torch.linalg.vector_norm(other, dim=1).clamp(min=_SMALL)
    return to_units(one, other, temperature) / lengths


def to_units(
    one: Float[Tensor, "rows width"], units: Float[Tensor, "columns width"], temperature: float
) -> Float[Tensor, "rows columns"]:
    """Return the cosine of each row with each of some of length 1, over the temperature."""
    return F.linear(F.normalize(one, dim=1) / temperature, units)


def _temperature(given: float) -> float:
    if not is_number(given) or given <= 0:
        raise ArgumentError(f"`temperature` is a number above 0; got {given!r}.")
    return float(given)
