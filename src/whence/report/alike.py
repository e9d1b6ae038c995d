"""The map on the page: which targets a network takes for alike, and for which training examples it takes each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import xarray as xr

from whence._errors import ArgumentError
from whence._numbers import is_whole
from whence.audit.chunks import labels_of
from whence.datasets import Examples, as_examples
from whence.kernel import class_margin, layout, path_kernel, similarity
from whence.report.answers import Answerer, Answers
from whence.report.figures import Figure
from whence.report.pictures import Look, look
from whence.report.plane import plane
from whence.report.traced import Exemplar
from whence.report.training import spaced
from whence.report.words import count, label_name, listing, number, percent
from whence.runs import Run

FEWEST = 4  # points that can be laid out
_SHORT = 5  # names in a row of the table, and examples of the other end


@final
@dataclass(frozen=True)
class MapSettings:
    """What the map takes.

    Attributes:
        limit: Targets on it, at most; evenly spaced ones of more.
        k: Nearest training examples to list for each.
        times: States of the run at which gradients are compared, evenly spaced, the end among them; all where it has
            fewer.
        method: What lays it out: ``"tsne"``, or ``"umap"`` with the extra ``umap``.
        seed: Of the layout.

    Raises:
        ArgumentError: If the limit is below 4, or ``k`` or ``times`` not a whole number, at least 1.
    """

    limit: int = 300
    k: int = 10
    times: int = 10
    method: str = "tsne"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("limit", FEWEST), ("k", 1), ("times", 1)):
            value = getattr(self, name)
            if not is_whole(value) or value < least:
                raise ArgumentError(f"`{name}` of a map is a whole number, at least {least}; got {value!r}.")


@final
@dataclass(frozen=True)
class Point:
    """One target on the map.

    Attributes:
        index: Its id.
        label: What its class is called.
        predicted: What the class is called that it is given.
        wrong: Whether that is another.
        loss: Its loss at the end of the run, in words.
        margin: Its class margin, see `whence.kernel.class_margin`; nan where there is none.
        nearest: The training examples most alike, first ones most.
        unlike: The training examples of its own class that are least alike, first ones least.
    """

    index: int
    label: str
    predicted: str
    wrong: bool
    loss: str
    margin: float
    nearest: tuple[Exemplar, ...]
    unlike: tuple[Exemplar, ...]

    @property
    def title(self) -> str:
        """What it is and what became of it, in a few words."""
        said = f"{self.label} taken for {self.predicted}" if self.wrong else f"{self.label}, answered rightly"
        return f"Target {self.index}: {said}"

    @property
    def plain(self) -> dict[str, Any]:
        """The same for the page's script."""
        return {
            "index": self.index,
            "title": self.title,
            "facts": [
                ["label", self.label],
                ["predicted", self.predicted],
                ["loss", self.loss],
                ["class margin", _margin_said(self.margin)],
            ],
            "nearest": [[one.index, one.label, one.said] for one in self.nearest],
            "unlike": [[one.index, one.label, one.said] for one in self.unlike],
        }


@final
@dataclass(frozen=True)
class LikenessMap:
    """The map as the page shows it.

    Attributes:
        verdict: What it shows, in a sentence or two.
        figure: The map itself.
        points: The targets on it.
        target_looks: How they look, by id.
        train_looks: How the training examples listed look, by id.
    """

    verdict: str
    figure: Figure
    points: tuple[Point, ...]
    target_looks: dict[int, Look]
    train_looks: dict[int, Look]

    @property
    def groups(self) -> tuple[tuple[str, tuple[tuple[int, Point], ...]], ...]:
        """The points with their positions, wrong answers first, as a reader chooses among them."""
        placed = tuple(enumerate(self.points))
        both = (("Answered wrongly", True), ("Answered rightly", False))
        parted = ((name, tuple(pair for pair in placed if pair[1].wrong == wrong)) for name, wrong in both)
        return tuple((name, pairs) for name, pairs in parted if pairs)

    @property
    def data(self) -> dict[str, Any]:
        """What the page's script needs to tell of each point."""
        features = {f"target-{index}": shown.features for index, shown in self.target_looks.items() if shown.features}
        return {"points": [one.plain for one in self.points], "features": features}


