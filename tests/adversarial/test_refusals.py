"""Wrong values are refused in words: what was given, what would do, what to do next."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.adversarial.small import digits, network
from whence._errors import ArgumentError, ShapeError, WhenceError
from whence.adversarial import (
    Groups,
    Plan,
    Recipe,
    Study,
    attack,
    cancellation_ratio,
    cure,
    first_modes,
    influence_agreement,
    influence_over_time,
    kernel_regime,
    loss_over_time,
    mode_coefficients,
    mode_differences,
    modes_over_time,
    path_profile,
    perturbation_path,
    random_like,
    train_against,
    with_cure,
)
from whence.runs import Run

Call = Callable[[Run, Groups, Study], Any]
SHORT = Recipe(modes=2, steps=1)


def _with(plan: Plan, **changed: Any) -> Plan:
    """Return a plan with settings of any type, unchecked."""
    found = copy.copy(plan)
    vars(found).update(changed)
    return found


REFUSED: dict[str, tuple[Call, type[WhenceError], str]] = {
    "a seed below 0": (
        lambda run, groups, found: with_cure(groups, found.modes, run, recipe=SHORT, seed=-1),
        ArgumentError,
        r"`seed` is a whole number, at least 0; got -1",
    ),
    "a seed below 0 of a regime": (
        lambda run, _groups, _: kernel_regime(run, seed=-1),
        ArgumentError,
        r"`seed` is a whole number, at least 0; got -1",
    ),
    "a seed below 0 of a training": (
        lambda _run, _groups, _: train_against(
            network(), torch.optim.SGD(network().parameters(), 0.1), digits("train", 10), epochs=1, seed=-1
        ),
        ArgumentError,
        r"`seed` is a whole number, at least 0; got -1",
    ),
    "a budget of nothing": (
        lambda run, _groups, _: kernel_regime(run, memory_budget=0),
        ArgumentError,
        r"`memory_budget` is a whole number of bytes, at least 1; got 0",
    ),
    "bounds the wrong way round": (
        lambda _run, groups, _: random_like(groups.inputs["clean"], groups.inputs["clean"], (1.0, 0.0)),
        ArgumentError,
        r"least and the greatest value of an input, two finite numbers; got \(1\.0, 0\.0\)",
    ),
    "inputs of a cure that the model does not take": (
        lambda run, groups, found: cure(found.modes, run, groups.inputs["clean"][:, :3], recipe=SHORT),
        ArgumentError,
        r"cannot be called with these inputs \(torch\.float64 of shape \(1, 3\)\)",
    ),
    "a recipe that is none": (
        lambda _run, _groups, found: Plan.__post_init__(_with(found.plan, recipe="paper")),
        ArgumentError,
        r"A study's `recipe` is such as SMALLEST; got 'paper'",
    ),
    "bounds of a cure": (
        lambda run, groups, found: cure(found.modes, run, groups.inputs["clean"], recipe=SHORT, bounds=(1.0, 1.0)),
        ArgumentError,
        r"two finite numbers; got \(1\.0, 1\.0\)",
    ),
    "changes of other inputs": (
        lambda _run, groups, _: random_like(groups.inputs["clean"], groups.inputs["clean"][:, :3], (0.0, 1.0)),
        ShapeError,
        r"`changes` are one an input, of shape \(4, 64\); got \(4, 3\)",
    ),
    "what makes no attack": (
        lambda run, _groups, _: attack(run, digits("test", 20), count=1, method=lambda: 3),
        ArgumentError,
        r"makes an attack of foolbox when it is called; <lambda> made 3\. Give the attack's class",
    ),
    "no group of a name": (
        lambda _run, groups, _: groups.change("dirty"),
        ArgumentError,
        r"No group 'dirty'; the groups are clean, random, adversarial",
    ),
    "no dim of a name": (
        lambda run, groups, found: groups.split(mode_coefficients(found.modes, run, groups), "target"),
        ShapeError,
        r"No dim 'target' to split into groups; the array has group, example, mode",
    ),
    "coefficients in other modes": (
        lambda run, groups, found: cancellation_ratio(
            first_modes(found.modes, 3), mode_coefficients(found.modes, run, groups)
        ),
        ShapeError,
        r"These are 3 modes, and coefficients of dims .*'mode': 12\}\. Give the coefficients in these modes",
    ),
    "differences in other modes": (
        lambda run, groups, found: mode_differences(
            first_modes(found.modes, 3), mode_coefficients(found.modes, run, groups)
        ),
        ShapeError,
        r"These are 3 modes",
    ),
    "differences of no groups": (
        lambda run, groups, found: mode_differences(
            found.modes, mode_coefficients(found.modes, run, groups).isel(group=0, drop=True)
        ),
        ShapeError,
        r"between groups, along a dim 'group'; these coefficients have \('example', 'mode'\)",
    ),
    "no sensitive modes": (
        lambda run, groups, _: modes_over_time(run, groups, times=[4], count=3, sensitive=0),
        ArgumentError,
        r"`sensitive` is a number of modes, at least 1; got 0",
    ),
    "times that are not in the run": (
        lambda run, groups, _: modes_over_time(run, groups, times=[4, 99], count=3),
        ArgumentError,
        r"list of steps after which they stand, each once: 0 to 12, the steps of this run; got \[4, 99\]",
    ),
    "losses at times that are not in the run": (
        lambda run, groups, _: loss_over_time(run, groups, times=[-1]),
        ArgumentError,
        r"0 to 12, the steps of this run; got \[-1\]",
    ),
    "more modes than there are": (
        lambda _run, _groups, found: first_modes(found.modes, 13),
        ArgumentError,
        r"13 modes are asked for, and 12 were found\. Ask modes\(\) for more",
    ),
    "a path of one point": (
        lambda _run, groups, _: perturbation_path(groups, 4, points=1),
        ArgumentError,
        r"at least 2 points, from one of the 4 examples; got 1 points, place 4",
    ),
    "influences on one input": (
        lambda _run, groups, found: influence_over_time(found.audit.influence.isel(target=0), groups),
        ShapeError,
        r"are 12 targets, and this audit has no dim of them\. Give the influences on these groups",
    ),
    "agreement of influences on one input": (
        lambda _run, groups, found: influence_agreement(found.audit.influence.isel(target=0), groups),
        ShapeError,
        r"are 12 targets, and this audit has no dim of them",
    ),
    "a path of one input": (
        lambda _run, _groups, found: path_profile(found.audit.influence.isel(target=0)),
        ArgumentError,
        r"A path has at least 2 points, .* Audit perturbation_path\(\) with by='epoch'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_values_are_refused_in_words(run: Run, groups: Groups, studied: Study, name: str) -> None:
    call, kind, words = REFUSED[name]
    with pytest.raises(kind, match=words):
        call(run, groups, studied)


def test_examples_without_labels_are_refused_with_the_reason_and_a_way_out(run: Run) -> None:
    with pytest.raises(ArgumentError, match=r"inputs and no labels\. .* give its answers as labels: .*argmax\(1\)"):
        attack(run, digits("test", 20)[0], count=1)
