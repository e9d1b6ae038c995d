"""The proof of a counterfactual: what was predicted beside what training again without the examples really gives."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex, final

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from whence._errors import ArgumentError
from whence._files import checksum, disk_errors, write_atomically
from whence._numbers import is_several, is_whole, random_ids
from whence._processes import as_processes
from whence._progress import progress
from whence._statistics import bootstrap, rank_correlations
from whence.audit.identity import identity_of
from whence.counterfactual.question import Question, in_order, recall
from whence.runs import ModelState, Run, as_weights, in_processes, retrain

_ENOUGH = 3  # sets from which on a rank correlation says anything


@final
@dataclass(frozen=True)
class Check:
    """Predicted and retrained changes of some removals.

    Attributes:
        data: Variables ``predicted`` and ``retrained``, dims ``("set", "target")``; coordinates of ``set``: ``kind``
            (``"chosen"`` or ``"random"``) and ``size``.
        removals: The ids that each set leaves out.
    """

    data: xr.Dataset
    removals: tuple[tuple[int, ...], ...]

    @property
    def correlation(self) -> float:
        """Mean over targets of the rank correlation over sets of predicted and retrained change; nan under 3 sets.

        It is the linear datamodeling score when all sets are random and of one size (TRAK, section 2).
        """
        return _correlation(*self._values())

    @property
    def slope(self) -> float:
        """Least squares slope through 0 of retrained on predicted changes: 1 = of the predicted size."""
        return _slope(*self._values())

    def interval(self, of: str = "slope") -> tuple[float, float]:
        """Return a 95 % interval of ``"slope"`` or ``"correlation"``: a bootstrap over sets; nan under 3 sets.

        Raises:
            ArgumentError: If ``of`` is neither.
        """
        measures = {"slope": _slope, "correlation": _correlation}
        if of not in measures:
            raise ArgumentError(f"`of` is 'slope' or 'correlation'; got {of!r}.")
        predicted, retrained = self._values()
        if len(predicted) < _ENOUGH:
            return float("nan"), float("nan")
        return bootstrap(len(predicted), lambda rows: measures[of](predicted[rows], retrained[rows]))

    def __str__(self) -> str:
        """Say in words how the prediction did."""
        sets, unit = self.data.sizes["set"], self.data.attrs["unit"]
        error = float(np.abs(self.data["retrained"] - self.data["predicted"]).mean())
        change = float(np.abs(self.data["retrained"]).mean())
        low, high = self.interval()
        return (
            f"{sets} removal{'' if sets == 1 else 's'} retrained, {self.data.sizes['target']} results: mean change "
            f"{change:.3g} {unit}, predicted within {error:.3g} on average; slope {self.slope:.3f} "
            f"(95 %: {low:.3f} to {high:.3f}), rank correlation over sets {self.correlation:.3f}"
        )

    def plot(self) -> Any:
        """Return a plotly figure: retrained against predicted change, one mark a set and target."""
        import plotly.graph_objects as go

        figure = go.Figure()
        for kind, symbol, colour in (("random", "circle", "#9aa5b1"), ("chosen", "diamond", "#c2410c")):
            part = self.data.isel(set=np.flatnonzero(self.data["kind"].values == kind))
            figure.add_scatter(
                x=part["predicted"].values.reshape(-1),
                y=part["retrained"].values.reshape(-1),
                mode="markers",
                name=f"{kind} sets",
                marker={"symbol": symbol, "color": colour, "size": 8},
            )
        ends = [float(f(self.data["predicted"].values)) for f in (np.min, np.max)]
        figure.add_scatter(x=ends, y=ends, mode="lines", name="as predicted", line={"color": "#1f2933", "width": 1})
        unit = self.data.attrs["unit"]
        return figure.update_layout(
            xaxis_title=f"predicted change ({unit})", yaxis_title="change after training again", template="simple_white"
        )

    def _values(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return (self.data["predicted"].values.astype(np.float64), self.data["retrained"].values.astype(np.float64))


def check(
    effects: xr.DataArray,
    removals: Sequence[Iterable[SupportsIndex]] | int,
    *,
    seeds: int | Sequence[int] = 3,
    run: Run | None = None,
    targets: Any = None,
    processes: int | None = None,
    path: str | Path | None = None,
) -> Check:
    """Train again without examples, and compare with what `whence.counterfactual` predicted.

    Args:
        effects: What `whence.counterfactual` returned, whole or some targets of it. Its values are what is compared:
            those of a mean of several effects, say, as they are.
        removals: Sets of training ids to leave out, each in a training of its own; or a size, for random sets alone.
        seeds: How many random sets of the same size to leave out beside each chosen one (of a size: in all), or the
            seeds to draw them with.
        run, targets: Needed where those that the effects were made with are gone, as after loading from disk.
        processes: How many trainings to run at once, each forked and on one thread, sharing the data until it is
            changed. None is all usable cores on Linux without a GPU, else one. With more than one, the training with
            nothing removed is made again too, so that all are rounded alike.
        path: A file in which to keep each result as it is found: a check that was interrupted goes on there.

    Returns:
        Predicted and retrained changes, with their correlation, slope and plot.

    Raises:
        ArgumentError: If an argument is outside what is listed, or a set is empty, larger than the data or names
            what is no training example.
        ReplayError: If the run does not replay.
        DiskError: If the disk is full or refuses to write.
    """
    effects = in_order(effects)
    run, question = recall(effects, run, targets)
    sets, kinds = _sets(removals, seeds, len(run.examples))
    kept = _places(effects, question)
    retrained = _retrained(run, question, sets, processes, None if path is None else Path(path))
    values: NDArray[np.float64] = effects.values.astype(np.float64)
    predicted = np.stack([values[:, list(one)].sum(1) for one in sets])
    data = xr.Dataset(
        {"predicted": (("set", "target"), predicted), "retrained": (("set", "target"), retrained[:, kept])},
        {
            "target": effects.coords["target"].values,
            "kind": ("set", np.array(kinds, dtype=object)),
            "size": ("set", [len(one) for one in sets]),
        },
        {"unit": question.quantity.unit},
    )
    return Check(data, tuple(sets))


def _sets(
    removals: Sequence[Iterable[SupportsIndex]] | int, seeds: int | Sequence[int], count: int
) -> tuple[list[tuple[int, ...]], list[str]]:
    """Return the sets to leave out, and whether each is chosen or random."""
    if is_whole(removals):
        given: list[tuple[SupportsIndex, ...]] = []
        sizes = [int(removals)]  # type: ignore[arg-type]
    else:
        if not is_several(removals) or not all(map(is_several, removals)):  # type: ignore[arg-type]
            raise ArgumentError(
                f"`removals` are sets of training ids, each a list: for one set give [[...]]; got {removals!r:.80}."
            )
        given = [tuple(ids) for ids in removals]  # type: ignore[union-attr]
        sizes = [len(ids) for ids in given]
    if not sizes or not all(0 < size <= count for size in sizes):
        raise ArgumentError(
            f"`removals` are sets of 1 to {count} training examples (as many as there are), or one such size; got "
            f"{'none' if not sizes else f'sizes {sizes[:6]}'}."
        )
    for ids in given:
        as_weights(count, ids)  # refuses what is no set of examples
    chosen = [tuple(int(one) for one in ids) for ids in given]
    asked: Any = seeds
    drawn = range(int(asked)) if is_whole(asked) else list(asked) if is_several(asked) else None
    if drawn is None or not all(is_whole(one) and one >= 0 for one in ([asked] if is_whole(asked) else drawn)):
        raise ArgumentError(f"`seeds` is how many random sets to draw beside each, or their seeds; got {seeds!r}.")
    random = [random_ids(count, size, seed, place) for place, size in enumerate(sizes) for seed in drawn]
    if not chosen and not random:
        raise ArgumentError("There is nothing to check: `removals` is a size and `seeds` draws no set of it.")
    return [*chosen, *random], ["chosen"] * len(chosen) + ["random"] * len(random)


def _places(effects: xr.DataArray, question: Question) -> list[int]:
    """Return where the effects' targets stand among the results of the question.

    Raises:
        ArgumentError: If one of them is none of those.
    """
    known = {str(name): place for place, name in enumerate(question.names)}
    given = [str(one) for one in np.atleast_1d(effects.coords["target"].values)]
    strange = [one for one in given if one not in known]
    if strange:
        own = f"{', '.join(list(known)[:4])}{' and so on' if len(known) > 4 else ''}"
        raise ArgumentError(
            f"These effects have a target {strange[0]!r}, which whence.counterfactual did not return: its targets are "
            f"{own}. Keep the coordinate `target` as it was."
        )
    return [known[one] for one in given]


def _retrained(
    run: Run, question: Question, sets: list[tuple[int, ...]], processes: int | None, path: Path | None
) -> NDArray[np.float64]:
    """Return what each result changes by when each set is really left out, (sets, results)."""
    dtype = next(one.dtype for one in run.model.parameters() if one.is_floating_point())

    def value(state: ModelState) -> list[float]:
        found: list[float] = question.values(run, state, dtype).tolist()
        return found

    weights = [as_weights(len(run.examples), one) for one in sets]
    several = as_processes(processes, len(sets)) > 1
    if several:
        weights.append(torch.ones(len(run.examples), dtype=torch.float64))
    asked = [question.quantity.name, *(identity_of(one) for one in question.quantity.numbers)]
    header = f"{run.identity} {run.steps} {identity_of(run.loss)} {question.examples.fingerprint} {asked} {several}"
    keys = [
        checksum(f"{header} {question.rows.tolist()} {question.members.tolist()} {one.tolist()}".encode())
        for one in weights
    ]
    known = {} if path is None else _known(path)
    missing = [place for place, key in enumerate(keys) if key not in known]

    def again(place: int) -> list[float]:
        return value(retrain(run, weights[missing[place]]))

    with progress("training again without", len(weights)) as advance:
        advance(len(weights) - len(missing))
        for place, found in in_processes(run, again, len(missing), processes):
            known[keys[missing[place]]] = found
            if path is not None:
                with disk_errors(path):
                    write_atomically(path, json.dumps(known).encode())
            advance(1)
    ends = np.array([known[key] for key in keys])
    begun = ends[-1] if several else np.array(value(run.state_at(run.steps)))
    changes: NDArray[np.float64] = ends[: len(sets)] - begun
    return changes


def _known(path: Path) -> dict[str, list[float]]:
    """Return the results that a check kept in a file, none if there is no file yet.

    Raises:
        ArgumentError: If something else stands there, or the file could not be made.
    """
    if not path.parent.is_dir():
        raise ArgumentError(f"`path` is {path}, but there is no folder {path.parent}. Make it first.")
    if not path.exists():
        return {}
    try:
        known = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ArgumentError(
            f"{path} holds no results of a check: {error}. Choose another path, or remove it."
        ) from error
    if not isinstance(known, dict) or not all(isinstance(one, list) for one in known.values()):
        raise ArgumentError(f"{path} holds no results of a check, but other JSON. Choose another path, or remove it.")
    return known


def _correlation(predicted: NDArray[np.float64], retrained: NDArray[np.float64]) -> float:
    found = rank_correlations(predicted, retrained)
    return float(np.nanmean(found)) if not np.isnan(found).all() else float("nan")


def _slope(predicted: NDArray[np.float64], retrained: NDArray[np.float64]) -> float:
    size = float((predicted**2).sum())
    return float((predicted * retrained).sum()) / size if size else float("nan")
