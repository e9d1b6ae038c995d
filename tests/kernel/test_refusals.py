"""Wrong values are refused in words: what was given, what would do, what to do next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr

from tests.attribution.networks import data
from tests.kernel.reference import recorded
from whence._errors import ArgumentError, LabelError, ShapeError, WhenceError
from whence.kernel import (
    at_step,
    class_margin,
    coefficients,
    eigenmodes,
    extremes,
    gradient_tensor,
    hidden_top_k,
    input_sensitivity,
    logit_margin,
    max_softmax,
    mode_sums,
    modes,
    modes_for_energy,
    online_modes,
    participation_ratio,
    path_features,
    path_kernel,
    similarity,
    similarity_norm,
    time_kernel,
)
from whence.runs import Run

TARGETS = data("perceptron", 6, seed=1)
TIMES = r"`times` is a number of states, or a list of steps .* 0 to 9, the steps of this run; got "
BUDGET = r"`memory_budget` is a whole number of bytes, at least 1; got 0"
SEED = r"`seed` is a whole number, at least 0; got -1"
Call = Callable[[Run], Any]

REFUSED: dict[str, tuple[Call, type[WhenceError], str]] = {
    "a time after the end": (lambda run: path_kernel(run, TARGETS, times=[10]), ArgumentError, TIMES + r"\[10\]"),
    "a time before the start": (lambda run: path_features(run, TARGETS, 8, times=[-1]), ArgumentError, TIMES),
    "a time twice": (lambda run: time_kernel(run, TARGETS, times=[3, 3]), ArgumentError, TIMES + r"\[3, 3\]"),
    "more times than steps": (
        lambda run: gradient_tensor(run, TARGETS, times=10),
        ArgumentError,
        r"`times` asks for 10 states of the run, which has 9 steps: give 1 to 9",
    ),
    "times in words": (
        lambda run: path_kernel(run, TARGETS, times="step"),
        ArgumentError,
        r"`times` is 'epoch', a number of states, or a list of steps; got 'step'",
    ),
    "an id that is not there": (
        lambda run: path_kernel(run, TARGETS, ids=[6]),
        ArgumentError,
        r"`ids` must name some of the 6 targets \(0\.\.5\), each once; got \[6\]",
    ),
    "an axis that is none": (
        lambda run: path_kernel(run, TARGETS, by="epoch"),
        ArgumentError,
        r"`by` takes 'time' and 'layer', each at most once; got 'epoch'",
    ),
    "a layer that is not there": (
        lambda run: path_kernel(run, TARGETS, layers=["9"]),
        LabelError,
        r"No layer '9' in the model",
    ),
    "a kernel without labels": (
        lambda run: path_kernel(run, TARGETS[0]),
        ArgumentError,
        r"no labels\. .*a loss needs a label .* or labels='predicted' to take the class",
    ),
    "coefficients without labels": (
        lambda run: coefficients(modes(run, count=2), run, TARGETS[0]),
        ArgumentError,
        r"no labels\. .* or labels='predicted'",
    ),
    "sensitivities without labels": (
        lambda run: input_sensitivity(modes(run, count=2), run, TARGETS[0]),
        ArgumentError,
        r"no labels\. .* or labels='predicted'",
    ),
    "no budget for a kernel": (lambda run: path_kernel(run, TARGETS, memory_budget=0), ArgumentError, BUDGET),
    "no budget for modes": (lambda run: modes(run, count=2, memory_budget=0), ArgumentError, BUDGET),
    "no budget for online modes": (lambda run: online_modes(run, 2, memory_budget=0), ArgumentError, BUDGET),
    "no budget for neighbours": (lambda run: hidden_top_k(run, TARGETS, memory_budget=0), ArgumentError, BUDGET),
    "a seed of modes": (lambda run: modes(run, count=2, seed=-1), ArgumentError, SEED),
    "a seed of online modes": (lambda run: online_modes(run, 2, seed=-1), ArgumentError, SEED),
    "a seed of sketches": (lambda run: path_features(run, TARGETS, 8, seed=-1), ArgumentError, SEED),
    "a width below 1": (
        lambda run: path_features(run, TARGETS, -1),
        ArgumentError,
        r"`width` is how many numbers to keep of each example, at least 1; got -1",
    ),
    "a step after the end": (lambda run: at_step(run, 10), WhenceError, r"10"),
    "negative modes": (
        lambda run: eigenmodes(path_kernel(run, TARGETS)["kernel"], -1),
        ArgumentError,
        r"`k` is how many modes to keep, 1 to 6; got -1",
    ),
    "negative neighbours": (
        lambda run: hidden_top_k(run, TARGETS, k=-1),
        ArgumentError,
        r"`k` is how many training examples of each class to average over, at least 1; got -1",
    ),
    "one target without its dim": (
        lambda run: similarity(path_kernel(run, TARGETS).isel(target=0)),
        ArgumentError,
        r"has \('other',\)\. To choose one target, give a list of one: kernel\.sel\(target=\[3\]\)",
    ),
    "a norm of something else": (
        lambda _run: similarity_norm(xr.DataArray(np.ones(3), dims="target")),
        ArgumentError,
        r"Similarities have a dim 'other', the training data; these have \('target',\)",
    ),
    "a margin by layer": (
        lambda run: class_margin(similarity(path_kernel(run, TARGETS, by="layer")), TARGETS[1], TARGETS[1]),
        ShapeError,
        r"Sum the kernel over time and layers first",
    ),
    "no logits": (
        lambda run: max_softmax(path_kernel(run, TARGETS)),
        ArgumentError,
        r"of a model's logits; got a Dataset without\. Give answers\(run, targets\)",
    ),
    "no logits for a margin": (
        lambda run: logit_margin(path_kernel(run, TARGETS)),
        ArgumentError,
        r"Give answers\(run, targets\)",
    ),
    "sums by no modes": (
        lambda run: mode_sums(path_kernel(run, TARGETS)),
        ArgumentError,
        r"take the dataset of eigenmodes\(\); got another Dataset",
    ),
    "extremes of no map": (
        lambda run: extremes(similarity(path_kernel(run, TARGETS)), TARGETS[1], 0),
        ShapeError,
        r"`places` are those of layout\(\), dims \('example', 'axis'\); got \('target', 'other'\)",
    ),
    "shares that are no list": (
        lambda run: modes_for_energy(modes(run, count=2), 0.9),
        ArgumentError,
        r"`shares` is a list of shares of the energy, such as \[0\.9, 0\.99\]; got 0\.9",
    ),
    "an epoch that has no modes": (
        lambda run: online_modes(run, 2, epochs=[0]),
        ArgumentError,
        r"1 to 2 \(those learnt at the end are kept anyway, .* has none\); got \[0\]",
    ),
    "weights that are no numbers": (
        lambda _run: participation_ratio(["a"]),
        ArgumentError,
        r"Weights of a participation ratio are numbers; got \['a'\]",
    ),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return recorded(tmp_path_factory.mktemp("refusals"))


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_values_are_refused_in_words(run: Run, name: str) -> None:
    call, kind, words = REFUSED[name]
    with pytest.raises(kind, match=words):
        call(run)
