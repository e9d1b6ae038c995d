"""What a network cannot tell from an image: samples of an invariant set, with what proves them, on a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import nn

from whence.datasets import as_examples, call_model
from whence.invariants import InvariantSet
from whence.invariants.autoencoders.layout import device_of
from whence.invariants.ranking import Features, most_telling
from whence.provenance.modes import evaluating
from whence.report.figures import Rows
from whence.report.pictures import look
from whence.report.scale import Scale, scale_of
from whence.report.words import count, label_name, listing, number, percent

TELLING = 8
_COST = "evaluations"
_UNUSUAL = 0.01  # share of the prior's draws at either end, beyond which a latent is called unusual
_ENDED = {
    "solved": "solved",
    "budget": "out of steps",
    "stalled": "stalled: no step came nearer",
    "flat": "flat: the unit is silent there",
    "interrupted": "interrupted",
    "lost": "lost: the latent grew beyond all numbers",
    "missed": "stopped short of the tolerance",
}


@final
@dataclass(frozen=True)
class Sample:
    """One input as the page shows it: the query, or a sample.

    Attributes:
        key: Of its picture, unique in the page.
        name: What it is called.
        picture: A data URI, or None if it is no picture.
        features: Otherwise: its first numbers, by name.
        answer: The class that the network gives it, or nothing if the network is no classifier.
        other: Whether that is another class than the query's.
        value: What the objective gives.
        certificate: Pairs of name and value that prove it: residual in the objective's unit and in its spreads,
            quantile of the latent, status.
        solved: Whether it is within the tolerance.
        row: The same as a row of a table.
    """

    key: str
    name: str
    picture: str | None
    features: tuple[tuple[str, str], ...]
    answer: str
    other: bool
    value: str
    certificate: tuple[tuple[str, str], ...]
    solved: bool
    row: tuple[str, ...]

    @property
    def alt(self) -> str:
        """The picture in words."""
        answered = f", answered {self.answer}" if self.answer else ""
        return f"{self.name}{answered}, value {self.value}, {dict(self.certificate).get('status', 'the query')}"


@final
@dataclass(frozen=True)
class Indistinct:
    """The panel of one query.

    Attributes:
        verdict: What was found, in a few sentences.
        objective: What was kept.
        query: The query.
        samples: The samples: the most telling, then the others that are solved, then those that are not.
        telling: How many of the first are the most telling.
        places: Which row of the set each is.
    """

    verdict: str
    objective: str
    query: Sample
    samples: tuple[Sample, ...]
    telling: int
    places: tuple[int, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Heads of the table of all samples."""
        proof = (name for name, _ in self.samples[0].certificate)
        return ("sample", "answer", "value", *("latent quantile" if one == "quantile" else one for one in proof), _COST)

    @property
    def rows(self) -> Rows:
        """All samples as a table."""
        return tuple(one.row for one in self.samples)

    @property
    def pictures(self) -> dict[str, str]:
        """Every picture by its key."""
        return {one.key: one.picture for one in (self.query, *self.samples) if one.picture is not None}


def indistinct(
    found: InvariantSet,
    model: nn.Module | None = None,
    *,
    names: Sequence[str] | None = None,
    scale: Scale | None = None,
    telling: int = TELLING,
    features: Features | None = None,
    real: torch.Tensor | None = None,
    key: str = "sample",
) -> Indistinct:
    """Return what a page shows of a set.

    Args:
        found: The samples, solved or not.
        model: The network, for its answers on them.
        names: What its classes are called.
        scale: Of the pictures; from the least number to the greatest if left out.
        telling: How many most telling samples to put first.
        features, real: As `most_telling` takes them.
        key: Begins the keys of pictures.

    Raises:
        ArgumentError: If `most_telling` refuses its arguments.
    """
    inputs = torch.cat([found.query[None], found.inputs])
    known = scale or scale_of(inputs=inputs)
    first = most_telling(found, features, k=telling, real=real)
    solved = found.solved
    order = [*first.tolist(), *(row for row in np.flatnonzero(solved).tolist() if row not in first)]
    order += [row for row in np.argsort(found.certificate.residual.values, kind="stable").tolist() if not solved[row]]
    classes = answers_of(model, inputs)
    called = None if classes is None else [label_name(one, names) for one in classes]
    shown = _Shown(found, inputs, known, called, key)
    samples = tuple(shown.sample(row) for row in order)
    return Indistinct(
        _verdict(found, samples, called), found.objective, shown.query(), samples, len(first), tuple(order)
    )


