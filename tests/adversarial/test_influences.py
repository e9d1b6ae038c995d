"""Net influence is the change of the loss, gross influence its parts without signs, at every epoch and layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

from tests.adversarial.small import EPOCHS, TRAIN
from whence._errors import ArgumentError, ShapeError
from whence.adversarial import (
    Groups,
    audit_groups,
    influence_agreement,
    influence_over_time,
    loss_over_time,
    path_profile,
    perturbation_path,
)
from whence.audit import Audit, audit
from whence.runs import Run


@pytest.fixture(scope="module")
def audited(run: Run, groups: Groups) -> Audit:
    return audit_groups(run, groups, quadrature="gauss3")


def test_net_influence_up_to_an_epoch_is_the_change_of_the_loss(run: Run, groups: Groups, audited: Audit) -> None:
    found = influence_over_time(audited.influence, groups)
    losses = loss_over_time(run, groups)
    whole = losses.isel(time=-1) - losses.isel(time=0)
    error = float(abs(audited.completeness.error).max())
    np.testing.assert_allclose(found["cumulative_net"].isel(epoch=-1), whole, rtol=0, atol=1.1 * error + 1e-12)
    assert error < 1e-4


def test_net_and_gross_are_sums_over_examples_with_and_without_signs(groups: Groups, audited: Audit) -> None:
    found = influence_over_time(audited.influence, groups)
    values = audited.influence.transpose("target", "train", "layer", "epoch").values
    np.testing.assert_allclose(
        found["gross"].transpose("group", "example", "layer", "epoch").values.reshape(12, -1, EPOCHS),
        np.abs(values).sum(1),
        rtol=1e-12,
    )
    course = np.abs(values.sum(2).cumsum(2)).sum(1)
    np.testing.assert_allclose(found["cumulative_gross"].values.reshape(12, EPOCHS), course, rtol=1e-12)
    assert (found["gross"] >= abs(found["net"]) - 1e-15).all()
    assert (found["cumulative_gross"] >= abs(found["cumulative_net"]) - 1e-15).all()


def test_influences_three_times_as_large_agree_with_slope_three(groups: Groups) -> None:
    clean = np.random.default_rng(0).normal(size=(4, TRAIN, 1))
    values = np.concatenate([clean, clean, -3 * clean])
    influence = xr.DataArray(values, dims=("target", "train", "epoch"))
    found = influence_agreement(influence, groups)
    np.testing.assert_allclose(found["slope"], -3)
    np.testing.assert_allclose(found["ratio"], 3)
    np.testing.assert_allclose(found["correlation"], -1)
    np.testing.assert_allclose(found["fraction_larger"], 1)


def test_a_path_runs_straight_from_clean_to_adversarial(groups: Groups) -> None:
    inputs, labels = perturbation_path(groups, 2, points=5)
    clean, attacked = groups.inputs["clean"][2], groups.inputs["adversarial"][2]
    for place, one in enumerate(inputs):
        torch.testing.assert_close(one, clean + place / 4 * (attacked - clean), rtol=0, atol=1e-15)
    assert labels.tolist() == [int(groups.labels[2])] * 5


def test_the_profile_of_a_path_ends_at_the_whole(run: Run, groups: Groups) -> None:
    line = perturbation_path(groups, points=3)
    influence = audit(run, line, by="epoch").influence
    found = path_profile(influence)
    np.testing.assert_allclose(found["share"].isel(epoch=-1), 1, rtol=1e-12)
    expected = abs(influence.sum("epoch")).sum("train")
    np.testing.assert_allclose(found["total"], expected, rtol=1e-12)
    assert found.position.values.tolist() == [0, 0.5, 1]


def test_influences_that_keep_too_little_apart_are_refused(run: Run, groups: Groups) -> None:
    plain = audit(run, groups.data).influence
    with pytest.raises(ArgumentError, match="keeps epochs and training examples apart"):
        influence_over_time(plain, groups)
    with pytest.raises(ArgumentError, match="A path has at least 2 points"):
        path_profile(plain)
    with pytest.raises(ArgumentError, match="without 'label' in `by`"):
        influence_agreement(audit(run, groups.data, by="label").influence, groups)
    with pytest.raises(ArgumentError, match="one of the 4 examples; got 3 points, place 4"):
        perturbation_path(groups, 4, points=3)


def test_influences_on_other_inputs_are_refused_before_they_are_read(run: Run, groups: Groups) -> None:
    influence = audit(run, groups.data, by="epoch").influence
    for other in (influence.isel(target=slice(5)), influence.isel(target=[*range(12), 0])):
        for ask in (influence_over_time, influence_agreement):
            with pytest.raises(ShapeError, match=rf"are 12 targets, and this audit has {other.sizes['target']}\. Give"):
                ask(other, groups)
