"""Rank correlations, and how sure a mean is."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from whence._errors import ArgumentError

_ENOUGH = 3  # values from which on a rank correlation says anything
RESAMPLES = 2000


@final
class Interval(NamedTuple):
    """A number with its 95 % interval; nan where there is too little to say."""

    estimate: float
    low: float
    high: float


def rank_correlations(
    one: Float[np.ndarray, "sets columns"], other: Float[np.ndarray, "sets columns"]
) -> Float[np.ndarray, " columns"]:
    """Return Spearman's rank correlation of each column with the other's; ties share a rank.

    It is nan under 3 rows, and where a column's values are all alike.
    """
    from scipy.stats import rankdata  # here, as it takes long to import

    if len(one) < _ENOUGH:
        return np.full(one.shape[1], np.nan)
    ranks = [rankdata(values, axis=0).astype(np.float64) for values in (one, other)]
    apart = [values - values.mean(0) for values in ranks]
    sizes = np.sqrt((apart[0] ** 2).sum(0) * (apart[1] ** 2).sum(0))
    found: NDArray[np.float64] = (apart[0] * apart[1]).sum(0) / np.where(sizes > 0, sizes, np.nan)
    return found


def bootstrap(
    count: int, statistic: Callable[[NDArray[np.intp]], float], *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Return a 95 % interval of a statistic: 2.5 and 97.5 % of what it gives for rows drawn with replacement.

    Args:
        count: How many rows there are.
        statistic: Given the numbers of the rows drawn, the number of interest; nan where it is undefined.
        seed: Of the draws.
        resamples: How many draws.
    """
    draws = np.random.default_rng(seed).integers(count, size=(resamples, count))
    found = np.array([statistic(rows) for rows in draws])
    if np.isnan(found).all():
        return float("nan"), float("nan")
    low, high = np.nanpercentile(found, (2.5, 97.5))
    return float(low), float(high)


def mean_interval(
    values: Float[np.ndarray, " values"],
    clusters: NDArray[np.generic] | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Return the mean of some values with a bootstrap interval, nan around a single value or cluster; nan are left out.

    Args:
        values: The values.
        clusters: What each value belongs to, such as its target: whole clusters are drawn, as their values go together.
            Without, each value is drawn by itself.
        seed: Of the draws.
        resamples: How many draws.

    Raises:
        ArgumentError: If there is not one cluster a value.
    """
    if clusters is not None and len(clusters) != len(values):
        raise ArgumentError(f"There are {len(values)} values and {len(clusters)} clusters. Name one for each value.")
    known = np.flatnonzero(~np.isnan(values))
    if known.size == 0:
        return Interval(*(float("nan"),) * 3)
    kept = values[known].astype(np.float64)
    groups = np.arange(kept.size) if clusters is None else np.unique(clusters[known], return_inverse=True)[1]
    sums, sizes = np.bincount(groups.reshape(-1), kept), np.bincount(groups.reshape(-1)).astype(np.float64)
    if len(sums) == 1:  # every draw would be the same, which is no certainty
        return Interval(float(kept.mean()), float("nan"), float("nan"))
    draws = np.random.default_rng(seed).integers(len(sums), size=(resamples, len(sums)))
    low, high = np.percentile(sums[draws].sum(1) / sizes[draws].sum(1), (2.5, 97.5))
    return Interval(float(kept.mean()), float(low), float(high))


def normal_interval(values: Float[np.ndarray, " values"]) -> Interval:
    """Return the mean of some values with the interval of a normal approximation, mean ± 1.96 standard errors."""
    mean, half = float(values.mean()), float("nan")
    if len(values) > 1:
        half = 1.959964 * float(values.std(ddof=1)) / float(np.sqrt(len(values)))
    return Interval(mean, mean - half, mean + half)


def student_interval(values: Float[np.ndarray, " values"]) -> Interval:
    """Return the mean of a few values, as of some seeds, with Student's interval; nan around a single one."""
    from scipy.stats import t as student

    mean, half = float(values.mean()), float("nan")
    if len(values) > 1:
        error = float(values.std(ddof=1)) / float(np.sqrt(len(values)))
        half = float(student.ppf(0.975, len(values) - 1)) * error
    return Interval(mean, mean - half, mean + half)


def share_interval(count: int, of: int) -> Interval:
    """Return a share of independent cases with its exact 95 % interval (Clopper and Pearson, 1934); never nan.

    Args:
        count: In how many cases it was so.
        of: How many cases there were, at least 1.
    """
    from scipy.stats import beta

    low = float(beta.ppf(0.025, count, of - count + 1)) if count > 0 else 0.0
    high = float(beta.ppf(0.975, count + 1, of - count)) if count < of else 1.0
    return Interval(count / of, low, high)
