"""Recorded runs of several networks and optimizers, and slow references for their path kernels."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from tests.attribution.networks import Data, data, network, one_by_one
from tests.audit.training import trained
from whence.runs import Run

OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "momentum": lambda model: SGD(model.parameters(), lr=0.05, momentum=0.9),
    "adam": lambda model: Adam(model.parameters(), lr=0.01, eps=1e-4),
}


def recorded(folder: Path, kind: str = "perceptron", optimizer: str = "adam") -> Run:
    """Return a run of 9 steps in 3 epochs of a network in float64."""
    model = network(kind)
    return trained(folder / "run", model, OPTIMIZERS[optimizer](model), data(kind, 12))


def model_at(run: Run, step: int) -> nn.Module:
    """Return the model as it stood after some steps."""
    model, state = copy.deepcopy(run.model).eval(), run.state_at(step)
    live = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        for name, value in (*state.parameters.items(), *state.buffers.items()):
            live[name].copy_(value)
    return model.requires_grad_(True)


def gradients_at(run: Run, step: int, examples: Data) -> Tensor:
    """Return every example's flattened loss gradient after some steps, by autograd one at a time."""
    return one_by_one(model_at(run, step), examples)


def weights_at(run: Run, step: int) -> Tensor:
    """Return, entry by entry, what the step that led to a state (or the first) made of a gradient at once."""
    made = max(step, 1)
    state, record = run.training_state_at(made).optimizer, run.record_of(made - 1)
    found = {}
    for group in record.settings:
        for name in group.names:
            like, rate = run.state_at(made).parameters[name], group.options["lr"]
            if run.manifest.optimizer == "SGD":
                found[name] = torch.full_like(like, rate)
            else:
                root = (state[name]["exp_avg_sq"] / (1 - 0.999**made)).sqrt() + group.options["eps"]
                found[name] = rate * (1 - 0.9) / (1 - 0.9**made) / root
    return torch.cat([found[name].flatten() for name, _ in run.model.named_parameters()])


def features(run: Run, steps: Sequence[int], examples: Data, *, preconditioner: bool) -> Tensor:
    """Return the path features √A_t g(t) of every example, (steps, examples, parameters)."""
    rows = []
    for step in steps:
        gradients = gradients_at(run, step, examples)
        rows.append(gradients * weights_at(run, step).sqrt() if preconditioner else gradients)
    return torch.stack(rows)


def agree(found: Any, expected: Any, *, rtol: float = 1e-10, atol: float = 1e-14) -> None:
    """Compare, by default up to the rounding of sums of a few hundred products in float64 (each below 2^-44)."""
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=rtol, atol=atol)
