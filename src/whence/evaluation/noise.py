"""Label noise: put some in, and see whether a score finds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from whence._errors import ArgumentError, ShapeError
from whence._numbers import check_seed
from whence._statistics import Interval, bootstrap
from whence.evaluation.inputs import as_count, as_share, check_classes, named
from whence.evaluation.table import Table, table_of

_RESAMPLES = 500
_Found = Callable[[NDArray[np.bool_], NDArray[np.float64]], float]


@final
@dataclass(frozen=True)
class NoisyLabels:
    """Labels of which some were changed.

    Attributes:
        labels: The labels to train on, (examples,).
        changed: Which of them are wrong, (examples,).
    """

    labels: Int[Tensor, " examples"]
    changed: Bool[Tensor, " examples"]


def add_label_noise(labels: Int[Tensor, " examples"], share: float, *, classes: int, seed: int = 0) -> NoisyLabels:
    """Give a random share of the examples a random other label.

    Args:
        labels: The true labels.
        share: Of the examples whose label changes: exactly ``round(share * examples)``, at least one.
        classes: How many classes there are.
        seed: Of the draws.

    Raises:
        ArgumentError: If the share or seed is none, there are fewer than two classes, or a label is none of them.
    """
    many = as_count(classes, "classes", 2)
    check_seed(seed)
    check_classes(labels)
    if bool((labels >= many).any()):
        raise ArgumentError(f"Labels must be 0 to {many - 1}, as `classes` is {many}; some are not.")
    rng = np.random.default_rng(seed)
    count = max(1, round(as_share(share, "share") * len(labels)))
    rows = torch.from_numpy(rng.choice(len(labels), count, replace=False))
    shift = torch.from_numpy(rng.integers(1, many, size=count)).to(labels)
    noisy, changed = labels.clone(), torch.zeros(len(labels), dtype=torch.bool)
    noisy[rows] = (labels[rows] + shift) % many
    changed[rows] = True
    return NoisyLabels(noisy, changed)


def label_noise(scores: Any | Mapping[str, Any], changed: Any, *, seed: int = 0) -> Table:
    """Measure how well scores tell wrong labels from right ones (Pruthi et al., 2020, section 5.1, among others).

    Args:
        scores: One number an example, higher = more suspect, such as self-influence (``fitted.self_scores()``) or the
            loss; or several, by name.
        changed: Which labels are wrong, (examples,), as `add_label_noise` gives it.
        seed: Of the bootstrap.

    Returns:
        A row a score, the columns: area under the ROC curve (0.5 by chance), average precision (the noise rate by
        chance), and the miss rate: the share of wrong labels that are not among as many most suspect examples. Of
        examples with one score the earlier counts as the more suspect. Intervals: a bootstrap over examples.

    Raises:
        ShapeError: If there is not one score an example.
        ArgumentError: If a score is no finite number, labels are all wrong or all right, ``changed`` does not say which
            (ids do not), or the seed is none.
    """
    check_seed(seed)
    wrong = np.asarray(changed)
    if wrong.dtype != np.bool_ or wrong.ndim != 1 or not 0 < wrong.sum() < wrong.size:
        said = f" with {int(wrong.sum())} wrong" if wrong.dtype == np.bool_ else f" of {wrong.dtype}, not bool"
        raise ArgumentError(
            f"`changed` must say of each example whether its label is wrong, with some of either kind; got shape "
            f"{wrong.shape}{said}."
        )
    found = []
    given = named(scores, "score")
    for name, one in given.items():
        values = np.asarray(one.detach().cpu() if isinstance(one, Tensor) else one, dtype=np.float64)
        if values.shape != wrong.shape:
            raise ShapeError(f"Score {name!r} needs one number for each of {wrong.size} examples; got {values.shape}.")
        if not np.isfinite(values).all():
            raise ArgumentError(f"Score {name!r} must be finite numbers; {int((~np.isfinite(values)).sum())} are not.")
        found.append([_interval(of, wrong, values, seed) for of in _MEASURES.values()])
    return table_of(
        found,
        ("score", list(given)),
        ("measure", list(_MEASURES)),
        title=f"Label noise, {int(wrong.sum())} wrong of {wrong.size}",
        measure="of wrong labels",
        interval="over examples",
    )


def _interval(of: _Found, wrong: NDArray[np.bool_], values: NDArray[np.float64], seed: int) -> Interval:
    low, high = bootstrap(wrong.size, lambda rows: of(wrong[rows], values[rows]), seed=seed, resamples=_RESAMPLES)
    return Interval(of(wrong, values), low, high)


def auroc(wrong: Bool[np.ndarray, " examples"], values: Float[np.ndarray, " examples"]) -> float:
    """Return the chance that a wrong label has the higher value than a right one; ties count half, nan without both."""
    from scipy.stats import rankdata  # here, as it takes long to import

    count = int(wrong.sum())
    if not 0 < count < wrong.size:
        return float("nan")
    above = float(rankdata(values)[wrong].sum()) - count * (count + 1) / 2
    return above / (count * (wrong.size - count))


def average_precision(wrong: Bool[np.ndarray, " examples"], values: Float[np.ndarray, " examples"]) -> float:
    """Return the mean, over wrong labels, of the precision when all with at least that value are flagged."""
    order = np.argsort(-values, kind="stable")
    found, ranked = np.cumsum(wrong[order]), values[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # of each group of equal values
    gained = np.diff(found[last], prepend=0)
    return float((gained * found[last] / (last + 1)).sum() / found[-1]) if found[-1] else float("nan")


def missed(wrong: Bool[np.ndarray, " examples"], values: Float[np.ndarray, " examples"]) -> float:
    """Return the share of wrong labels that are not among as many examples with the highest values."""
    flagged = np.argsort(-values, kind="stable")[: int(wrong.sum())]
    return 1 - float(wrong[flagged].mean()) if flagged.size else float("nan")


_MEASURES: dict[str, _Found] = {"AUROC": auroc, "average precision": average_precision, "miss rate": missed}