def answers_of(model: nn.Module | None, inputs: torch.Tensor) -> list[int] | None:
    """Return the class that a model gives to each input; None if it is no classifier."""
    if model is None:
        return None
    with torch.no_grad(), evaluating(model):
        found: Any = call_model(model, inputs.to(device_of(model)))
    if not isinstance(found, torch.Tensor) or found.ndim != 2 or found.shape[1] < 2:
        return None
    return [int(one) for one in found.argmax(1)]


@final
@dataclass(frozen=True, eq=False)
class _Shown:
    """Makes what is shown of each input; row 0 of the inputs is the query."""

    found: InvariantSet
    inputs: torch.Tensor
    scale: Scale
    called: list[str] | None
    key: str

    def query(self) -> Sample:
        goal = self.found.certificate.attrs["goal"]
        return self._made(0, f"{self.key}-query", "query", _value(goal), (), True, ())

    def sample(self, row: int) -> Sample:
        told = self.found.certificate.isel(sample=row)
        residual, spread = float(told.residual), float(told.attrs["spread"])
        known: tuple[tuple[str, str], ...] = (
            ("residual", number(residual, 2)),
            ("in spreads", number(residual / spread, 2) if spread > 0 else "unknown"),
            ("quantile", f"{float(told['latent_quantile']):.3f}"),
            ("status", _ENDED.get(str(told.status.values), str(told.status.values))),
        )
        if "filtered_residual" in told:
            known = (*known[:2], ("filtered residual", number(float(told.filtered_residual), 2)), *known[2:])
        value = _value(told["value"].values.tolist())
        evaluations = f"{float(told.evaluations):,.0f}"
        name = f"sample {row}"
        cells = (value, *(said for _, said in known), evaluations)
        return self._made(row + 1, f"{self.key}-{row}", name, value, known, bool(told.solved), cells)

    def _made(
        self, place: int, key: str, name: str, value: str, known: Any, solved: bool, cells: tuple[str, ...]
    ) -> Sample:
        view = self.inputs[place]
        picture = self.scale.png(view)
        plain = () if picture is not None else look(as_examples((view[None], torch.zeros(1))), 0).features
        answer = "" if self.called is None else self.called[place]
        other = self.called is not None and answer != self.called[0]
        row = (name, answer or "none", *cells)
        return Sample(key, name, picture, plain, answer, other, value, known, solved, row)


def _value(values: Sequence[float]) -> str:
    return number(values[0], 4) if len(values) == 1 else f"{len(values)} values"


def _verdict(found: InvariantSet, samples: Sequence[Sample], called: list[str] | None) -> str:
    """Say what came out: how many are solved and how closely, what the network answers on them, how usual they are."""
    attrs, solved = found.certificate.attrs, [one for one in samples if one.solved]
    goal = attrs["goal"]
    what = (
        f"the value {number(goal[0], 4)} of {found.objective}" if len(goal) == 1 else f"the values of {found.objective}"
    )
    many = count(len(samples), "sample")
    if not solved:
        residuals = found.certificate.residual.values
        known = residuals[np.isfinite(residuals)]
        nearest = f"the nearest is {number(float(known.min()))} away" if len(known) else "none has a value to compare"
        return f"None of {many} reached {what}: {nearest}, and the tolerance is {number(attrs['tolerance'])}."
    worst, spread = float(found.certificate.residual.values[found.solved].max()), float(attrs["spread"])
    closely = f", {number(worst / spread, 2)} of its spread over data" if spread > 0 else ""
    said = [f"{len(solved):,} of {many} take {what} that the query takes, to within {number(worst, 2)}{closely}."]
    if called is not None:
        others = [one.answer for one in solved if one.other]
        kinds = listing(sorted(set(others)))
        told = f"; {len(others):,} of these it answers otherwise, as {kinds}" if others else ", and on all of these"
        said.append(f"The network answers {called[0]} on the query{told}.")
    quantile = found.certificate["latent_quantile"].values[found.solved]
    odd = int(((quantile < _UNUSUAL) | (quantile > 1 - _UNUSUAL)).sum())
    if odd:
        said.append(
            f"{odd:,} of them {'is' if odd == 1 else 'are'} unusual for the prior: longer or shorter than "
            f"{percent(1 - _UNUSUAL)} of its draws."
        )
    return " ".join(said)
