"""How well scores tell members of the training set from others, beside what the inputs alone say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from whence._errors import ArgumentError, ShapeError
from whence._statistics import RESAMPLES, Interval, share_interval
from whence.evaluation.inputs import as_share, named
from whence.evaluation.table import Table, table_of

BLIND = "blind control"
NO_EVIDENCE = "no evidence of membership beyond what the inputs alone say"
_ENOUGH = 10  # false positives from which on a rate is more than a few examples' luck

Scores = Float[np.ndarray, " examples"]
Pair = tuple[Float[np.ndarray, " members"], Float[np.ndarray, " others"]]


def membership_table(
    scores: Any | Mapping[str, Any],
    *,
    blind: Any = None,
    fpr: Sequence[float] = (0.01, 0.001),
    priors: Sequence[float] = (),
    seed: int = 0,
) -> Table:
    """Measure how well scores tell members of the training set from others (Provenance Networks, 5.4).

    Averages hide the few examples that leak, so true positives are counted where few false ones are allowed (Carlini et
    al., 2022). A share of p of false positives allows whole ones only, p times the non-members rounded down; the
    threshold is the lowest that keeps to it on the given non-members, so ties that would be too many are left out.

    Args:
        scores: By name, a pair: scores of members, and of non-members; higher = more likely a member. Or one pair.
        blind: The pair that `whence.membership.blind_control` gives for the same examples. Without, a score may show
            no more than that members are another kind of input.
        fpr: Shares of false positives to allow.
        priors: Shares of members among all candidates, such as ``(0.01, 0.1, 0.5)``, for which to give the positive
            predictive value: which share of those flagged are members, when as many others as allowed are flagged.
        seed: Of the bootstrap.

    Returns:
        A row a score, with the blind control last. Columns: the area under the ROC curve (ties count half; bootstrap
        over members and over non-members), the true positive rates (Clopper-Pearson, for the threshold as it is),
        predictive values (those rates' intervals). None is nan. ``data.attrs["notes"]``, printed below, say which
        scores show no evidence and where few false positives are allowed; ``data.attrs["evidence"]`` names the scores
        that show some: the interval of their area is above 0.5 and, drawn on the same examples, above the blind
        control's; or that of a true positive rate is above both the false positives' and the blind control's. Beside
        the numbers ``data`` keeps the scores themselves, which `Table.save` leaves out: ``members``, dims ("score",
        "member"), and ``others``, dims ("score", "other"), nan behind the end of a shorter one.

    Raises:
        ShapeError: If a score is no pair of numbers, one an example.
        ArgumentError: If there are fewer than two members or non-members, a score is not finite, or a share is none.
    """
    given = {name: _pair(one, name) for name, one in named(scores, "score").items()}
    if blind is not None:
        if BLIND in given:
            raise ArgumentError(
                f"A score is called {BLIND!r}, as the row of `blind`. Name it otherwise, or leave `blind` out."
            )
        given[BLIND] = _pair(blind, BLIND)
    shares, chances = [as_share(one, "fpr") for one in fpr], [as_share(one, "priors") for one in priors]
    found = {name: _measured(one, shares, seed) for name, one in given.items()}
    evidence = [name for name, one in found.items() if name != BLIND and one.tells(found.get(BLIND))]
    columns = ["AUC", *(f"TPR at {_percent(one)} FPR" for one in shares)]
    columns += [f"PPV at {_percent(one)} FPR, prior {_percent(prior)}" for one in shares for prior in chances]
    table = table_of(
        [one.row(shares, chances) for one in found.values()],
        ("score", list(found)),
        ("measure", columns),
        title="Membership, " + _sizes(given),
        measure="of telling members of the training set from others",
        interval="of AUC by a bootstrap over members and non-members, of rates Clopper-Pearson",
        notes=[*_verdicts(found, evidence), *_few(given, shares)],
    )
    table.data.attrs["evidence"] = evidence
    return replace(table, data=table.data.assign(_kept(given)))


@final
@dataclass(frozen=True)
class _Found:
    """What was measured of one score."""

    auc: Interval
    drawn: Float[np.ndarray, " resamples"]  # areas
    true: tuple[Interval, ...]  # by share of false positives
    false: tuple[Interval, ...]

    def row(self, shares: Sequence[float], priors: Sequence[float]) -> list[Interval]:
        values = [
            Interval(*(_predictive(rate, share, prior) for rate in true))
            for share, true in zip(shares, self.true, strict=True)
            for prior in priors
        ]
        return [self.auc, *self.true, *values]

    def tells(self, blind: _Found | None) -> bool:
        """Say whether the score tells members from others, and better than the inputs alone."""
        overall = self.auc.low > 0.5 and (blind is None or _low(self.drawn - blind.drawn) > 0)
        bars = [one.high for one in self.false]
        if blind is not None:
            bars = [max(pair) for pair in zip(bars, (one.high for one in blind.true), strict=True)]
        return overall or any(one.low > bar for one, bar in zip(self.true, bars, strict=True))


def _measured(pair: Pair, shares: Sequence[float], seed: int) -> _Found:
    members, others = pair
    drawn = np.fromiter(_areas(members, others, seed), dtype=np.float64)
    low, high = (float(one) for one in np.percentile(drawn[1:], (2.5, 97.5)))
    counts = [_flagged(members, others, share) for share in shares]
    return _Found(
        Interval(float(drawn[0]), low, high),
        drawn[1:],
        tuple(share_interval(count, len(members)) for count, _ in counts),
        tuple(share_interval(count, len(others)) for _, count in counts),
    )


def _areas(members: Float[np.ndarray, " members"], others: Float[np.ndarray, " others"], seed: int) -> Iterator[float]:
    """Yield the area under the ROC curve, and then those of resamples: the same for scores of as many examples."""
    values, places = np.unique(np.concatenate([members, others]), return_inverse=True)
    rows = places[: len(members)], places[len(members) :]
    rng = np.random.default_rng([seed, len(members), len(others)])
    for draw in range(RESAMPLES + 1):
        drawn = rows if draw == 0 else tuple(one[rng.integers(len(one), size=len(one))] for one in rows)
        above, below = (np.bincount(one, minlength=len(values)) for one in drawn)
        yield float(above @ (np.cumsum(below) - below / 2)) / (len(members) * len(others))


def _flagged(
    members: Float[np.ndarray, " members"], others: Float[np.ndarray, " others"], share: float
) -> tuple[int, int]:
    """Return how many members and others lie above the lowest threshold that keeps to a share of false positives."""
    first_too_many = np.sort(others)[::-1][_allowed(share, len(others))]
    return int((members > first_too_many).sum()), int((others > first_too_many).sum())


def _allowed(share: float, count: int) -> int:
    return int(share * count + 1e-9)  # a product may round below the whole number that it is


def _predictive(true: float, false: float, prior: float) -> float:
    """Return the share of members among those flagged (Bayes' rule)."""
    return prior * true / (prior * true + (1 - prior) * false)


def _low(values: NDArray[np.float64]) -> float:
    return float(np.percentile(values, 2.5))


def _kept(given: Mapping[str, Pair]) -> dict[str, tuple[tuple[str, str], NDArray[np.float64]]]:
    """Return all scores of members and of others by variable, nan where one has fewer than another."""
    kept = {}
    for place, (name, dim) in enumerate((("members", "member"), ("others", "other"))):
        values = np.full((len(given), max(len(pair[place]) for pair in given.values())), np.nan)
        for row, pair in zip(values, given.values(), strict=True):
            row[: len(pair[place])] = pair[place]
        kept[name] = (("score", dim), values)
    return kept


def _verdicts(found: Mapping[str, _Found], evidence: Sequence[str]) -> Iterator[str]:
    blind = found.get(BLIND)
    for name in (one for one in found if one != BLIND and one not in evidence):
        yield f"{name}: {'no evidence of membership, not above chance' if blind is None else NO_EVIDENCE}."
    if blind is None:
        yield "There is no blind control: what tells members from others here may be that they differ as inputs."


def _few(given: Mapping[str, Pair], shares: Sequence[float]) -> Iterator[str]:
    for count in sorted({len(others) for _, others in given.values()}):
        for share in shares:
            allowed = _allowed(share, count)
            if allowed < _ENOUGH:
                yield (
                    f"{_percent(share)} of {count:,} non-members allow {allowed} false positive{'s' * (allowed != 1)}: "
                    f"the threshold hangs on few; {round(_ENOUGH / share):,} non-members would allow {_ENOUGH}."
                )


def _sizes(given: Mapping[str, Pair]) -> str:
    sizes = {(len(members), len(others)) for members, others in given.values()}
    return " or ".join(f"{members:,} members and {others:,} non-members" for members, others in sorted(sizes))


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _pair(given: Any, name: str) -> Pair:
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise ShapeError(
            f"Score {name!r} must be a pair, the scores of members and of non-members; got {_kind(given)}."
        )
    members, others = (_numbers(one, name, what) for one, what in zip(given, ("members", "non-members"), strict=True))
    return members, others


def _kind(given: Any) -> str:
    return f"{len(given)} of them" if isinstance(given, tuple | list) else type(given).__name__


def _numbers(given: Any, name: str, what: str) -> Scores:
    values = np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given, dtype=np.float64)
    if values.ndim != 1:
        raise ShapeError(f"Score {name!r} needs one number for each of the {what}; got shape {values.shape}.")
    if len(values) < 2:
        raise ArgumentError(f"Score {name!r} needs at least two {what}; got {len(values)}.")
    if not np.isfinite(values).all():
        raise ArgumentError(f"Score {name!r} of {what} must be finite; {int((~np.isfinite(values)).sum())} are not.")
    return values
