"""What to remove so that a wrong answer becomes right: predicted, and if asked for, trained again."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from whence._errors import ArgumentError
from whence._numbers import is_several, is_whole
from whence._progress import progress
from whence.counterfactual.api import counterfactual
from whence.counterfactual.question import recall
from whence.runs import Run, check_run


@final
@dataclass(frozen=True)
class Outcome:
    """What leaving a set of training examples out does to a target's margin.

    Attributes:
        ids: The examples, strongest first.
        effects: What each is predicted to change the margin by.
        predicted: The margin without them, to first order.
        retrained: The margin after training again without them, or None.
    """

    ids: tuple[int, ...]
    effects: tuple[float, ...]
    predicted: float
    retrained: float | None


@final
@dataclass(frozen=True)
class Repair:
    """How a target's answer could be turned.

    Attributes:
        margin: Logit of its label minus the largest other one, now: below 0 = the answer is wrong.
        removal: What the ``k`` examples do that hold it back most.
        flip: The same of the smallest set predicted to turn the answer right; None if it is right, or if half of the
            data would not do.
    """

    margin: float
    removal: Outcome
    flip: Outcome | None


def margin(outputs: Any, labels: Tensor) -> Float[Tensor, " examples"]:
    """Return the logit of each example's label minus the largest other one: above 0 = the answer is right."""
    logits: Tensor = getattr(outputs, "logits", outputs)
    own = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], float("-inf"))
    return own - others.amax(1)


def repairs(
    run: Run, targets: Any, ids: Sequence[int], *, k: int = 20, retrained: int = 0, smoothing: float | None = None
) -> dict[int, Repair]:
    """Say what to remove so that answers become right.

    Args:
        run: The recorded run of a classifier.
        targets: The examples that it answered.
        ids: Which of them, the most important first.
        k: How many training examples to remove for each.
        retrained: For how many of them to train again, without the ``k`` and without the smallest set predicted to
            turn the answer: two trainings each.
        smoothing: As in `whence.counterfactual`.

    Raises:
        ArgumentError: If ``k`` is not between 1 and the number of training examples, ``retrained`` is no number from
            0 on, or ``ids`` are no ids. Others are those of `whence.counterfactual`.
    """
    _check_arguments(run, ids, k, retrained)
    if len(ids) == 0:
        return {}
    effects = counterfactual(run, targets, quantity=margin, ids=list(ids), smoothing=smoothing, smoothness=0)
    _, question = recall(effects, run, None)
    dtype = torch.float64 if effects.dtype == np.float64 else torch.float32
    now = question.values(run, run.state_at(run.steps), dtype)
    found: dict[int, Repair] = {}
    with progress("training again without", 2 * min(retrained, len(ids))) as advance:
        for place, target in enumerate(ids):
            row: NDArray[np.float64] = effects.values[place].astype(np.float64)
            order = np.argsort(-row, kind="stable")
            ends = float(now[place]) + np.cumsum(row[order])
            sets = [k, _smallest(ends, row[order]) if float(now[place]) <= 0 else 0]
            outcomes: list[Outcome | None] = []
            for size in sets:
                chosen = order[:size] if size else order[:0]
                after = None
                if place < retrained:
                    if size:
                        after = float(question.values(run, run.retrain(without=chosen.tolist()), dtype)[place])
                    advance(1)
                outcomes.append(
                    Outcome(tuple(chosen.tolist()), tuple(row[chosen].tolist()), float(ends[size - 1]), after)
                    if size
                    else None
                )
            removal, flip = outcomes
            assert removal is not None  # k is at least 1
            found[int(target)] = Repair(float(now[place]), removal, flip)
    return found


def _check_arguments(run: Run, ids: Any, k: int, retrained: int) -> None:
    """Check what `repairs` was given.

    Raises:
        ArgumentError: If something is not what it takes.
    """
    check_run(run, "repairs")
    count = len(run.examples)
    if not is_whole(k) or not 1 <= k <= count:
        raise ArgumentError(f"Between 1 and {count} training examples can be removed; got {k!r}.")
    if not is_whole(retrained) or retrained < 0:
        raise ArgumentError(f"`retrained` is for how many targets to train again, 0 for none; got {retrained!r}.")
    if not is_several(ids) or not isinstance(ids, Sized):
        raise ArgumentError(f"`ids` is a sequence of target numbers; got {ids!r}. For one target give a list of one.")


def _smallest(ends: NDArray[np.float64], effects: NDArray[np.float64]) -> int:
    """Return how many of the strongest examples are predicted to bring the margin above 0; 0 if half would not do."""
    reached = np.flatnonzero((ends > 0) & (effects > 0))
    most = len(ends) // 2
    return int(reached[0]) + 1 if reached.size and reached[0] < most else 0
