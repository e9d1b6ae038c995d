"""What the page says of a repair: which examples to remove, and what becomes of the answer."""

from __future__ import annotations

from typing import Any

from whence.counterfactual import Outcome, Repair
from whence.report.listed import Listed, Ranking
from whence.report.words import count, label_name, number, signed


def repair_ranking(key: str, repair: Repair, labels: Any, names: Any) -> Ranking:
    """Return the list of the examples to remove."""
    outcome = repair.removal
    largest = max(map(abs, outcome.effects), default=0.0) or 1.0
    listed = tuple(
        Listed(
            one,
            label_name(labels[one], names) if labels is not None else "",
            signed(effect),
            signed(effect, 2),
            max(2, round(100 * abs(effect) / largest)),
            False,
        )
        for one, effect in zip(outcome.ids, outcome.effects, strict=True)
    )
    note = "Under each: by how much the margin is predicted to grow without it."
    return Ranking(f"{key}-remove", "Examples to remove", note, listed)


def repair_story(repair: Repair, true: str) -> tuple[str, ...]:
    """Return sentences on what removing does to the margin of a target's true class over the best other."""
    begun = (
        f"Its margin, the logit of {true} minus the largest other, is {number(repair.margin)}. Without the "
        f"{count(len(repair.removal.ids), 'example')} listed under “Examples to remove” it is predicted to be "
        f"{number(repair.removal.predicted)}{_proof(repair.removal, true)}."
    )
    if repair.flip is None:
        return (begun, "No set of up to half of the training examples is predicted to turn the answer right.")
    turned = (
        f"The smallest set predicted to turn the answer right has {count(len(repair.flip.ids), 'example')}"
        f"{_proof(repair.flip, true)}."
    )
    return begun, turned


def _proof(outcome: Outcome, true: str) -> str:
    if outcome.retrained is None:
        return ""
    answer = f"the answer is then {true}" if outcome.retrained > 0 else f"the answer is still not {true}"
    return f"; after training again without them it is {number(outcome.retrained)}, and {answer}"
