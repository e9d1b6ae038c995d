"""How training went: loss and accuracy at a few moments of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from whence.datasets import as_examples
from whence.report.answers import Answerer, Answers
from whence.report.figures import FIRST, SECOND, Figure, axis, compact, layout
from whence.report.words import number, percent
from whence.runs import Run

_MOMENTS = 50
_ENOUGH = 6  # with fewer moments than this, the ends of epochs are reached by replaying
_EXAMPLES = 1024


@final
@dataclass(frozen=True)
class Curves:
    """Loss and accuracy along a run; the lists run over the same moments.

    Attributes:
        epochs: Moment, in epochs since the start (a fraction inside an epoch).
        training_loss: Mean loss of a fixed sample of the training examples.
        target_loss: Mean loss of a fixed sample of the targets.
        training_accuracy: Share of right answers, or None when the task is not classification.
        target_accuracy: The same for targets.
        sampled: How many training examples and targets were asked.
    """

    epochs: tuple[float, ...]
    training_loss: tuple[float, ...]
    target_loss: tuple[float, ...]
    training_accuracy: tuple[float, ...] | None
    target_accuracy: tuple[float, ...] | None
    sampled: tuple[int, int]


def curves(run: Run, targets: Any, *, ids: Sequence[int] | None = None, answerer: Answerer | None = None) -> Curves:
    """Ask the model at up to 50 moments of its training.

    The moments are the run's snapshots, which cost no replay; with fewer than 6 of them, the ends of epochs as well.
    At most 1,024 training examples and as many targets are asked, evenly spaced.

    Args:
        run: The run.
        targets: Where the targets come from, in any form that `as_examples` reads.
        ids: Which of them are meant; all by default. A sample of these is asked.
        answerer: What to ask, when there is one already.
    """
    asked, known = answerer or Answerer(run), as_examples(targets)
    meant = list(range(len(known)) if ids is None else ids)
    ours = spaced(len(run.examples), _EXAMPLES)
    theirs = [meant[at] for at in spaced(len(meant), _EXAMPLES)]
    steps = _moments(run)
    training = [asked.at(step, run.examples, ours) for step in steps]
    aimed = [asked.at(step, known, theirs) for step in steps]
    return Curves(
        _epochs(run, steps),
        _losses(training),
        _losses(aimed),
        _accuracies(training),
        _accuracies(aimed),
        (len(ours), len(theirs)),
    )


def training_figures(found: Curves) -> tuple[Figure, ...]:
    """Return the plots of loss and, for a classifier, accuracy."""
    loss = _figure("training-loss", "Loss", "mean loss", found, found.training_loss, found.target_loss)
    if found.training_accuracy is None or found.target_accuracy is None:
        return (loss,)
    return (
        _figure("training-accuracy", "Accuracy", "share right", found, found.training_accuracy, found.target_accuracy),
        loss,
    )


def spaced(length: int, most: int) -> list[int]:
    """Return up to ``most`` evenly spaced indices of ``range(length)``.

    Examples:
        >>> spaced(3, 5), spaced(9, 3)
        ([0, 1, 2], [0, 4, 8])
    """
    return sorted({int(at) for at in np.linspace(0, length - 1, min(length, most))}) if length else []


def _moments(run: Run) -> list[int]:
    steps = {0, run.steps, *(segment.start for segment in run.segments())}
    if len(steps) < _ENOUGH:
        steps |= _epoch_ends(run)
    ordered = sorted(steps)
    return [ordered[at] for at in spaced(len(ordered), _MOMENTS)]


def _epoch_ends(run: Run) -> set[int]:
    ends = np.flatnonzero(np.diff(run.epoch_of_steps())) + 1
    return {int(ends[at]) for at in spaced(len(ends), _MOMENTS)}


def _epochs(run: Run, steps: list[int]) -> tuple[float, ...]:
    """Return moments in epochs: whole ones at the ends of epochs, fractions of the epoch's own length between them."""
    ends = np.cumsum(np.bincount(run.epoch_of_steps(), minlength=1)).astype(np.float64)
    return tuple(float(one) for one in np.interp(steps, [0.0, *ends], range(len(ends) + 1)))


def _losses(answers: Iterable[Answers]) -> tuple[float, ...]:
    return tuple(float(one.losses.mean()) for one in answers)


def _accuracies(answers: Iterable[Answers]) -> tuple[float, ...] | None:
    found = [one.accuracy for one in answers]
    known = [one for one in found if one is not None]
    return tuple(known) if len(known) == len(found) else None


def _figure(
    key: str, title: str, unit: str, found: Curves, training: tuple[float, ...], aimed: tuple[float, ...]
) -> Figure:
    share = key.endswith("accuracy")
    text = percent if share else number
    sampled = f"Measured on {found.sampled[0]:,} training examples and {found.sampled[1]:,} targets."
    summary = (
        f"{title} on the training data went from {text(training[0])} to {text(training[-1])}, "
        f"on the targets from {text(aimed[0])} to {text(aimed[-1])}. {sampled}"
    )
    scale: dict[str, Any] = {"tickformat": ".0%"} if share else {"rangemode": "tozero"}
    rows = tuple(
        (number(epoch), text(ours), text(theirs))
        for epoch, ours, theirs in zip(found.epochs, training, aimed, strict=True)
    )
    traces = (
        _curve(found.epochs, training, "training data", FIRST, "solid"),
        _curve(found.epochs, aimed, "targets", SECOND, "dash"),
    )
    plan = layout(axis("epoch"), axis(unit, **scale), showlegend=True)
    return Figure(key, title, summary, traces, plan, ("epoch", "training data", "targets"), rows)


def _curve(epochs: tuple[float, ...], values: tuple[float, ...], name: str, colour: str, dash: str) -> dict[str, Any]:
    return {
        "x": compact(epochs),
        "y": compact(values),
        "name": name,
        "mode": "lines",
        "line": {"color": colour, "width": 2, "dash": dash},
        "hovertemplate": f"{name}<br>epoch %{{x:.3g}}<br>%{{y:.4g}}<extra></extra>",
    }
