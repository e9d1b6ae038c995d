"""Scores of membership, of any model's outputs or of inputs alone; higher always means more likely a member.

Provenance Networks (5.4 and 7.7) scores inputs by the confidence and entropy of their index head; both serve any model.
`whence.evaluation.membership_table` measures how well a score tells members from others.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from whence._errors import ArgumentError, ShapeError
from whence._numbers import is_whole
from whence.attribution import NearestNeighbours, as_trained
from whence.datasets import as_examples

_ROUNDING = 1e-2  # of the sum of probabilities, in half precision


def confidence(log_probabilities: Any) -> Float[Tensor, " examples"]:
    """Return the largest log-probability of each example (Provenance Networks, 5.4).

    A sure model's saturates: in float32 that of many examples is exactly 0, and ties hide who is a member where few
    false positives are allowed. Take the log-softmax of logits in float64, or `log_margin`.

    Args:
        log_probabilities: (examples, outputs), such as ``log_softmax(logits, 1)``; minus infinity is a chance of zero.

    Raises:
        ShapeError: If it is no matrix with a row an example.
        ArgumentError: If a row is not log-probabilities.

    Examples:
        >>> confidence(torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()).exp().round(decimals=4).tolist()
        [0.75, 0.5]
    """
    return _log_probabilities(log_probabilities).max(1).values


def entropy(log_probabilities: Any) -> Float[Tensor, " examples"]:
    """Return minus the entropy of each example's probabilities, in nats (Provenance Networks, 5.4 and 7.7).

    The sign is turned so that higher means more likely a member: a memorised example activates few outputs.

    Args:
        log_probabilities: As in `confidence`.

    Raises:
        ShapeError: If it is no matrix with a row an example.
        ArgumentError: If a row is not log-probabilities.

    Examples:
        >>> entropy(torch.tensor([[1.0, 0.0]]).log()).tolist()
        [0.0]
    """
    given = _log_probabilities(log_probabilities)
    return torch.where(given > -torch.inf, given.exp() * given, torch.zeros_like(given)).sum(1)


def log_margin(logits: Any, labels: Any = None) -> Float[Tensor, " examples"]:
    """Return the log-odds of each example's label, its logit less the log-sum-exp of the others, in float64.

    The same order as the label's probability, without its saturation: log p / (1 - p), scaled as LiRA does (Carlini et
    al., 2022, section IV).

    Args:
        logits: (examples, outputs), at least two outputs.
        labels: Whole numbers, (examples,); without, each example's largest logit counts as its label's.

    Raises:
        ShapeError: If logits are no matrix, or there is not one label a row.
        ArgumentError: If a label is none of the outputs, or a margin is no finite number.

    Examples:
        >>> log_margin(torch.tensor([[90.0, 0.0], [100.0, 0.0]]), [0, 0]).tolist()
        [90.0, 100.0]
    """
    given = _matrix(logits, "Logits")
    count, outputs = given.shape
    if outputs < 2:
        raise ShapeError(f"Logits need at least two outputs, as a margin is towards others; got {tuple(given.shape)}.")
    own = given.argmax(1) if labels is None else torch.as_tensor(labels).to(given.device)
    if own.shape != (count,) or own.is_floating_point() or own.dtype == torch.bool:
        raise ShapeError(
            f"One whole number a label for each of {count} rows is needed; got {own.dtype} {tuple(own.shape)}."
        )
    if count and not 0 <= int(own.min()) <= int(own.max()) < outputs:
        raise ArgumentError(f"Labels must be 0 to {outputs - 1}, as there are {outputs} outputs; some are not.")
    place = own.long()[:, None]
    others = given.scatter(1, place, -torch.inf).logsumexp(1)
    margins = given.gather(1, place)[:, 0] - others
    _refuse_wrong(~margins.isfinite(), "A margin must be a finite number", "Look at the logits of this example.")
    return margins


def nearest_distance(queries: Any, bank: Any, *, k: int = 1, memory_budget: int = 2**29) -> Float[Tensor, " queries"]:
    """Return minus the Euclidean distance of each query to the k-th nearest example of a bank: a look-up, no model.

    What a model is to beat: on clean copies it is perfect. Exact; beyond ten million pairs through `FlatIndex` where
    the extra ``index`` is installed.

    Args:
        queries: Inputs or embeddings, any shape after the first axis.
        bank: What they may be in, such as the training inputs, of the same shape after the first axis.
        k: Which neighbour; 2 leaves out the query itself where the bank holds it.
        memory_budget: Bytes to keep to.

    Raises:
        ShapeError: If there is nothing on one side, or shapes differ after the first axis.
        ArgumentError: If ``k`` is not 1 to the size of the bank, or a number is not finite.

    Examples:
        >>> nearest_distance([[0.0, 0.0]], [[3.0, 4.0], [6.0, 8.0]]).tolist()
        [-5.0]
    """
    own, there = _numbers(queries, "Queries"), _numbers(bank, "The bank")
    if own.shape[1:] != there.shape[1:]:
        raise ShapeError(
            f"Queries and bank must agree after the first axis; got {tuple(own.shape)} and {tuple(there.shape)}."
        )
    if not is_whole(k) or not 1 <= k <= len(there):
        raise ArgumentError(f"`k` must be a whole number, 1 to the {len(there)} examples of the bank; got {k!r}.")
    stored, asked = (
        as_examples((one.reshape(len(one), -1), torch.zeros(len(one), dtype=torch.int64))) for one in (there, own)
    )
    trained = as_trained(_NoModel().to(there), stored, loss=F.cross_entropy)  # attribution asks for one
    fitted = NearestNeighbours().fit(trained, memory_budget=memory_budget)
    found = fitted.nearest(asked, range(len(own)), k)
    return torch.from_numpy(found["score"].values[:, -1].copy()).to(own)


class _NoModel(nn.Module):
    """Stands where a model is asked for and only inputs are compared."""

    def __init__(self) -> None:
        super().__init__()
        self.zero = nn.Parameter(torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.zero * inputs[:, :1]


def _log_probabilities(given: Any) -> Float[Tensor, "examples outputs"]:
    found = _matrix(given, "Log-probabilities")
    wrong = ~(found.logsumexp(1).abs() < _ROUNDING)  # also of nan
    _refuse_wrong(wrong, "Probabilities must sum to 1", "Give log_softmax(logits, 1), not logits or probabilities.")
    return found


def _matrix(given: Any, what: str) -> Float[Tensor, "examples outputs"]:
    found = torch.as_tensor(given).detach()
    if found.dim() != 2 or found.shape[1] == 0:
        raise ShapeError(f"{what} need shape (examples, outputs); got {tuple(found.shape)}.")
    return found.double()


def _numbers(given: Any, what: str) -> Tensor:
    found = torch.as_tensor(given).detach()
    if found.dim() == 0 or found.numel() == 0:
        raise ShapeError(f"{what} must hold at least one example; got shape {tuple(found.shape)}.")
    wide = found if found.is_floating_point() else found.double()
    wrong = ~wide.reshape(len(wide), -1).isfinite().all(1)
    _refuse_wrong(wrong, f"{what} must hold finite numbers", "Look at this example.")
    return wide


def _refuse_wrong(wrong: Tensor, rule: str, advice: str) -> None:
    if bool(wrong.any()):
        many = int(wrong.sum())
        raise ArgumentError(
            f"{rule}; it fails for {many} of {len(wrong)} examples, the first of them {int(wrong.nonzero()[0])}, "
            f"counted from 0. {advice}"
        )
