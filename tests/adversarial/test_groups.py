"""Attacked inputs are wrong and near, random ones as far; groups keep inputs that belong together side by side."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from tests.adversarial.small import digits, network
from whence._errors import ArgumentError, AttackError, ShapeError
from whence.adversarial import Groups, agreement, attack, outcomes, random_like
from whence.runs import Run


def test_adversarial_inputs_are_answered_wrongly_within_the_size_and_clean_ones_rightly(
    run: Run, groups: Groups
) -> None:
    found = outcomes(run, groups)["right"]
    assert found.sel(group="clean").all()
    assert not found.sel(group="adversarial").any()
    change = groups.change("adversarial")
    assert float(change.abs().max()) <= 0.2 + 1e-12
    assert float(groups.inputs["adversarial"].min()) >= 0
    assert float(groups.inputs["adversarial"].max()) <= 1
    inputs, labels = digits("test", 100)
    torch.testing.assert_close(groups.inputs["clean"], inputs[list(groups.ids)], rtol=0, atol=0)
    assert groups.labels.tolist() == labels[list(groups.ids)].tolist()


def test_a_seed_gives_the_same_attack_again(run: Run, groups: Groups) -> None:
    again = attack(run, digits("test", 100), count=4, epsilon=0.2, bounds=(0.0, 1.0))
    assert again.ids == groups.ids
    for name in groups.names:
        torch.testing.assert_close(again.inputs[name], groups.inputs[name], rtol=0, atol=0)


@pytest.mark.parametrize("method", ["l2-pgd", "linf-fgsm", "deepfool"])
def test_every_attack_by_name_finds_inputs_answered_wrongly(run: Run, method: str) -> None:
    found = attack(run, digits("test", 60), count=2, method=method, epsilon=2.0 if method == "l2-pgd" else 0.3)
    assert not outcomes(run, found)["right"].sel(group="adversarial").any()


def test_a_random_change_is_as_long_as_the_one_it_stands_beside() -> None:
    inputs, changes = torch.zeros(5, 2, 3, dtype=torch.float64), torch.arange(30.0, dtype=torch.float64).view(5, 2, 3)
    moved = random_like(inputs, changes, (-1e3, 1e3)) - inputs
    torch.testing.assert_close(moved.flatten(1).norm(dim=1), changes.flatten(1).norm(dim=1), rtol=1e-12, atol=0)
    assert float((moved - changes).abs().max()) > 1


def test_groups_are_split_as_their_data_is_joined(groups: Groups) -> None:
    inputs, labels = groups.data
    values = xr.DataArray(inputs.numpy(), dims=("target", "pixel"))
    split = groups.split(values, "target")
    assert split.dims == ("group", "example", "pixel")
    for name in groups.names:
        np.testing.assert_array_equal(split.sel(group=name), groups.inputs[name])
    assert labels.tolist() == groups.labels.tolist() * 3


def test_a_change_taken_back_has_cosine_minus_one(groups: Groups) -> None:
    back = groups.with_group("back", groups.inputs["clean"])
    np.testing.assert_allclose(agreement(back, "adversarial", "back"), -1, rtol=1e-12)


def test_groups_that_do_not_fit_are_refused(groups: Groups) -> None:
    with pytest.raises(ArgumentError, match="a group 'random' already"):
        groups.with_group("random", groups.inputs["clean"])
    with pytest.raises(ShapeError, match=r"has the shape \(4, 64\)"):
        groups.with_group("new", groups.inputs["clean"][:2])
    with pytest.raises(ArgumentError, match="No group 'dirty'; the groups are clean, random, adversarial"):
        groups.only(["dirty"])
    with pytest.raises(ShapeError, match="have 12 entries along 'target'; got 5"):
        groups.split(xr.DataArray(np.zeros(5), dims="target"), "target")


def test_an_attack_that_finds_too_little_says_how_little_and_what_to_do(run: Run) -> None:
    with pytest.raises(AttackError, match=r"found 0 adversarial .* at most 1e-09, fewer than 3, in the 20 examples"):
        attack(run, digits("test", 20), count=3, epsilon=1e-9)


def test_examples_without_classes_cannot_be_attacked(run: Run) -> None:
    inputs, _ = digits("test", 10)
    with pytest.raises(ArgumentError, match="needs one class an example"):
        attack(run, (inputs, torch.rand(10)), count=1)
    words = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 2))
    with pytest.raises(ArgumentError, match="one floating-point tensor"):
        attack(words, (torch.zeros(4, 2, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)), count=1)


def test_arguments_of_an_attack_are_checked(run: Run) -> None:
    data = digits("test", 10)
    with pytest.raises(ArgumentError, match=r"`method` is 'linf-pgd', .*; got 'magic'"):
        attack(run, data, count=1, method="magic")
    with pytest.raises(ArgumentError, match="`epsilon` is the largest change"):
        attack(run, data, count=1, epsilon=0.0)
    with pytest.raises(ArgumentError, match="`bounds` are the least and the greatest"):
        attack(run, data, count=1, bounds=(1.0, 0.0))
    with pytest.raises(ArgumentError, match="at least 1; got 0"):
        attack(run, data, count=0)


def test_a_model_that_is_attacked_stays_as_it_was() -> None:
    model = network().train()
    attack(model, digits("test", 100), count=1, epsilon=0.5)
    assert model.training
    assert all(one.grad is None and one.requires_grad for one in model.parameters())
