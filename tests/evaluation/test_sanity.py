"""Sanity tests give 1 where a method is perfect, chance where it is random, and shares that add up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from whence._errors import ArgumentError, ShapeError
from whence.attribution import label
from whence.evaluation import duplicates, identical_class, model_randomisation, reinitialised

TRAIN, TARGETS = np.arange(60) % 3, np.arange(9) % 3


def labelled(values: np.ndarray, helps: int = 1) -> xr.DataArray:
    return label(values, range(values.shape[0]), range(values.shape[1]), attributor="mine", unit="u", helps=helps)


def test_what_helps_only_its_class_is_perfect_and_chance_is_stated() -> None:
    same = (TRAIN[None] == TARGETS[:, None]).astype(float)
    found = identical_class({"same": labelled(same), "harm": labelled(same, helps=-1)}, TARGETS, TRAIN, tops=(1, 20))
    assert found.value("same", 1) == (1.0, 1.0, 1.0)
    assert found.value("same", 20).estimate == 1.0
    assert found.value("harm", 20).estimate == 0.0
    assert dict(found.references) == {"random examples": pytest.approx(1 / 3)}


def test_subclasses_are_told_apart_where_classes_are_not() -> None:
    parity = labelled((TRAIN[None] % 2 == TARGETS[:, None] % 2).astype(float))
    merged = identical_class(parity, TARGETS % 2, TRAIN % 2, tops=[10]).value("mine", 10).estimate
    apart = identical_class(parity, TARGETS, TRAIN, tops=[10]).value("mine", 10).estimate
    assert merged == 1.0
    assert apart < 1.0


def test_a_network_initialised_anew_has_other_weights_in_every_layer_and_the_old_one_is_as_it_was() -> None:
    model: Any = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight.fill_(7)
        model[1].running_mean.fill_(5)
    before, random = {name: one.clone() for name, one in model.state_dict().items()}, torch.random.get_rng_state()
    again: Any = reinitialised(model, seed=1)
    other: Any = reinitialised(model, seed=1)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(torch.equal(one, model.state_dict()[name]) for name, one in before.items())
    assert not torch.equal(other[0].weight, model[0].weight)
    assert not torch.equal(other[3].weight, model[3].weight)
    assert other[1].weight.tolist() == [1, 1]
    assert other[1].running_mean.tolist() == [0, 0]
    assert torch.equal(other[3].weight, again[3].weight)


def test_a_layer_without_an_initialisation_is_named() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

    with pytest.raises(ArgumentError, match=r"Layer '0' \(Odd\) cannot be initialised anew.*Give it one"):
        reinitialised(nn.Sequential(Odd()))


def test_what_ignores_the_weights_correlates_perfectly_and_what_flips_its_sign_perfectly_in_size() -> None:
    maps = np.random.default_rng(0).normal(size=(6, 4, 4))
    found = model_randomisation({"blind": maps, "flipped": maps}, {"blind": maps, "flipped": -maps})
    assert found.value("blind", "signed").estimate == pytest.approx(1)
    assert found.value("flipped", "signed").estimate == pytest.approx(-1)
    assert found.value("flipped", "absolute").estimate == pytest.approx(1)


def test_maps_of_one_target_are_drawn_together() -> None:
    """Copies of a target's map say nothing new: the interval stays that of the single maps."""
    rng = np.random.default_rng(1)
    one, other = rng.normal(size=(2, 12, 5, 5))
    single = model_randomisation({"map": one}, {"map": one + other}).value("map", "signed")
    copied = [{"map": np.repeat(values, 8, 0)} for values in (one, one + other)]
    together = model_randomisation(*copied, targets=np.repeat(range(12), 8)).value("map", "signed")
    apart = model_randomisation(*copied).value("map", "signed")
    np.testing.assert_allclose(together, single, rtol=1e-12)
    assert apart.high - apart.low < (single.high - single.low) / 2  # sqrt(8) is 2.8


def test_unrelated_scores_correlate_about_0() -> None:
    rng = np.random.default_rng(0)
    found = model_randomisation(labelled(rng.normal(size=(20, 50))), labelled(rng.normal(size=(20, 50))))
    assert abs(found.value("mine", "signed").estimate) < 0.1


def test_copies_that_share_evenly_get_one_over_their_number() -> None:
    once = np.random.default_rng(0).normal(size=(5, 8))
    shared = once.copy()
    shared[:, [0, 2, 3, 4]] = once[:, :1] / 4
    found = duplicates({"audit": labelled(shared)}, [[0, 2, 3, 4]], alone={"audit": labelled(once)})
    assert found.value("audit", "unevenness").estimate == 0.0
    assert found.value("audit", "copy / alone").estimate == pytest.approx(1 / 4)
    assert found.value("audit", "all / alone").estimate == pytest.approx(1)


def test_copies_that_do_not_share_evenly_are_seen() -> None:
    values = np.tile([1.0, 3.0, 9.0], (4, 1))
    assert duplicates(labelled(values), [[0, 1]]).value("mine", "unevenness").estimate == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda one: identical_class(one, TARGETS, TRAIN, tops=[61]), ArgumentError, r"`tops` .* 1 to 60; got \[61\]"),
        (
            lambda one: identical_class(one, TARGETS[:2], TRAIN),
            ShapeError,
            r"of 9 targets and 60 .* given for 2 and 60",
        ),
        (lambda one: model_randomisation({"a": one}, {"b": one}), ArgumentError, r"names of `trained`, \['a'\]; .*'b'"),
        (
            lambda one: model_randomisation(one, one, targets=[1]),
            ShapeError,
            r"one of each of 9 maps 'mine'; .* \(1,\)",
        ),
        (lambda one: model_randomisation(one, one[:2]), ShapeError, r"shape \(9, 60\), and \(2, 60\) with random"),
        (lambda one: duplicates(one, [[3]]), ArgumentError, r"at least two training ids each, no id twice; got \[3\]"),
        (lambda one: duplicates(one, [[3, 3]]), ArgumentError, r"training ids each, no id twice; got \[3, 3\]"),
        (lambda one: model_randomisation(one, one * np.nan), ArgumentError, r"'mine' must be finite numbers"),
        (
            lambda one: model_randomisation(one, one.assign_coords(train=range(1, 61))),
            ShapeError,
            r"'mine' is of other ids with random weights",
        ),
        (lambda one: duplicates(one, [[3, 99]]), ArgumentError, r"training ids each, no id twice; got \[3, 99\]"),
        (lambda one: duplicates(one, []), ArgumentError, r"groups of at least two training ids each; there is none"),
        (
            lambda one: duplicates(one, [[1, 2]], alone=one[:, :40]),
            ShapeError,
            r"ids of those with copies, \(9, 60\), in the same order; they have \(9, 40\)",
        ),
        (
            lambda one: duplicates(one, [[1, 2]], alone=one.assign_coords(train=range(1, 61))),
            ShapeError,
            r"'mine' of examples alone must have the targets and training ids",
        ),
        (lambda one: duplicates({"a": one}, [[1, 2]], alone={"b": one}), ArgumentError, r"names of `scores`, \['a'\]"),
    ],
)
def test_bad_arguments_are_named(call: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call(labelled(np.ones((9, 60))))  # type: ignore[operator]
