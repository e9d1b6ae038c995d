"""Which classes are taken for which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from whence.report.answers import Answers
from whence.report.words import label_name, percent

_LARGEST = 20  # classes in the matrix; of more, the commonest confusions are listed instead
_LISTED = 20


@final
@dataclass(frozen=True)
class Cell:
    """How many targets of one class were answered as another, and how dark the cell is (0 to 100)."""

    many: int
    shade: int
    right: bool


@final
@dataclass(frozen=True)
class Confusion:
    """The confusion matrix, or with many classes the commonest confusions.

    Attributes:
        summary: What it shows, in a sentence.
        names: What the classes are called, along both axes; empty if there are too many.
        cells: Rows are true classes, columns answers.
        common: Otherwise: true class, answer, how many targets.
    """

    summary: str
    names: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]
    common: tuple[tuple[str, str, int], ...]


def confusion(answers: Answers, names: Sequence[str] | None) -> Confusion | None:
    """Return which classes the targets' answers mix up, or None when the task is not classification."""
    if answers.labels is None or answers.predicted is None:
        return None
    pairs = Counter(zip(answers.labels.tolist(), answers.predicted.tolist(), strict=True))
    mistakes = Counter({pair: many for pair, many in pairs.items() if pair[0] != pair[1]})
    total, wrong = sum(pairs.values()), sum(mistakes.values())
    summary = f"{total - wrong:,} of {total:,} targets ({percent((total - wrong) / total)}) are answered rightly."
    if mistakes:
        ((true, answer), many) = mistakes.most_common(1)[0]
        summary += (
            f" The commonest mistake: {label_name(true, names)} taken for {label_name(answer, names)}, "
            f"{many} {'time' if many == 1 else 'times'}."
        )
    classes = sorted({one for pair in pairs for one in pair})
    if len(classes) > _LARGEST:
        common = tuple(
            (label_name(true, names), label_name(answer, names), many)
            for (true, answer), many in mistakes.most_common(_LISTED)
        )
        return Confusion(summary, (), (), common)
    rows = tuple(tuple(_cell(pairs, true, answer) for answer in classes) for true in classes)
    return Confusion(summary, tuple(label_name(one, names) for one in classes), rows, ())


def _cell(pairs: Counter[tuple[int, int]], true: int, answer: int) -> Cell:
    """Shade a cell by the share of its kind: right answers among a class, mistakes on a scale of their own."""
    many = pairs[true, answer]
    if true == answer:
        whole = sum(found for (label, _), found in pairs.items() if label == true)
    else:
        whole = max(found for (label, other), found in pairs.items() if label != other) if many else 1
    return Cell(many, round(100 * many / whole) if whole else 0, true == answer)
