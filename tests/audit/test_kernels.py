"""Audits by the compiled kernels and by torch's own operations are the same audits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

import whence
from tests.audit.test_completeness import OPTIMIZERS, ROUNDING, everything_explained_is_attributed
from tests.audit.training import blobs, tanh_net, trained
from tests.compiled.switch import without_kernels
from tests.compiled.test_walking import needs_compiler
from whence.audit import adjoints, blocks, products


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many numbers a target has in each thing that the kernels walked."""
    found: list[int] = []
    walk: Callable[..., None] = vars(adjoints)["walk"]

    def seen(blocks: Any, targets: Any, *others: Any) -> None:
        found.append(targets.rows.shape[2] * targets.columns.shape[2])
        walk(blocks, targets, *others)

    monkeypatch.setattr(adjoints, "walk", seen)
    return found


def in_weights(model: nn.Module) -> int:
    """Return how many numbers the weights of linear layers have: those with gradients that are outer products."""
    return sum(one.weight.numel() for one in model.modules() if isinstance(one, nn.Linear))


def both_agree(run: whence.Run, targets: Any, **options: Any) -> None:
    by_kernels = whence.audit(run, targets, **options)
    with without_kernels():
        by_torch = whence.audit(run, targets, **options)
    largest = float(np.abs(by_torch.data["influence"]).max())
    for name in ("influence", "residual", "profile"):
        np.testing.assert_allclose(by_kernels.data[name], by_torch.data[name], rtol=0, atol=ROUNDING * (1 + largest))


@needs_compiler
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_kernels_walk_every_optimizers_steps_as_torch_does(name: str, walked: list[int], tmp_path: Path) -> None:
    model = tanh_net()
    run = trained(tmp_path / "run", model, OPTIMIZERS[name](model.parameters()), blobs())
    both_agree(run, blobs(seed=1))
    assert sum(walked) == run.steps * in_weights(model)


@needs_compiler
@pytest.mark.parametrize("quadrature", ["euler", "trapezoid", "gauss3"])
def test_kernels_walk_accumulation_and_clipping_as_torch_does(
    quadrature: str, walked: list[int], tmp_path: Path
) -> None:
    model = tanh_net()

    def clip(_step: int) -> None:
        nn.utils.clip_grad_norm_(model.parameters(), 0.05)

    optimizer = AdamW(model.parameters(), 0.02, weight_decay=0.2)
    run = trained(tmp_path / "run", model, optimizer, blobs(24), batch_size=4, accumulate=2, after_backward=clip)
    both_agree(run, blobs(seed=1), quadrature=quadrature)
    assert sum(walked) == run.steps * in_weights(model)


@needs_compiler
def test_what_the_kernels_do_not_know_is_walked_by_torch(walked: list[int], tmp_path: Path) -> None:
    model = tanh_net()

    def clip(_step: int) -> None:
        nn.utils.clip_grad_value_([model[2].weight], 0.01)  # type: ignore[index]

    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.1, momentum=0.9), blobs(), after_backward=clip)
    both_agree(run, blobs(seed=1))
    assert sum(walked) == run.steps * (in_weights(model) - model[2].weight.numel())  # type: ignore[index]


@needs_compiler
def test_kernels_walk_weights_that_are_cut_into_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tanh_net()
    run = trained(tmp_path / "run", model, AdamW(model.parameters(), 0.02, weight_decay=0.5), blobs())
    expected = whence.audit(run, blobs(seed=1)).data["influence"]
    # the cut changes nothing but where the numbers lie
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 2 * 12 * 5 * 8)
    both_agree(run, blobs(seed=1))
    np.testing.assert_allclose(whence.audit(run, blobs(seed=1)).data["influence"], expected, rtol=0, atol=ROUNDING)


@needs_compiler
def test_gradients_of_many_positions_are_left_to_torch(
    walked: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tanh_net()
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.1, momentum=0.9), blobs())
    monkeypatch.setattr(adjoints, "_POSITIONS", 1)  # the trapezoid's have two
    both_agree(run, blobs(seed=1))
    assert not walked
    whence.audit(run, blobs(seed=1), quadrature="euler")
    assert walked


@needs_compiler
@pytest.mark.parametrize("positions", [1, 3])
def test_kernels_walk_convolutions_and_sequences_as_torch_does(positions: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = [nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 4, 2, padding=1), nn.Tanh(), nn.Linear(4, positions), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(4 * positions, 3)).double()
    run = trained(tmp_path / "run", model, AdamW(model.parameters(), 0.02, weight_decay=0.5), blobs())
    both_agree(run, blobs(seed=1))


@needs_compiler
def test_a_buffer_that_fades_away_is_carried_as_a_factor_that_never_underflows(tmp_path: Path) -> None:
    model = tanh_net()
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.05, momentum=0.01), blobs(), epochs=6)
    both_agree(run, blobs(seed=1))
    everything_explained_is_attributed(whence.audit(run, blobs(seed=1)))


@needs_compiler
def test_rounded_factors_are_multiplied_by_the_kernels_unless_torch_is_faster_with_them(
    walked: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tanh_net(dtype=torch.float32)
    data, targets = blobs(dtype=torch.float32), blobs(seed=1, dtype=torch.float32)
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.1, momentum=0.9), data)
    monkeypatch.setattr(products, "_no_slower", lambda low, high: False)
    first = whence.audit(run, targets, precision="mixed")
    assert sum(walked) == run.steps * in_weights(model)
    walked.clear()
    monkeypatch.setattr(products, "_no_slower", lambda low, high: True)
    second = whence.audit(run, targets, precision="mixed")
    assert not walked
    largest = float(np.abs(first.data["influence"]).max())
    # the second rounds the sensitivities and each product to bfloat16, too
    np.testing.assert_allclose(first.data["influence"], second.data["influence"], rtol=0, atol=2.0**-6 * largest)
