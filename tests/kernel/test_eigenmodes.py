"""Modes of a kernel give back its sums."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from tests.attribution.networks import data
from tests.kernel.reference import agree, features, recorded
from whence._errors import ArgumentError, ShapeError
from whence.kernel import eigenmodes, mode_sums, path_kernel
from whence.runs import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return recorded(tmp_path_factory.mktemp("modes"))


def test_all_modes_recover_the_sums_of_the_kernel_for_its_examples_and_for_new_points(run: Run) -> None:
    examples, points = data("perceptron", 12), data("perceptron", 5, seed=1)
    kernel = path_kernel(run, examples)["kernel"]
    modes = eigenmodes(kernel)
    agree(mode_sums(modes), kernel.sum("target"), rtol=1e-9, atol=1e-12 * float(abs(kernel).max()))
    columns = path_kernel(run, points, examples)["kernel"]
    agree(mode_sums(modes, columns), columns.sum("other"), rtol=1e-9, atol=1e-12 * float(abs(columns).max()))
    assert modes.attrs["kept"] == 1
    assert modes.attrs["error"] < 1e-12


def test_a_new_points_loading_is_the_root_of_the_eigenvalue_times_the_right_singular_vector(run: Run) -> None:
    examples, points = data("perceptron", 12), data("perceptron", 5, seed=1)
    ours, theirs = (
        features(run, (3, 6, 9), one, preconditioner=True).transpose(0, 1).flatten(1) for one in (examples, points)
    )
    u, s, vt = torch.linalg.svd(ours, full_matrices=False)
    modes = eigenmodes(path_kernel(run, examples)["kernel"], k=4)
    agree(modes["value"], s[:4] ** 2, rtol=1e-8)
    column = path_kernel(run, points, examples)["kernel"].values
    agree(abs(column @ modes["vector"].values), (s[:4] * (theirs @ vt[:4].T)).abs(), rtol=1e-6, atol=1e-10)
    agree(abs(modes["vector_sum"]), u[:, :4].sum(0).abs(), rtol=1e-6, atol=1e-9)


def test_fewer_modes_say_what_they_miss(run: Run) -> None:
    kernel = path_kernel(run, data("perceptron", 12))["kernel"]
    some, values = eigenmodes(kernel, k=2), np.linalg.eigvalsh(kernel.values)
    assert some.attrs["kept"] == pytest.approx(values[-2:].sum() / values.sum())
    sums = kernel.values.sum(0)
    missed = np.linalg.norm(mode_sums(some).values - sums) / np.linalg.norm(sums)
    assert some.attrs["error"] == pytest.approx(missed)
    assert 0 < missed < 1


def test_a_kernel_that_has_no_eigenmodes_is_refused(run: Run, tmp_path: Path) -> None:
    both = path_kernel(run, data("perceptron", 4, seed=1), run.examples)["kernel"]
    with pytest.raises(ShapeError, match="examples among themselves"):
        eigenmodes(both)
    with pytest.raises(ArgumentError, match="not symmetric"):
        eigenmodes(xr.DataArray([[1.0, 2.0], [0.0, 1.0]], dims=("target", "other")))
    with pytest.raises(ArgumentError, match="1 entries of this kernel are no finite numbers"):
        eigenmodes(xr.DataArray([[1.0, np.nan], [0.0, 1.0]], dims=("target", "other")))
    alone = path_kernel(run, data("perceptron", 4, seed=1))["kernel"]
    with pytest.raises(ArgumentError, match=r"`k` is how many modes to keep, 1 to 4; got 5"):
        eigenmodes(alone, k=5)
    with pytest.raises(ShapeError, match="with the 4 examples of the modes as others"):
        mode_sums(eigenmodes(alone), both)