def likeness_map(
    run: Run, targets: Any, ids: Sequence[int] | None = None, settings: MapSettings | None = None
) -> LikenessMap:
    """Lay targets out by what a network takes for alike, each with the training examples nearest to it.

    Likeness is that of `whence.similarity`: the cosine of two examples' path features (PLGK, definition 8). A loss
    knows the label, so two inputs with different labels are rarely alike, also where the network takes one for the
    other.

    Args:
        run: The recorded run of a classifier.
        targets: Anything `as_examples` takes, with classes as labels.
        ids: Which of them; all by default.
        settings: What the map takes.

    Raises:
        ArgumentError: If the targets have no classes as labels, there are fewer than 4 of them, or no layout has the
            name.
        DataError: If the targets cannot be read, such as inputs without labels.
        MissingExtraError: If UMAP is asked for and not installed.
    """
    asked, examples = settings or MapSettings(), as_examples(targets)
    known = list(range(len(examples))) if ids is None else list(ids)
    shown = [known[place] for place in spaced(len(known), asked.limit)]
    if len(shown) < FEWEST:
        raise ArgumentError(
            f"A map is of at least {FEWEST} targets; got {len(shown)}. Give more targets, or leave the map out."
        )
    kinds = labels_of(examples)
    answers = None if kinds is None or kinds.is_floating_point() else Answerer(run).at(run.steps, examples, shown)
    if answers is None or answers.labels is None:
        raise ArgumentError(
            "The map shows classes, and these targets have none as labels: it is for classifiers. Leave the map out."
        )
    times = min(asked.times, run.steps)
    among = path_kernel(run, examples, ids=shown, times=times)
    places = layout(among, method=asked.method, seed=asked.seed)
    alike = similarity(path_kernel(run, examples, run.examples, ids=shown, times=times))
    names = examples.class_names or run.examples.class_names
    points = _points(alike, answers, _train_labels(run.examples), names, asked.k)
    listed = sorted({one.index for point in points for one in (*point.nearest, *point.unlike)})
    return LikenessMap(
        _verdict(points),
        _figure(points, places, answers, names, times),
        points,
        {index: look(examples, index) for index in shown},
        {index: look(run.examples, index) for index in listed},
    )


def _points(
    alike: xr.DataArray, answers: Answers, train: np.ndarray, names: Sequence[str] | None, k: int
) -> tuple[Point, ...]:
    """Return what is told of each target."""
    own, predicted = (np.asarray(one) for one in (answers.labels, answers.predicted))
    cosines = alike.values
    near = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    others = np.where(train == own[:, None], cosines, np.inf)  # of another class: behind all of its own
    far = np.argsort(others, axis=1, kind="stable")[:, : min(k, _SHORT)]
    called = {kind: label_name(kind, names) for kind in np.unique([*own, *predicted, *train]).tolist()}

    def listed(row: int, ids: np.ndarray) -> tuple[Exemplar, ...]:
        pairs = zip(ids.tolist(), cosines[row, ids].tolist(), strict=True)
        return tuple(Exemplar(one, called[int(train[one])], number(value, 2)) for one, value in pairs)

    margins, losses = _margins(alike, train, predicted), answers.losses.tolist()
    return tuple(
        Point(
            index,
            called[int(own[row])],
            called[int(predicted[row])],
            bool(own[row] != predicted[row]),
            number(losses[row]),
            float(margins[row]),
            listed(row, near[row]),
            listed(row, far[row][train[far[row]] == own[row]]),
        )
        for row, index in enumerate(alike["target"].values.tolist())
    )


def _margins(alike: xr.DataArray, train: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return class margins, nan for a target whose predicted class no training example has."""
    found, kinds = np.full(len(predicted), np.nan), np.unique(train)
    known = np.flatnonzero(np.isin(predicted, kinds))
    if len(kinds) > 1 and known.size:
        found[known] = class_margin(alike.isel(target=known), train, predicted[known]).values
    return found


def _train_labels(examples: Examples) -> np.ndarray:
    """Return the classes of the training data.

    Raises:
        ArgumentError: If they are none.
    """
    labels = labels_of(examples)
    if labels is None:
        raise ArgumentError("The map shows classes, and the training data has none as labels. Leave the map out.")
    return labels.numpy()


def _verdict(points: Sequence[Point]) -> str:
    same = np.mean([one.label == point.label for point in points for one in point.nearest])
    said = (
        f"{percent(float(same))} of the nearest training examples of {count(len(points), 'target')} bear the target's "
        "own label."
    )
    wrong, right = ([one.margin for one in points if one.wrong == kind and one.margin == one.margin] for kind in (1, 0))
    if not wrong or not right:
        return said
    return (
        f"{said} The class margin is {number(float(np.median(wrong)), 2)} in the middle of those answered wrongly, "
        f"{number(float(np.median(right)), 2)} of those answered rightly."
    )


def _figure(
    points: Sequence[Point], places: xr.DataArray, answers: Answers, names: Sequence[str] | None, times: int
) -> Figure:
    crosses = np.array([one.wrong for one in points])
    traces, drawn = plane(places.values, np.asarray(answers.labels), crosses, lambda kind: label_name(kind, names))
    wrong = int(crosses.sum())
    crossed = (
        f" A cross marks {'the wrong answer' if wrong == 1 else f'each of {wrong} wrong answers'}." if wrong else ""
    )
    how = {"tsne": "t-SNE", "umap": "UMAP"}[places.attrs["method"]]
    rows = tuple(
        (
            f"#{one.index}",
            one.label,
            one.predicted,
            one.loss,
            _margin_said(one.margin),
            listing([f"#{each.index}" for each in one.nearest[:_SHORT]]),
        )
        for one in points
    )
    return Figure(
        "alike-map",
        "Targets by what the network takes for alike",
        f"Each point is one of {count(len(points), 'target')}; symbol and colour are its class.{crossed} {how} of the "
        f"angles between gradients at {count(times, 'state')} of the run: it shows which are beside which, while "
        "distances between groups, and their sizes, mean little.",
        traces,
        drawn,
        ("target", "label", "predicted", "loss", "class margin", "nearest training examples"),
        rows,
    )


def _margin_said(value: float) -> str:
    return "none" if np.isnan(value) else number(value, 2)
