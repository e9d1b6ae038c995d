"""Modes followed along a run against decompositions of the written-out gradients of its batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.attribution.networks import one_by_one
from tests.audit.training import blobs, tanh_net, trained
from whence._errors import ArgumentError
from whence.kernel import online_modes
from whence.runs import Run

RATE = 20.0


def still(path: Path, *, epochs: int = 12, accumulate: int = 1) -> Run:
    """Return a run whose parameters do not move, so that every epoch has the same gradients."""
    model = tanh_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    return trained(path, model, optimizer, blobs(), epochs=epochs, batch_size=6, accumulate=accumulate)


def batch_gradients(run: Run, step: int, state: int | None = None) -> Tensor:
    """Return the written-out gradients of a step's batches, each divided by the size of its own, before some step."""
    model = tanh_net()
    model.load_state_dict(run.state_at(step if state is None else state).parameters)
    x, y = blobs()
    return torch.cat([one_by_one(model, (x[ids], y[ids])) / len(ids) for ids in run.record_of(step).batches])


def test_on_gradients_that_stay_the_modes_become_the_leading_subspace(tmp_path: Path) -> None:
    run = still(tmp_path / "run", epochs=30)
    found = online_modes(run, 2, rate=0.5)
    # every batch is weighed by its own energy, so the stationary matrix is that of batches of energy 1
    rows = [batch_gradients(run, step, state=0) for step in range(run.steps)]
    scaled = torch.cat([one / one.norm() for one in rows])
    leading = torch.linalg.svd(scaled, full_matrices=False)[2][:2]
    cosines = torch.linalg.svdvals(found.directions[30] @ leading.T)
    assert float(cosines.min()) > 0.99


def test_on_one_batch_the_modes_are_its_singular_vectors(tmp_path: Path) -> None:
    model = tanh_net()
    run = trained(tmp_path / "run", model, torch.optim.SGD(model.parameters(), 0.0), blobs(), epochs=40, batch_size=12)
    rows = batch_gradients(run, 0)
    _, values, v = torch.linalg.svd(rows, full_matrices=False)
    found = online_modes(run, 3, rate=RATE)
    # the angle to mode k falls in each step by (1 + γ s_next) / (1 + γ s_k), s being shares of the energy
    shares = values.square() / values.square().sum()
    ratio = float(((1 + RATE * shares[1:4]) / (1 + RATE * shares[:3])).max())
    cosines = (found.directions[40] * v[:3]).sum(1).abs()
    torch.testing.assert_close(cosines, torch.ones_like(cosines), rtol=0, atol=max(1e-12, 1e3 * ratio**80))
    last = found.singular_values.sel(epoch=39).values
    np.testing.assert_allclose(last, values[:3], rtol=1e-3)
    drive = np.abs(found.drive.sel(epoch=39).values)
    np.testing.assert_allclose(drive, (rows.sum(0) @ v[:3].T).abs(), rtol=1e-2, atol=1e-4)


def test_as_many_modes_as_the_gradients_have_dimensions_capture_all(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 3).double()
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    run = trained(tmp_path / "run", model, optimizer, blobs(), epochs=30, batch_size=6)
    # gradients are outer products of errors, which add up to 0 over three classes, and inputs with a bias: 2 x 4
    found = online_modes(run, 8, rate=2000.0)
    assert float(found.captured[-2:].min()) > 1 - 1e-6
    assert float(online_modes(run, 6, rate=2000.0).captured[-2:].min()) < 1 - 1e-6


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("budget", [1, 2**29])
def test_measures_are_those_of_the_modes_of_the_epoch_on_each_step(
    tmp_path: Path, accumulate: int, budget: int
) -> None:
    model = tanh_net()
    optimizer = torch.optim.SGD(model.parameters(), 0.3)
    run = trained(tmp_path / "run", model, optimizer, blobs(), epochs=4, batch_size=3, accumulate=accumulate)
    found = online_modes(run, 5, epochs=[2, 3], memory_budget=budget)
    assert sorted(found.directions) == [2, 3, 4]
    epochs = run.epoch_of_steps()
    for epoch in (2, 3):
        v = found.directions[epoch]
        torch.testing.assert_close(v @ v.T, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-13)
        steps = np.flatnonzero(epochs == epoch)
        rows = [batch_gradients(run, int(step)) for step in steps]
        if accumulate == 1:
            shares = [float((one @ v.T).norm() / one.norm()) for one in rows]
            np.testing.assert_allclose(found.captured.sel(step=steps), shares, rtol=1e-9)
            along = torch.cat(rows) @ v.T
            np.testing.assert_allclose(found.singular_values.sel(epoch=epoch), along.norm(dim=0), rtol=1e-9)
            np.testing.assert_allclose(found.drive.sel(epoch=epoch), along.sum(0), rtol=1e-9, atol=1e-12)
    assert found.captured.step.values.min() == np.flatnonzero(epochs == 1)[0]
    assert found.drive.sel(epoch=0).isnull().all()
    assert found.captured.attrs["unit"] == "share of the norm"


def test_every_so_many_steps_of_an_epoch_are_looked_at(tmp_path: Path) -> None:
    model = tanh_net()
    run = trained(
        tmp_path / "run", model, torch.optim.SGD(model.parameters(), 0.3), blobs(), epochs=3, batch_size=3
    )  # 4 steps an epoch
    assert online_modes(run, 2, every=3).captured.step.values.tolist() == [4, 7, 8, 11]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"count": 60}, r"1 to 59, the entries of the parameters; got 60"),
        ({"every": 0}, r"each step \(1\) or each so many; got 0"),
        ({"rate": 0.0}, r"a number above 0; got 0\.0"),
        ({"epochs": [0]}, r"1 to 1 .*the first epoch has none\); got \[0\]"),
        ({"epochs": [2]}, r"got \[2\]"),
    ],
)
def test_what_cannot_be_followed_is_refused_in_words(tmp_path: Path, arguments: dict[str, object], words: str) -> None:
    run = still(tmp_path / "run", epochs=2)
    with pytest.raises(ArgumentError, match=words):
        online_modes(run, **{"count": 2} | arguments)  # type: ignore[arg-type]
