"""An index head of nearly constant size: an example's index as a few digits (hierarchical codes)."""

from __future__ import annotations

from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from whence._errors import ArgumentError
from whence._numbers import is_whole
from whence.provenance.heads import as_embeddings, by_class
from whence.provenance.indices import ClassIndex

_FITTED = 20_000  # embeddings that clusters are found on; the others are only assigned


@final
class CodeHead(nn.Module):
    """Digits of an example's index, one classifier a digit; an example's logit is the sum of its digits'.

    The digits are residual k-means clusters of the embeddings, coarse to fine, and a last digit that tells examples of
    one cluster apart: alike examples share digits. Until `initialise` is given embeddings the digits are those of the
    id. The size is ``width * (base * levels + last)``, whatever the number of examples.

    Args:
        width: Of the embedding.
        index: The training examples.
        base: Clusters a level.
        levels: How many levels before the last digit.
        last: Values of the last digit: how many examples may share all clusters.
        seed: Of the clustering.

    Raises:
        ArgumentError: If base is under 2, there is no level, or ``base**levels * last`` codes are too few.
    """

    trained = True

    def __init__(
        self, width: int, index: ClassIndex, *, base: int = 64, levels: int = 2, last: int = 512, seed: int = 0
    ) -> None:
        super().__init__()
        if not (is_whole(base) and is_whole(levels) and is_whole(last)) or base < 2 or levels < 1 or last < 1:
            raise ArgumentError(
                f"`base` must be at least 2, `levels` and `last` at least 1; got {base!r}, {levels!r} and {last!r}."
            )
        self.index, self.base, self.levels, self.seed = index, base, levels, seed
        codes = _told_apart(torch.arange(len(index))[:, None] // base ** torch.arange(levels) % base)
        _fits(codes, last)
        self.codes: Tensor
        self.register_buffer("codes", codes)
        self.digits = nn.ModuleList(nn.Linear(width, base) for _ in range(levels))
        self.last = nn.Linear(width, last)

    def logits(
        self, embedding: Float[Tensor, "batch width"], ids: Int[Tensor, " some"] | None = None
    ) -> Float[Tensor, "batch some"]:
        """Return the logits of some examples, as `IndexHead` does: the sum of their digits' log probabilities."""
        return self._sums(embedding, self.codes if ids is None else self.codes[ids])

    def within(
        self, embedding: Float[Tensor, "batch width"], labels: Int[Tensor, " batch"]
    ) -> Float[Tensor, "batch some"]:
        """Return the logits within classes, as `IndexHead` does."""
        return by_class(self._sums, (self.codes,), embedding, labels, self.index)

    def _sums(
        self, embedding: Float[Tensor, "batch width"], codes: Int[Tensor, "some digits"]
    ) -> Float[Tensor, "batch some"]:
        levels = [F.log_softmax(one(embedding), 1) for one in (*self.digits, self.last)]
        found = levels[0][:, codes[:, 0]]
        for place, level in enumerate(levels[1:], start=1):
            found = found + level[:, codes[:, place]]
        return found

    def initialise(self, embeddings: Float[Tensor, "examples width"]) -> None:
        """Take clusters of the embeddings, and of what they leave, as digits.

        Raises:
            ShapeError: If there is not one embedding of this width an example.
            DataError: If a number is not finite.
            ArgumentError: If more examples share all clusters than the last digit tells apart.
        """
        from sklearn.cluster import MiniBatchKMeans  # here, as it takes long to import

        known = as_embeddings(embeddings, len(self.index), self.last.in_features)
        left = F.normalize(known.cpu().float(), dim=1).numpy()
        drawn = np.random.default_rng(self.seed).permutation(len(left))[:_FITTED]
        digits = []
        for _ in range(self.levels):
            many = min(self.base, len(drawn))
            found = MiniBatchKMeans(many, random_state=self.seed, n_init=1, batch_size=1024).fit(left[drawn])
            digits.append(found.predict(left))
            left = left - found.cluster_centers_[digits[-1]]
        codes = _told_apart(torch.from_numpy(np.stack(digits, 1)).to(torch.int64))
        _fits(codes, self.last.out_features)
        self.codes.copy_(codes)


def _fits(codes: Int[Tensor, "examples levels"], last: int) -> None:
    """Refuse codes that the last digit cannot tell apart.

    Raises:
        ArgumentError: If there are some.
    """
    largest = int(codes[:, -1].max()) + 1
    if largest > last:
        raise ArgumentError(
            f"{largest} of {len(codes)} examples share all digits but the last, which tells {last} apart. Give more "
            "clusters, CodeHead(base=..., levels=...), or a larger `last`."
        )


def _told_apart(digits: Int[Tensor, "examples levels"]) -> Int[Tensor, "examples more"]:
    """Return digits with one more, the number of an example among those whose digits are the same."""
    _, groups = digits.unique(dim=0, return_inverse=True)
    order = torch.argsort(groups, stable=True)
    sizes = torch.bincount(groups)
    starts = torch.cumsum(sizes, 0) - sizes
    rank = torch.empty_like(groups)
    rank[order] = torch.arange(len(groups)) - starts[groups[order]]
    return torch.cat((digits, rank[:, None]), 1)
