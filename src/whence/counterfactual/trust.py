"""How smooth a training is: its derivative beside the slopes that really training again gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from whence.counterfactual.question import Question
from whence.runs import ModelState, Run

STEPS = (0.02, 0.1)
"""By how much the weights of a set are lowered, in turn."""
SHARE = 20
"""A set is one of so many parts of the training data."""
_SMOOTH, _ROUGH = 0.1, 0.5  # relative errors of the prediction that end "smooth" and begin "not smooth"


def measure(
    run: Run, question: Question, effects: NDArray[Any], sets: int, dtype: torch.dtype, *, removed: bool
) -> dict[str, Any]:
    """Compare effects with slopes of training again on random sets of examples.

    Args:
        run: The run.
        question: What was asked.
        effects: The effects, (results, train).
        sets: How many random sets.
        dtype: In which to compute the quantities.
        removed: Whether they are of whole removals, and not derivatives at weight 1: the sets are then left out.

    Returns:
        Attributes of the result: ``smoothness``, the error of the predicted change relative to the measured ones
        (sum of absolute values over results and sets) for each step, and ``verdict`` in words.
    """
    count = len(run.examples)
    begun = question.values(run, run.state_at(run.steps), dtype).numpy()
    steps = (1.0,) if removed else STEPS
    errors = dict.fromkeys(steps, 0.0)
    sizes = dict.fromkeys(steps, 0.0)
    for seed in range(sets):
        chosen = np.random.default_rng(seed).choice(count, max(1, count // SHARE), replace=False)
        predicted = effects[:, chosen].sum(1)
        for step in steps:
            state: ModelState = run.retrain(weights={int(one): 1.0 - step for one in chosen})
            slope = (question.values(run, state, dtype).numpy() - begun) / step
            errors[step] += float(np.abs(slope - predicted).sum())
            sizes[step] += float(np.abs(slope).sum())
    found = [errors[step] / sizes[step] if sizes[step] else float(errors[step] != 0) for step in steps]
    return {"smoothness": found, "smoothness_steps": list(steps), "verdict": verdict(found, sets, steps)}


def verdict(errors: list[float], sets: int, steps: tuple[float, ...] = STEPS) -> str:
    """Say in words what the measured errors mean."""
    told = ", ".join(
        f"by {error:.1%} when {'they are left out' if step == 1.0 else f'weights fall by {step:.0%}'}"
        for error, step in zip(errors, steps, strict=True)
    )
    told = (
        f"on {sets} random set{'' if sets == 1 else 's'} of 1/{SHARE} of the training data, the predicted change is "
        f"off from the retrained one {told}"
    )
    good, bad = ("good", "poor") if steps == (1.0,) else ("smooth", "not smooth")
    if not all(error < _ROUGH for error in errors):  # also of an error that is no number
        return f"{bad}: {told}. Trust signs and order only as far as whence.check shows."
    if max(errors) < _SMOOTH:
        return f"{good}: {told}."
    return f"{'fair' if good == 'good' else 'somewhat smooth'}: {told}. Check what you rely on with whence.check."


def not_measured() -> dict[str, Any]:
    """Return the attributes of a result whose smoothness was not measured."""
    return {"smoothness": [], "smoothness_steps": [], "verdict": "not measured (smoothness=0)"}
