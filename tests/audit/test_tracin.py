"""TracIn is a special case of the audit: plain SGD on full batches, Euler's rule, a checkpoint before every step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ExponentialLR
from torch.utils.data import TensorDataset

import whence
from tests.audit.training import blobs, tanh_net, trained
from whence.runs import ModelState

captum = pytest.importorskip(
    "captum.influence", reason='captum, which these scores are compared with, comes with pip install ".[baselines]"'
)
pytestmark = pytest.mark.filterwarnings(
    "ignore:Input Tensor 0 did not already require gradients:UserWarning"  # captum asks for gradients of its inputs
)

COUNT, STEPS, RATE, FALL = 12, 6, 0.2, 0.8
RELATIVE = 1e-9  # of each score: float64 rounds at 1e-16 of the largest, and the smallest is some 1e-2 of that
LAYERS = ("0", "2", "4")
Checkpoint = tuple[ModelState, float]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> whence.Run:
    return full_batch_run(tmp_path_factory.mktemp("runs") / "run", tanh_net())


@pytest.fixture(scope="module")
def shares(run: whence.Run) -> Any:
    return whence.audit(run, blobs(5, seed=1), quadrature="euler", by="layer").influence


def full_batch_run(path: Path, model: nn.Module) -> whence.Run:
    """Train with plain SGD, whose rate falls, on full batches: an epoch is a step."""
    optimizer = SGD(model.parameters(), RATE)
    falling = ExponentialLR(optimizer, FALL)
    return trained(path, model, optimizer, blobs(COUNT), epochs=STEPS, batch_size=COUNT, scheduler=falling)


def checkpoints(run: whence.Run) -> list[Checkpoint]:
    """Return the state before every step with the rate of that step."""
    assert run.steps == STEPS
    return [(run.state_at(step), RATE * FALL**step) for step in range(STEPS)]


def load(model: nn.Module, checkpoint: Checkpoint) -> float:
    """Load a state, tell its rate: captum's own way of loading takes every rate for 1."""
    state, rate = checkpoint
    model.load_state_dict({**state.parameters, **state.buffers})
    return rate


def as_shares(scores: torch.Tensor) -> NDArray[np.float64]:
    """Return TracIn's sum over checkpoints of η g·g' as shares of the change of a loss: -η/|B| g·g'."""
    assert scores.dtype == torch.float64
    found: NDArray[np.float64] = (-scores / COUNT).detach().numpy()
    return found


def tracin(run: whence.Run, *, in_batches: bool, layers: list[str] | None = None) -> NDArray[np.float64]:
    """Return captum's scores; its two ways to per-example gradients each need a reduction of their own."""
    scorer = captum.TracInCP(
        tanh_net(),
        TensorDataset(*blobs(COUNT)),
        checkpoints(run),
        load,
        layers=layers,
        loss_fn=nn.CrossEntropyLoss(reduction="sum" if in_batches else "none"),
        batch_size=5,
        sample_wise_grads_per_batch=in_batches,
    )
    return as_shares(scorer.influence(blobs(5, seed=1)))


@pytest.mark.parametrize("in_batches", [False, True], ids=["one by one", "in batches"])
def test_euler_with_plain_sgd_on_full_batches_is_captums_tracin(in_batches: bool, run: whence.Run, shares: Any) -> None:
    theirs = tracin(run, in_batches=in_batches)
    np.testing.assert_allclose(shares.sum("layer").values, theirs, rtol=RELATIVE, atol=0)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("in_batches", [False, True], ids=["one by one", "in batches"])
def test_shares_of_one_layer_are_captums_tracin_over_that_layer(
    in_batches: bool, layer: str, run: whence.Run, shares: Any
) -> None:
    assert tuple(shares.coords["layer"].values) == LAYERS
    theirs = tracin(run, in_batches=in_batches, layers=[layer])
    np.testing.assert_allclose(shares.sel(layer=layer).values, theirs, rtol=RELATIVE, atol=0)


@pytest.mark.parametrize("bias", [False, True], ids=["without bias", "with bias"])
def test_shares_of_a_last_layer_are_captums_fast_tracin_which_leaves_out_its_bias(bias: bool, tmp_path: Path) -> None:
    def net() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3, bias=bias)).double()

    run, model = full_batch_run(tmp_path / "run", net()), net()
    scorer = captum.TracInCPFast(
        model, model[2], TensorDataset(*blobs(COUNT)), checkpoints(run), load, nn.CrossEntropyLoss(reduction="sum"), 5
    )
    theirs = as_shares(scorer.influence(blobs(5, seed=1)))
    of_bias = share_of_bias(run, net()) if bias else 0.0
    ours = whence.audit(run, blobs(5, seed=1), quadrature="euler", by="layer").influence.sel(layer="2").values
    np.testing.assert_allclose(ours, theirs + of_bias, rtol=RELATIVE, atol=0)


def share_of_bias(run: whence.Run, model: nn.Module) -> NDArray[np.float64]:
    """Return -η/|B| of the errors' products: the gradient of a last bias is softmax minus the label."""
    found = np.zeros((5, COUNT))
    for checkpoint in checkpoints(run):
        rate = load(model, checkpoint)
        own, rows = (errors(model, *blobs(count, seed=seed)) for count, seed in ((5, 1), (COUNT, 0)))
        found -= rate / COUNT * own @ rows.T
    return found


def errors(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> NDArray[np.float64]:
    with torch.no_grad():
        found: NDArray[np.float64] = (model(x).softmax(1) - nn.functional.one_hot(y, 3)).numpy()
    return found
