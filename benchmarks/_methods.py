"""The methods that are compared, with the settings that each is tuned over; ours and the plain ones are made here."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

import whence
from benchmarks import _peers as peers
from benchmarks._peers import Case, Scores, Settings, over_checkpoints
from benchmarks._scores import grad_dot, gradients_of

CHECKPOINTS = 10
HALVED, TWENTIETHS = 2, 20  # parts held out


@dataclass(frozen=True)
class Method:
    """A way to score training examples.

    Attributes:
        score: Gives a matrix (targets, train) for each setting.
        settings: What it is tuned over.
        several: Whether it is also averaged over trainings with other seeds, where these matter.
    """

    score: Callable[[Case, Settings], Scores]
    settings: Settings
    several: bool


def grid(**choices: Sequence[Any]) -> Settings:
    """Return every combination of the choices, under a name that says it."""
    rows = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
    return {", ".join(f"{key} {value}" for key, value in row.items()) or "-": row for row in rows}


def methods(network: str, track: str) -> dict[str, Method]:
    """Return the methods by name, for one of the networks and tracks.

    Twenty parts held out are trainings without 5 % each; where a half is left out, two parts stand beside them.
    """
    checkpoints = grid(checkpoints=(10, 5, 1))
    dimensions = (512, 2048) if network == "lr" else (512,)  # 2,048 of a larger network take too long on two cores
    projected = grid(dimensions=dimensions, regularization=(0.0, 1.0, 10.0, 1e2, 1e3, 1e4, 1e5))
    damped = (1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    solved = grid(regularization=(1e-2, 3e-2, 1e-1, 1.0), max_iter=(10, 30))
    return {
        "Whence, counterfactual": Method(derivative, grid(), True),
        **{
            f"Whence, counterfactual, {parts} parts held out": Method(partial(held_out, parts), grid(), True)
            for parts in ((HALVED, TWENTIETHS) if track == "A" else (TWENTIETHS,))
        },
        "Whence, audit": Method(audit, grid(), False),
        "grad-dot": Method(plain_grad_dot, grid(), True),
        "input path similarity": Method(similarity, checkpoints, False),
        "captum TracInCPFast, last layer": Method(peers.tracin_last_layer, checkpoints, True),
        "captum TracInCP, all layers": Method(peers.tracin, checkpoints, False),
        "kronfluence EK-FAC": Method(peers.kronfluence_ekfac, grid(damping=(None, *damped)), True),
        "dattri EK-FAC": Method(peers.dattri_ekfac, grid(damping=damped), True),
        "dattri EK-FAC, repaired": Method(peers.dattri_ekfac_repaired, grid(damping=damped), True),
        "dattri conjugate gradients": Method(peers.dattri_cg, solved, True),
        "TRAK, 1 model": Method(peers.trak_of_one, projected, False),
        "TRAK, 10 models": Method(peers.trak, projected, False),
    }


def derivative(case: Case, settings: Settings) -> Scores:
    """The derivative of the recorded training in the examples' weights."""
    effects = whence.counterfactual(case.run, case.targets, smoothness=0)
    return dict.fromkeys(settings, effects.values)


def held_out(parts: int, case: Case, settings: Settings) -> Scores:
    """The same with outputs from trainings without each example."""
    effects = whence.counterfactual(case.run, case.targets, smoothness=0, held_out=parts)
    return dict.fromkeys(settings, effects.values)


def audit(case: Case, settings: Settings) -> Scores:
    """What each example did to the target in the recorded training."""
    return dict.fromkeys(settings, -whence.audit(case.run, case.targets).influence.values)


def plain_grad_dot(case: Case, settings: Settings) -> Scores:
    """The products of the loss gradients at the end."""
    return dict.fromkeys(settings, grad_dot(case.model(), case.data, case.targets))


def similarity(case: Case, settings: Settings) -> Scores:
    """Input path similarity (Path Loss Gradient Kernel, normalised), the path being the checkpoints."""
    parts: list[Scores] = []
    model = case.make()
    for state in case.checkpoints:
        model.load_state_dict(state)
        ours = torch.cat(list(gradients_of(model, case.targets)))
        theirs = [(ours @ part.T, (part**2).sum(1)) for part in gradients_of(model, case.data)]
        parts.append({
            "kernel": case.rate * torch.cat([product for product, _ in theirs], 1).numpy(),
            "targets": case.rate * (ours**2).sum(1).numpy(),
            "train": case.rate * torch.cat([norm for _, norm in theirs]).numpy(),
        })  # fmt: skip
    sums = {name: over_checkpoints([part[name] for part in parts], settings) for name in parts[0]}
    return {
        name: sums["kernel"][name] / np.sqrt(np.outer(sums["targets"][name], sums["train"][name])) for name in settings
    }


def accuracy(model: nn.Module, tests: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Return the share of right answers."""
    with torch.no_grad():
        return float((model(tests[0]).argmax(1) == tests[1]).double().mean())
