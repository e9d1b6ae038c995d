"""Why one target is answered as it is: the training examples, layers and epochs behind it (the paper's figures 2-4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray

from whence.audit import Audit
from whence.counterfactual import Repair
from whence.report.answers import Answers
from whence.report.figures import Figure
from whence.report.indistinct import Indistinct
from whence.report.influences import class_figure, profile_figure, sorted_figure
from whence.report.listed import Listed, Ranking, entries
from whence.report.maps import Mapped
from whence.report.others import Ranked
from whence.report.repair import repair_ranking, repair_story
from whence.report.traced import Traced
from whence.report.words import count, label_name, listing, number, percent, short_unit, signed

_CLASSES_LISTED = 5


@final
@dataclass(frozen=True)
class Explanation:
    """Everything the page shows of one chosen target.

    Attributes:
        key: Unique in the page.
        name: Id of the target, as in the audit.
        index: Which of the targets' examples it is.
        true: What its label is called.
        predicted: What the answer is called, or None when the task is not classification.
        wrong: Whether the answer is wrong.
        chances: The likeliest classes and the true one: name, probability in words, in percent.
        story: Sentences that say how it came about.
        rankings: Lists of training examples; empty if the audit summed them by label.
        figures: The plots.
        others: The lists of other methods, if any were asked.
        mapped: Training images with the regions that mattered, if they were asked.
        seen: The target with what its logit rests on in itself, by the name of the method, as data URIs.
        traced: What a provenance network takes it for, if one was given.
        indistinct: Inputs on which the network answers the same, if they were looked for.
        origin: What kind of input it is, where targets were made and not taken as they are.
    """

    key: str
    name: str
    index: int
    true: str
    predicted: str | None
    wrong: bool
    chances: tuple[tuple[str, str, float], ...]
    story: tuple[str, ...]
    rankings: tuple[Ranking, ...]
    figures: tuple[Figure, ...]
    others: tuple[Ranked, ...] = ()
    mapped: tuple[Mapped, ...] = ()
    seen: tuple[tuple[str, str], ...] = ()
    traced: Traced | None = None
    indistinct: Indistinct | None = None
    origin: str = ""

    @property
    def all_rankings(self) -> tuple[Ranking, ...]:
        """Every list of training examples, of the audit and of other methods."""
        return (*self.rankings, *(ranking for one in self.others for ranking in one.rankings))


@final
class Explainer:
    """Explains targets of one audit.

    Args:
        audit: The audit.
        answers: What the trained model answers on the targets' examples.
        ids: Which of the targets' examples were asked, in the order of ``answers``.
        labels: Label of every example of the targets.
        names: What classes are called, if that is known.
        k: How many training examples to list.
        layers: What layers are called, by their name in the audit; those left out keep it.
    """

    def __init__(
        self,
        audit: Audit,
        answers: Answers,
        ids: Sequence[int],
        labels: Any,
        names: Sequence[str] | None,
        k: int,
        layers: Mapping[str, str] | None = None,
    ) -> None:
        self._layers = layers or {}
        self._audit, self._answers, self._labels, self._names, self._k = audit, answers, labels, names, k
        self._row_of = {index: row for row, index in enumerate(ids)}
        self._unit = short_unit(audit.unit)

    def explain(self, position: int, index: int, repair: Repair | None = None) -> Explanation:
        """Return the explanation of the audit's row ``position``, which is the targets' example ``index``.

        Args:
            position: The row.
            index: The example.
            repair: What to remove so that the answer becomes right, if that was asked.
        """
        target = self._audit.influence.coords["target"].values[position]
        key, row = f"t{position}", self._row_of[index]
        true = label_name(self._labels[index], self._names)
        predicted: str | None = None
        predicted_class: int | None = None
        chances: tuple[tuple[str, str, float], ...] = ()
        wrong = False
        if self._answers.predicted is not None and self._answers.labels is not None:
            predicted_class = int(self._answers.predicted[row])
            wrong = predicted_class != int(self._answers.labels[row])
            predicted, chances = label_name(predicted_class, self._names), self._chances(row)
        total = self._audit.total(target) if "train" in self._audit.influence.dims else None
        rankings = () if total is None else self._rankings(key, total, predicted_class, predicted)
        story = self._story(position, total, rankings, true, predicted if wrong else None)
        if repair is not None:
            story = (*story, *repair_story(repair, true))
            rankings = (*rankings, repair_ranking(key, repair, self._train_labels(), self._names))
        figures = self._figures(key, position, total)
        return Explanation(key, str(target), index, true, predicted, wrong, chances, story, rankings, figures)

    def _train_labels(self) -> Any:
        coords = self._audit.influence.coords
        return coords["train_label"].values if "train_label" in coords else None

    def _chances(self, row: int) -> tuple[tuple[str, str, float], ...]:
        if self._answers.probabilities is None or self._answers.labels is None:
            return ()
        chances = self._answers.probabilities[row]
        shown = chances.argsort(descending=True)[:_CLASSES_LISTED].tolist()
        true = int(self._answers.labels[row])
        shown = shown if true in shown else [*shown[:-1], true]
        return tuple(
            (label_name(one, self._names), percent(float(chances[one])), round(100 * float(chances[one]), 1))
            for one in shown
        )

    def _rankings(
        self, key: str, total: xr.DataArray, predicted_class: int | None, predicted: str | None
    ) -> tuple[Ranking, ...]:
        values = total.values.astype(np.float64) * self._audit.helps
        labels = total.coords["train_label"].values if "train_label" in total.coords else None
        largest = float(np.abs(values).max()) or 1.0
        asked: list[tuple[str, str, NDArray[np.int64]]] = [("all", "", np.arange(values.size))]
        if labels is not None and predicted_class is not None:
            same = np.flatnonzero(labels == predicted_class)
            asked.append(("class", f" labelled {predicted}", same))
        found = []
        for group, words, members in asked:
            ends = (("helpful", 1, "Least harmful"), ("harmful", -1, "Least helpful"))
            for kind, sign, otherwise in ends:
                listed = self._ranked(total, values, labels, members[sign * values[members] > 0], sign, largest)
                title, note = f"Most {kind} examples{words}", common_labels(listed, bool(words))
                if not listed and words:  # the paper's contrast within a class, where all of it had one sign
                    listed = self._ranked(total, values, labels, members, sign, largest)
                    title, note = f"{otherwise} examples{words}", f"None of them was {kind}; these come closest."
                found.append(Ranking(f"{key}-{group}-{kind}", title, note, listed))
        return tuple(found)

    def _ranked(
        self,
        total: xr.DataArray,
        values: Float[np.ndarray, " train"],
        labels: Any,
        members: NDArray[np.int64],
        sign: int,
        largest: float,
    ) -> tuple[Listed, ...]:
        strong = members[np.argsort(-sign * values[members], kind="stable")][: self._k]
        chosen = None if labels is None else labels[strong]
        return entries(total.isel(train=strong), self._audit.helps, largest, chosen, self._names)

    def _story(
        self, position: int, total: xr.DataArray | None, rankings: tuple[Ranking, ...], true: str, instead: str | None
    ) -> tuple[str, ...]:
        audit, unit = self._audit, self._unit
        change = float(audit.data["true_change"].values[position])
        residual = float(audit.data["residual"].isel(target=position).sum())
        start = end = None
        if "course" in audit.data:
            start, end = (float(audit.data["course"].values[position, at]) for at in (0, -1))
        quantity = str(audit.data.attrs.get("quantity", "quantity"))
        span = f" from {number(start)} to {number(end)} {unit}" if start is not None and end is not None else ""
        verb = "rose" if change > 0 else "fell"
        story = [f"Over training its {quantity} {verb}{span or f' by {number(abs(change))} {unit}'}."]
        if total is None:
            return tuple(story)
        values = total.values.astype(np.float64)
        helped = float(values[values * audit.helps > 0].sum())
        harmed = float(values[values * audit.helps < 0].sum())
        rest = f"; what no example did, {signed(residual)}" if abs(residual) > 1e-6 * abs(change) else ""
        story.append(f"Helpful examples add up to {signed(helped)}, harmful ones to {signed(harmed)} {unit}{rest}.")
        story.append(_concentration(values))
        if instead is not None:
            story.extend(blame(rankings, true, instead))
        return tuple(story)

    def _figures(self, key: str, position: int, total: xr.DataArray | None) -> tuple[Figure, ...]:
        found = []
        if total is not None:
            found.append(sorted_figure(key, total, self._unit, self._audit.helps))
        by_class = class_figure(key, self._audit, position, total, self._names)
        if by_class is not None:
            found.append(by_class)
        if "profile" in self._audit.data:
            found.append(profile_figure(key, self._profile(position), self._unit, self._audit.helps))
        return tuple(found)

    def _profile(self, position: int) -> xr.DataArray:
        """Return the target's influence by layer and epoch, its layers named for a reader."""
        found = self._audit.profile.isel(target=position).load()
        if "layer" not in found.coords:
            return found
        return found.assign_coords(layer=[self._layers.get(str(one), str(one)) for one in found.coords["layer"].values])


