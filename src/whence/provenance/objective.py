"""What a provenance network is trained on: losses over classes and over the index (Provenance Networks, 3 and 7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from whence._errors import ArgumentError
from whence._numbers import is_number, is_whole
from whence.provenance.indices import ClassIndex


@final
@dataclass(frozen=True)
class Objective:
    """The losses and their weights.

    The paper weighs class and index 1 : 1 in 3.2 and 0.3 : 0.7 in 7.2.2 and table 7; the latter is the default. It
    smooths labels by 0.05 in the index loss alone.

    Attributes:
        classes: Weight of the loss over classes.
        index: Weight of the loss over the index.
        task: Weight of the task's own loss, where the network has one beside the classes.
        smoothing: Share of the index target that is spread over all examples compared with.
        mixing: The paper's α (3.1): share of the index target given to the other examples of the class.
        drawn: Draw the mixed target, as the paper does, rather than take its expectation, which varies less.
        neighbourhood: Weight of the leave-one-out neighbourhood loss, which asks that the other examples that are
            retrieved are of the same class (Goldberger et al., 2004).
        negatives: Compare each batch with so many examples drawn at random, and itself, instead of with all; of a
            class-conditional network those of the class among them.

    Raises:
        ArgumentError: If a weight is negative, or a share not in 0 to 1.
    """

    classes: float = 0.3
    index: float = 0.7
    task: float = 1.0
    smoothing: float = 0.05
    mixing: float = 0.0
    drawn: bool = False
    neighbourhood: float = 0.0
    negatives: int | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("classes", "index", "task", "neighbourhood"):
            if not is_number(getattr(self, name)) or getattr(self, name) < 0:
                raise ArgumentError(f"`{name}` is a weight, a number of at least 0; got {getattr(self, name)!r}.")
        for name, highest in (("smoothing", 1.0), ("mixing", 1.0)):
            if not is_number(getattr(self, name)) or not 0 <= getattr(self, name) <= highest:
                raise ArgumentError(f"`{name}` is a share between 0 and 1; got {getattr(self, name)!r}.")
        if self.negatives is not None and (not is_whole(self.negatives) or self.negatives < 1):
            raise ArgumentError(f"`negatives` is a whole number, at least 1, or None; got {self.negatives!r}.")


@final
@dataclass(frozen=True, eq=False)
class Losses:
    """The total, which is to be differentiated, and its parts before weighing; means over the batch."""

    total: Float[Tensor, ""]
    classes: Float[Tensor, ""]
    index: Float[Tensor, ""]
    neighbourhood: Float[Tensor, ""]
    task: Float[Tensor, ""]
    right: Float[Tensor, ""]  # share of the batch whose class is right


class Compared(NamedTuple):
    """Logits of some examples for each of a batch.

    Attributes:
        logits: (batch, some).
        columns: Which examples they are of: (some,), or (batch, some) where each row has its own; -1 for none.
        target: The column of each row's own example, (batch,).
    """

    logits: Float[Tensor, "batch some"]
    columns: Int[Tensor, " some"] | Int[Tensor, "batch some"]
    target: Int[Tensor, " batch"]


def index_loss(
    compared: Compared, index: ClassIndex, objective: Objective, generator: torch.Generator | None = None
) -> Float[Tensor, ""]:
    """Return the cross-entropy of each row's own example, mixed and smoothed (3.1, 7.1.1).

    With mixing α the target is example i with probability 1 - α, and each other of its class with α / (n - 1); of that
    the expectation is taken, or a draw. With ``negatives`` the others are those compared with.

    Raises:
        ArgumentError: If labels are mixed and a class has a single example.
    """
    logits, target, smoothing = _full(compared.logits), compared.target, objective.smoothing
    if smoothing == 0 and objective.mixing == 0:
        return F.cross_entropy(logits, target)
    count = torch.isfinite(logits).sum(1)
    sure = logits.masked_fill(torch.isneginf(logits), 0)  # so that 0 · -inf is 0
    whole = torch.logsumexp(logits, 1)
    own = _at(logits, target)
    if objective.mixing > 0:
        others = _same_class(compared, index)
        sizes = others.sum(1)
        _some_others(index)
        if objective.drawn:
            drawn = torch.multinomial(others.float().clamp(min=1e-30), 1, generator=generator)[:, 0]
            mixed = torch.rand(len(target), generator=generator, device=logits.device) < objective.mixing
            own = torch.where(mixed & (sizes > 0), _at(logits, drawn), own)
        else:
            mean = (sure * others).sum(1) / sizes.clamp(min=1)
            own = torch.where(sizes > 0, (1 - objective.mixing) * own + objective.mixing * mean, own)
    return (whole - (1 - smoothing) * own - smoothing * sure.sum(1) / count).mean()


def neighbourhood_loss(compared: Compared, index: ClassIndex) -> Float[Tensor, ""]:
    """Return -log of the chance that another example than the row's own, drawn by its logit, is of the same class.

    It is the leave-one-out form: the row's own example is no candidate, in the sum nor in the whole. Of a row without
    others of its class it is 0.
    """
    same = _same_class(compared, index)
    logits = _full(compared.logits).scatter(1, compared.target[:, None], float("-inf"))
    known = same.any(1)
    inside = torch.logsumexp(logits.masked_fill(~same, float("-inf"))[known], 1)
    lost = torch.logsumexp(logits[known], 1) - inside
    return lost.sum() / len(logits)


def candidates(
    ids: Int[Tensor, " batch"], examples: int, negatives: int | None, generator: torch.Generator | None = None
) -> tuple[Int[Tensor, " some"] | None, Int[Tensor, " batch"]]:
    """Return the examples to compare a batch with, None for all, and where among them each of the batch is.

    Args:
        ids: The examples of the batch.
        examples: How many there are in all.
        negatives: How many to draw at random besides the batch; the same one may be drawn twice and counts once.
        generator: Of the draws.
    """
    if negatives is None:
        return None, ids
    drawn = torch.randint(examples, (negatives,), generator=generator, device=ids.device)
    columns = torch.cat((ids, drawn)).unique()
    return columns, torch.searchsorted(columns, ids)


def _full(logits: Tensor) -> Tensor:
    """Return logits in at least 32 bits: autocast leaves logsumexp in bfloat16, where 11 and 11.04 are the same."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def _at(logits: Float[Tensor, "batch some"], columns: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    return logits.gather(1, columns[:, None])[:, 0]


def _same_class(compared: Compared, index: ClassIndex) -> Tensor:
    """Return which columns are other examples of each row's class, (batch, some)."""
    columns = compared.columns if compared.columns.dim() == 2 else compared.columns[None]
    labels = index.labels.to(columns.device)
    of = labels[columns.clamp(min=0)].expand(len(compared.target), -1)
    own = of.gather(1, compared.target[:, None])
    found = (of == own) & (columns >= 0)
    return found.scatter(1, compared.target[:, None], torch.zeros_like(found[:, :1]))


def _some_others(index: ClassIndex) -> None:
    """Refuse to mix labels where a class has one example.

    Raises:
        ArgumentError: If one has.
    """
    alone = (index.sizes == 1).nonzero()[:, 0].tolist()
    if alone:
        raise ArgumentError(
            f"Labels cannot be mixed: class {alone[0]} has a single example, which no other can stand for. Give "
            "Objective(mixing=0), or leave the class out."
        )
