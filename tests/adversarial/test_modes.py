"""Regime, differences and cancellation of modes against all gradients written out in float64."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.adversarial.small import TRAIN, gradients
from whence._errors import ArgumentError
from whence.adversarial import (
    Groups,
    cancellation_ratio,
    first_modes,
    kernel_regime,
    loss_over_time,
    mode_coefficients,
    mode_concentration,
    mode_differences,
    modes_over_time,
)
from whence.kernel import Modes, as_trained, at_step, modes
from whence.kernel.matrix import GradientMatrix
from whence.runs import Run


@pytest.fixture(scope="module")
def found(run: Run) -> Modes:
    return modes(run, count=TRAIN - 1, iterations=3)


def test_with_all_modes_the_push_on_an_input_is_its_gradient_along_that_of_the_training_set(
    run: Run, groups: Groups, found: Modes
) -> None:
    trained = as_trained(run)
    train, inputs = gradients(trained, *run.examples.batch(range(TRAIN))), gradients(trained, *groups.data)
    values = mode_coefficients(found, run, groups)
    pushed = (values * found.drive.numpy()).sum("mode").values.reshape(-1)
    # one mode is left out: Φᵀ1 may have up to σ_M √M in it
    left = float(torch.linalg.svdvals(train)[-1]) * TRAIN**0.5
    expected = inputs @ train.sum(0)
    np.testing.assert_allclose(pushed, expected, rtol=0, atol=1.01 * left * float(inputs.norm(dim=1).max()) + 1e-10)


def test_the_cancellation_ratio_is_net_over_gross_mode_by_mode(run: Run, groups: Groups, found: Modes) -> None:
    values = mode_coefficients(found, run, groups)
    ratio = cancellation_ratio(found, values)
    pushes = values.values * found.drive.numpy()
    for count in (1, 2, 17):
        net, gross = abs(pushes[..., :count].sum(-1)), abs(pushes[..., :count]).sum(-1)
        np.testing.assert_allclose(ratio.sel(modes=count), net / gross, rtol=1e-10)
    np.testing.assert_allclose(ratio.sel(modes=1), 1, rtol=1e-12)
    assert float(ratio.min()) >= 0
    assert float(ratio.max()) <= 1 + 1e-12


def test_differences_of_modes_are_those_of_their_coefficients(run: Run, groups: Groups, found: Modes) -> None:
    values = mode_coefficients(found, run, groups)
    apart = mode_differences(found, values)
    trained = as_trained(run)
    change = gradients(trained, groups.inputs["adversarial"], groups.labels) - gradients(
        trained, groups.inputs["clean"], groups.labels
    )
    expected = change @ found.directions.T
    np.testing.assert_allclose(apart["difference"], expected.mean(0), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(apart["size"], expected.abs().mean(0), rtol=1e-6, atol=1e-9)
    with pytest.raises(ArgumentError, match="No group 'dirty'"):
        mode_differences(found, values, of="dirty")


def test_at_the_end_a_run_is_in_its_own_regime_and_before_by_how_much_it_is(run: Run) -> None:
    ids = list(range(0, TRAIN, 4))
    found = kernel_regime(run, times=[0, run.steps], ids=ids, rank=3)
    for name in ("gradients", "subspace", "activations"):
        assert float(found[name][-1]) == pytest.approx(1, abs=1e-9)
    first, last = at_step(run, 0), at_step(run, run.steps)
    x, y = run.examples.batch(ids)
    ours, theirs = gradients(first, x, y), gradients(last, x, y)
    assert float(found["gradients"][0]) == pytest.approx(float(F.cosine_similarity(ours, theirs).mean()), abs=1e-10)
    spans = [torch.linalg.svd(one, full_matrices=False)[2][:3] for one in (ours, theirs)]
    angles = torch.linalg.svdvals(spans[0] @ spans[1].T)
    # subspace iteration leaves an error of (σ_4/σ_3)^4 an iteration and more dimensions than modes
    assert float(found["subspace"][0]) == pytest.approx(float(angles.mean()), abs=1e-3)
    seen = [one.model[:2](x).detach() for one in (first, last)]  # type: ignore[index]
    assert float(found["activations"][0]) == pytest.approx(float(F.cosine_similarity(*seen).mean()), abs=1e-12)


def test_the_regime_holds_gradients_in_blocks_that_fit_the_budget(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, sizes = list(range(0, TRAIN, 2)), []
    whole = kernel_regime(run, times=[0], ids=ids, rank=3)
    before = GradientMatrix.blocks

    def watched(self: GradientMatrix, advance: Any) -> Iterator[Any]:
        for part, block in before(self, advance):
            sizes.append(block.untyped_storage().nbytes())
            yield part, block

    monkeypatch.setattr(GradientMatrix, "blocks", watched)
    found = kernel_regime(run, times=[0], ids=ids, rank=3, memory_budget=400_000)
    assert max(sizes) <= 100_000  # where all gradients take 608,000 bytes
    for name in ("gradients", "subspace", "activations"):
        np.testing.assert_allclose(found[name], whole[name], rtol=1e-9)


@pytest.mark.parametrize("times", [[13], [-1], [], [4, 4]])
def test_times_that_are_no_states_of_the_run_are_refused(run: Run, groups: Groups, times: list[int]) -> None:
    asked = (
        lambda: kernel_regime(run, times=times),
        lambda: loss_over_time(run, groups, times=times),
        lambda: modes_over_time(run, groups, times=times, count=2),
    )
    for one in asked:
        with pytest.raises(ArgumentError, match=r"`times` is .* each once: 0 to 12, the steps of this run; got \["):
            one()


def test_modes_over_time_are_those_of_each_state(run: Run, groups: Groups) -> None:
    ids = list(range(60))
    course = modes_over_time(run, groups, times=[4, run.steps], count=5, sensitive=2, ids=ids)
    for step in (4, run.steps):
        own = modes(run, step=step, count=5, ids=ids)
        values = mode_coefficients(own, run, groups)
        here = course.sel(time=step)
        np.testing.assert_allclose(here["cancellation"], cancellation_ratio(own, values), rtol=1e-8)
        np.testing.assert_allclose(here["energy"], (values**2).sum("mode"), rtol=1e-8)
        assert float(here["captured"]) == pytest.approx(float(own.captured[-1]))
    assert course["raw"].sizes["mode"] == 2


def test_concentration_is_told_of_drive_change_and_their_product(run: Run, groups: Groups, found: Modes) -> None:
    few = first_modes(found, 8)
    values = mode_coefficients(few, run, groups)
    told = mode_concentration(few, run, groups, values)
    apart = mode_differences(few, values)
    drive, change = abs(apart["drive"].values), apart["size"].values
    product = drive * change
    assert told["participation_drive"] == pytest.approx(drive.sum() ** 2 / (drive**2).sum())
    assert told["participation_product"] == pytest.approx(product.sum() ** 2 / (product**2).sum())
    assert told["share_of_top_5"] == pytest.approx(np.sort(product)[-5:].sum() / product.sum())
    with pytest.raises(ArgumentError, match="9 modes are asked for, and 8 were found"):
        first_modes(few, 9)