def common_labels(listed: tuple[Listed, ...], one_class: bool = False) -> str:
    """Say which labels a list holds most."""
    if not listed:
        return "There are none."
    if one_class or not listed[0].label:
        return ""
    labels = Counter(one.label for one in listed)
    most = max(labels.values())
    tied = [name for name, many in labels.items() if many == most]
    if len(listed) == 1:
        return f"It is labelled {tied[0]}."
    if most == 1:
        return "No two have the same label."
    if len(tied) == 1:
        return f"{most} of {len(listed)} are labelled {tied[0]}."
    return f"Of {len(listed)}, {most} each are labelled {listing(tied)}."


def _concentration(values: Float[np.ndarray, " train"]) -> str:
    """Say how many examples carry half of the influence (figure 2, right)."""
    sizes = np.sort(np.abs(values))[::-1]
    if not sizes.sum():
        return "No training example had any influence on it."
    half = int(np.searchsorted(np.cumsum(sizes), sizes.sum() / 2)) + 1
    return (
        f"Half of all influence, counted without signs, comes from {count(half, 'training example')} "
        f"of {values.size:,} ({percent(half / values.size)})."
    )


def blame(rankings: tuple[Ranking, ...], true: str, instead: str) -> list[str]:
    """Say which labels stand behind a wrong answer."""
    harmful = next((one.listed for one in rankings if one.key.endswith("all-harmful")), ())
    if not harmful or not harmful[0].label:
        return []
    labels = Counter(one.label for one in harmful)
    answered = f"{_labelled(labels[instead])} {instead}, the model's answer"
    right = f"{_labelled(labels[true])} {true}, the true class"
    if len(harmful) == 1:
        return [f"The only harmful example is labelled {harmful[0].label}."]
    return [f"Of the {len(harmful):,} most harmful examples, {answered}; {right}."]


def _labelled(many: int) -> str:
    return f"{many or 'none'} {'are' if many > 1 else 'is'} labelled"
