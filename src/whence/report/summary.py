"""What the run and the audit were, in a few words."""

from __future__ import annotations

from typing import Any

from whence.audit import Audit
from whence.report.answers import Answers
from whence.report.words import count, duration, percent
from whence.runs import Run


def summary(run: Run, audit: Audit, answers: Answers) -> str:
    """Say in two sentences what was trained and how it does on the targets."""
    trained = (
        f"{type(run.model).__name__} with {count(_size(run), 'trained parameter')} saw "
        f"{count(len(run.examples), 'training example')} in {count(run.steps, 'step')} over "
        f"{count(run.epochs, 'epoch')}."
    )
    targets = audit.influence.sizes["target"]
    if answers.accuracy is None:
        return f"{trained} The audit explains {count(targets, 'target')}."
    wrong = round((1 - answers.accuracy) * len(answers.losses))
    return (
        f"{trained} It answers {wrong:,} of {count(len(answers.losses), 'target')} wrongly; here is what taught it to."
    )


def run_facts(run: Run, audit: Audit, answers: Answers) -> tuple[tuple[str, str], ...]:
    """Return pairs of name and value about the run and the audit."""
    attrs: dict[Any, Any] = audit.data.attrs
    seconds = attrs.get("seconds")
    facts = [
        ("run", run.path.name),
        ("model", type(run.model).__name__),
        ("trained parameters", f"{_size(run):,}"),
        ("optimizer", run.manifest.optimizer),
        ("training examples", f"{len(run.examples):,}"),
        ("steps", f"{run.steps:,}"),
        ("epochs", f"{run.epochs:,}"),
        ("targets", f"{audit.influence.sizes['target']:,}"),
        ("accuracy on targets", percent(answers.accuracy) if answers.accuracy is not None else ""),
        ("audited quantity", str(attrs.get("quantity", ""))),
        ("audit took", duration(float(seconds)) if seconds is not None else ""),
    ]
    return tuple((name, value) for name, value in facts if value)


def layer_names(run: Run) -> dict[str, str]:
    """Return each module's name with its class beside it, such as ``0 Conv2d``: numbers alone say little."""
    return {name: f"{name} {type(module).__name__}" for name, module in run.model.named_modules() if name}


def _size(run: Run) -> int:
    parameters = dict(run.model.named_parameters(remove_duplicate=False))
    return sum(parameters[name].numel() for name in run.parameter_names)
