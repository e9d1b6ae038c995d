"""Do scores of difficulty find the examples that a network gets wrong, and rank the others by their loss?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from whence._errors import ArgumentError, ShapeError
from whence._statistics import Interval, bootstrap, rank_correlations
from whence.evaluation.table import Table, table_of

Scores = Float[np.ndarray, " examples"]
Wrong = Bool[np.ndarray, " examples"]
COLUMNS = ("AUROC", "AUPR", "Spearman")


def difficulty(scores: Mapping[str, Any], wrong: Any, losses: Any, *, seed: int = 0, resamples: int = 1000) -> Table:
    """Measure scores of difficulty (PLGK, section 6.2, table 1).

    AUROC and AUPR say how well *low* scores find the misclassified examples, which are the positive class; a score that
    knows nothing has AUROC 0.5 and an AUPR of their share. Spearman's correlation is of the score with minus the loss.

    Args:
        scores: By name, one number an example, higher = easier, as `whence.kernel.class_margin` and the like give it.
        wrong: Whether each example is misclassified.
        losses: The loss of each.
        seed: Of the draws.
        resamples: How many draws of examples the intervals are of.

    Returns:
        A row a score, columns AUROC, AUPR and Spearman, intervals over examples.

    Raises:
        ArgumentError: If there is no score, or examples are all right or all wrong.
        ShapeError: If there is not one score, answer and loss an example.
    """
    errors, loss = np.asarray(wrong).astype(bool), np.asarray(losses, dtype=np.float64)
    given = {name: np.asarray(one, dtype=np.float64) for name, one in scores.items()}
    shapes = {one.shape for one in (errors, loss, *given.values())}
    if len(shapes) > 1 or errors.ndim != 1:
        raise ShapeError(f"Scores, `wrong` and `losses` need one number an example; got shapes {sorted(shapes)}.")
    if not given or errors.all() or not errors.any():
        raise ArgumentError(
            f"Give at least one score, and examples of which some are misclassified and some are not: got {len(given)} "
            f"scores, and {int(errors.sum())} of {len(errors)} misclassified."
        )

    def measured(one: Scores, statistic: Callable[[Scores, Wrong, Scores], float]) -> Interval:
        low, high = bootstrap(
            len(one), lambda rows: statistic(one[rows], errors[rows], loss[rows]), seed=seed, resamples=resamples
        )
        return Interval(statistic(one, errors, loss), low, high)

    return table_of(
        [[measured(one, statistic) for statistic in (_auroc, _aupr, _spearman)] for one in given.values()],
        ("score", list(given)),
        ("measure", list(COLUMNS)),
        title="Scores of difficulty",
        measure="AUROC and AUPR of misclassification by low scores, rank correlation with minus the loss",
        interval="over examples",
        references={"share misclassified": float(errors.mean())},
    )


def _auroc(score: Scores, wrong: Wrong, _loss: Scores) -> float:
    """Return the probability that a misclassified example has a lower score than another, equal ones counted half."""
    from scipy.stats import rankdata  # here, as it takes long to import

    errors, right = int(wrong.sum()), int((~wrong).sum())
    if errors == 0 or right == 0:
        return float("nan")
    above = rankdata(-score)[wrong].sum() - errors * (errors + 1) / 2
    return float(above / (errors * right))


def _aupr(score: Scores, wrong: Wrong, _loss: Scores) -> float:
    """Return the mean precision over recall, lowest scores first; equal scores are one step."""
    if not wrong.any():
        return float("nan")
    order = np.argsort(score, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    found = np.cumsum(wrong[order])[ends].astype(np.float64)
    return float((found / (ends + 1) * np.diff(found, prepend=0.0)).sum() / found[-1])


def _spearman(score: Scores, _wrong: Wrong, loss: Scores) -> float:
    return float(rank_correlations(score[:, None], -loss[:, None])[0])
