"""Which targets the page explains, and what it refuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from whence._errors import ArgumentError, AuditError, LabelError
from whence.audit import Audit
from whence.datasets import Examples
from whence.report.answers import Answerer, Answers
from whence.report.explain import Explanation
from whence.report.words import count
from whence.runs import Run

_MOST = 24  # targets explained, unless the caller chooses
_RIGHT = 6  # right answers among them, where there is room


def refuse_another_run(run: Run, attrs: Mapping[Any, Any], what: str = "audit", verb: str = "audit") -> None:
    """Check that an audit, or an evaluation, is of a run as it stands.

    Args:
        run: The run.
        attrs: What the audit or the evaluation says of itself.
        what: What it is called.
        verb: How such a thing is made.

    Raises:
        AuditError: If it is of another run, or says of none.
    """
    its = attrs.get("run_identity")
    if its is None:
        raise AuditError(f"The {what} does not say of which run it is. Give one of {run.path}: {verb} that.")
    if its != run.identity:
        raise AuditError(
            f"The {what} is of another run: {attrs.get('run')} ({its}), not {run.path} ({run.identity}). "
            f"Give the run of the {what}, or {verb} this one."
        )
    if attrs["steps"] != run.steps:
        raise AuditError(
            f"The {what} covers the first {attrs['steps']} steps of {run.path}, which has gone on to "
            f"{run.steps} since. {verb.capitalize()} it again: the page is about the end of the run."
        )


def choice_said(explanations: Sequence[Explanation], answers: Answers) -> str:
    """Say which targets were chosen."""
    wrong = sum(one.wrong for one in explanations)
    others = len(explanations) - wrong
    if answers.accuracy is None or answers.labels is None:
        return f"{count(len(explanations), 'target')}, of {len(answers.losses):,}."
    mistakes = round((1 - answers.accuracy) * len(answers.losses))
    shown = f"{wrong:,} of {count(mistakes, 'wrong prediction')}"
    return f"{shown} and {others:,} right {'one' if others == 1 else 'ones'}." if others else f"{shown}."


def example_indices(audit: Audit, targets: Examples) -> list[int]:
    """Return which of the targets' examples each row of the audit is about.

    Raises:
        ArgumentError: If there are rows about examples that the targets do not have, or the targets are others.
    """
    coordinate = audit.influence.coords["target"]
    known = audit.data.coords.get("example", coordinate).values
    found = [int(one) for one in known] if np.issubdtype(known.dtype, np.integer) else list(range(known.size))
    if found and not 0 <= min(found) <= max(found) < len(targets):
        raise ArgumentError(
            f"The audit is about targets {min(found)} to {max(found)}, but {len(targets)} targets were given. "
            "Give the examples that were audited, in the same order."
        )
    audited = audit.data.attrs.get("targets_fingerprint")
    if audited != targets.fingerprint:
        raise ArgumentError(
            f"The targets given are not the audited ones (fingerprint {targets.fingerprint}, audited {audited}). "
            "Give the examples that were audited: same values, types and order."
        )
    return found


def wrong_of(answers: Answers, asked: Sequence[int]) -> set[int]:
    """Return which of the examples asked were answered wrongly; none when the task is not classification."""
    if answers.labels is None or answers.predicted is None:
        return set()
    return {
        index for index, right in zip(asked, (answers.labels == answers.predicted).tolist(), strict=True) if not right
    }


def wrong_answers(run: Run, targets: Examples) -> list[int]:
    """Return which targets a run answers wrongly at its end, largest loss first.

    Raises:
        ArgumentError: If there are none, or the task is not classification.
    """
    ids = list(range(len(targets)))
    answers = Answerer(run).at(run.steps, targets, ids)
    if answers.predicted is None:
        raise ArgumentError("The task is not classification, so no answer is wrong. Name the targets to look at.")
    wrong = wrong_of(answers, ids)
    if not wrong:
        raise ArgumentError(f"All {len(ids)} targets are answered rightly. Name the targets to look at.")
    return sorted(wrong, key=lambda one: -float(answers.losses[one]))


def positions_of(audit: Audit, chosen: Sequence[Any]) -> list[int]:
    """Return the rows of the audit that a caller chose by id.

    Raises:
        LabelError: If a chosen target was not audited.
    """
    known = {str(one): position for position, one in enumerate(audit.influence.coords["target"].values)}
    missing = [one for one in chosen if str(one) not in known]
    if missing:
        raise LabelError(
            f"No target id {missing[0]!r} among the {len(known)} audited. See audit.influence.coords['target']."
        )
    return [known[str(one)] for one in chosen]


def worth_explaining(answers: Answers, asked: list[int], indices: list[int]) -> list[int]:
    """Choose wrong answers, largest loss first, then the least certain right ones."""
    losses = dict(zip(asked, answers.losses.tolist(), strict=True))
    order = sorted(range(len(indices)), key=lambda position: -losses[indices[position]])
    if answers.labels is None or answers.predicted is None:
        return order[:_MOST]
    wrong = wrong_of(answers, asked)
    mistakes = [position for position in order if indices[position] in wrong][:_MOST]
    others = [position for position in order if indices[position] not in wrong]
    return [*mistakes, *others[: max(_RIGHT if not mistakes else 0, min(_RIGHT, _MOST - len(mistakes)))]]
