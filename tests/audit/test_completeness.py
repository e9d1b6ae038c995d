"""The audit gives everything it explains to examples and residuals, for every optimizer and training option."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

import whence
from tests.audit.training import blobs, tanh_net, trained

Make = Callable[[Iterator[nn.Parameter]], Optimizer]

OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: SGD(p, 0.1),
    "sgd, maximize": lambda p: SGD(p, 0.02, maximize=True),
    "momentum": lambda p: SGD(p, 0.05, momentum=0.9),
    "dampened": lambda p: SGD(p, 0.05, momentum=0.9, dampening=0.5, weight_decay=0.1),
    "nesterov, decay": lambda p: SGD(p, 0.05, momentum=0.8, nesterov=True, weight_decay=0.1),
    "rmsprop": lambda p: RMSprop(p, 0.01, weight_decay=0.1),
    "rmsprop, centered, momentum": lambda p: RMSprop(p, 0.01, centered=True, momentum=0.5, eps=1e-3),
    "adagrad": lambda p: Adagrad(p, 0.05, lr_decay=0.1, weight_decay=0.1),
    "adam": lambda p: Adam(p, 0.02),
    "adam, coupled decay": lambda p: Adam(p, 0.02, weight_decay=0.3),
    "adam, amsgrad": lambda p: Adam(p, 0.02, amsgrad=True),
    "adamw": lambda p: AdamW(p, 0.02, weight_decay=0.5),
    "adamw, maximize": lambda p: AdamW(p, 0.005, weight_decay=0.5, maximize=True),
}
# The walk and the quadrature add the same numbers in another order: some 1e4 roundings of float64 in sums of size 1.
ROUNDING = 1e4 * np.finfo(np.float64).eps


def everything_explained_is_attributed(audit: whence.Audit) -> None:
    explained = audit.data["explained"].isel(point=-1).values
    np.testing.assert_allclose(audit.completeness.reconstructed.values, explained, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_influences_and_residuals_add_up_to_what_the_quadrature_explains(name: str, tmp_path: Path) -> None:
    model = tanh_net()
    run = trained(tmp_path / "run", model, OPTIMIZERS[name](model.parameters()), blobs())
    everything_explained_is_attributed(whence.audit(run, blobs(seed=1)))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_with_gauss3_the_shares_add_up_to_the_true_change(name: str, tmp_path: Path) -> None:
    model = tanh_net()
    run = trained(tmp_path / "run", model, OPTIMIZERS[name](model.parameters()), blobs())
    audit = whence.audit(run, blobs(seed=1), quadrature="gauss3")
    assert np.abs(audit.completeness.true_change).mean() > 1e-2
    # nine steps of size below 0.1 with an error of order 7 each
    assert audit.completeness.mean_error < 1e-6
    assert audit.completeness.correlation > 1 - 1e-9


def test_clipping_by_norm_by_value_and_accumulation_are_attributed(tmp_path: Path) -> None:
    for number, (clip, accumulate) in enumerate(
        [
            (lambda p: nn.utils.clip_grad_norm_(p, 0.05), 1),
            (lambda p: nn.utils.clip_grad_value_(p, 0.01), 1),
            (lambda p: nn.utils.clip_grad_norm_(p, 0.05), 2),
            (lambda p: None, 3),
        ]
    ):
        model = tanh_net()
        optimizer = AdamW(model.parameters(), 0.02, weight_decay=0.2)

        def after(_step: int, clip: Callable[..., object] = clip, model: nn.Module = model) -> object:
            return clip(list(model.parameters()))

        run = trained(
            tmp_path / str(number),
            model,
            optimizer,
            blobs(24),
            batch_size=4,
            accumulate=accumulate,
            after_backward=after,
        )
        audit = whence.audit(run, blobs(seed=1), quadrature="gauss3")
        everything_explained_is_attributed(audit)
        assert audit.completeness.mean_error < 1e-6


def test_schedules_groups_and_frozen_parameters_are_attributed(tmp_path: Path) -> None:
    model = tanh_net()
    parameters = dict(model.named_parameters())
    parameters["0.bias"].requires_grad_(False)
    groups: list[dict[str, Any]] = [
        {"params": [parameters["0.weight"]], "lr": 0.01},
        {"params": [parameters["2.weight"], parameters["2.bias"]], "weight_decay": 0.0},
        {"params": [parameters["4.weight"], parameters["4.bias"]], "betas": (0.5, 0.9)},
    ]
    optimizer = AdamW(groups, 0.02, weight_decay=0.3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    run = trained(tmp_path / "run", model, optimizer, blobs(), scheduler=scheduler)
    audit = whence.audit(run, blobs(seed=1), quadrature="gauss3")
    everything_explained_is_attributed(audit)
    assert audit.completeness.mean_error < 1e-6


def test_normalisation_buffers_are_a_residual_of_their_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    # Without the bias before the normalisation: its gradient is 0, and Adam would blow its rounding up by 1 / eps.
    model = nn.Sequential(nn.Linear(3, 6, bias=False), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).double()
    run = trained(tmp_path / "run", model, Adam(model.parameters(), 0.02), blobs(20))
    audit = whence.audit(run, blobs(seed=1), quadrature="gauss3")
    everything_explained_is_attributed(audit)
    assert audit.completeness.mean_error < 1e-6
    assert np.abs(audit.data["residual"].sel(source="buffers")).max() > 1e-3
    assert np.abs(audit.data["residual"].sel(source="initial parameters")).max() == 0.0


def test_dropout_is_replayed_with_its_masks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, 3)).double()
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.1, momentum=0.5), blobs(20))
    audit = whence.audit(run, blobs(seed=1), quadrature="gauss3")
    everything_explained_is_attributed(audit)
    assert audit.completeness.mean_error < 1e-6


def test_decay_of_the_initial_parameters_is_the_residual_of_a_linear_quantity(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 3, bias=False).double()
    start = model.weight.detach().clone()
    run = trained(tmp_path / "run", model, SGD(model.parameters(), 0.1, weight_decay=0.5), blobs(), epochs=2)
    x, y = blobs(seed=1)
    audit = whence.audit(run, (x, y), quantity="logit")
    shrunk = (1 - 0.1 * 0.5) ** run.steps - 1  # closed form: what is left of the initial parameters, minus all of them
    expected = shrunk * (x @ start.T).gather(1, y[:, None]).squeeze(1)
    np.testing.assert_allclose(audit.completeness.residual.sum("source"), expected, rtol=1e-12)
    assert audit.completeness.mean_error < 1e-12


def test_a_warmed_up_optimizer_leaves_its_own_residual(tmp_path: Path) -> None:
    model, data = tanh_net(), blobs()
    optimizer = SGD(model.parameters(), 0.05, momentum=0.9)
    nn.functional.cross_entropy(model(data[0]), data[1]).backward()
    optimizer.step()
    optimizer.zero_grad()
    audit = whence.audit(trained(tmp_path / "run", model, optimizer, data), blobs(seed=1), quadrature="gauss3")
    everything_explained_is_attributed(audit)
    assert np.abs(audit.data["residual"].sel(source="initial optimizer state")).max() > 1e-4


def reference(
    model: nn.Module, data: tuple[Tensor, Tensor], order: list[list[int]], targets: tuple[Tensor, Tensor]
) -> Tensor:
    """Influences of AdamW's run by explicit shares of every example, walked forwards (math: section 1, A.2.6)."""
    rate, beta, second, eps, decay = 0.02, 0.9, 0.999, 1e-8, 0.5
    parameters = list(model.parameters())

    def gradient(x: Tensor, y: Tensor) -> Tensor:
        found = torch.autograd.grad(nn.functional.cross_entropy(model(x[None]), y[None]), parameters)
        return torch.cat([one.reshape(-1) for one in found])

    def theta() -> Tensor:
        return torch.cat([one.detach().reshape(-1) for one in parameters])

    def put(value: Tensor) -> None:
        with torch.no_grad():
            nn.utils.vector_to_parameters(value, parameters)

    count = theta().numel()
    shares, momenta = torch.zeros(len(data[0]), count), torch.zeros(len(data[0]), count)
    shares, momenta, v = shares.double(), momenta.double(), torch.zeros(count).double()
    influence = torch.zeros(len(targets[0]), len(data[0])).double()
    before = torch.stack([gradient(x, y) for x, y in zip(*targets, strict=True)])
    for t, batch in enumerate(order, 1):
        own = torch.zeros_like(shares)
        for m in batch:
            own[m] += gradient(data[0][m], data[1][m]) / len(batch)
        v = second * v + (1 - second) * own.sum(0) ** 2
        momenta = beta * momenta + (1 - beta) * own
        a = 1 / ((v / (1 - second**t)).sqrt() + eps)
        new = (1 - rate * decay) * shares - rate / (1 - beta**t) * a * momenta
        put(theta() * (1 - rate * decay) - rate / (1 - beta**t) * a * momenta.sum(0))
        after = torch.stack([gradient(x, y) for x, y in zip(*targets, strict=True)])
        influence += (before + after) / 2 @ (new - shares).T
        before, shares = after, new
    return influence


def test_reverse_walk_equals_explicit_forward_shares_of_every_example(tmp_path: Path) -> None:
    model, data, targets = tanh_net(), blobs(), blobs(4, seed=1)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    run = trained(tmp_path / "run", model, AdamW(model.parameters(), 0.02, weight_decay=0.5), data)
    order = [torch.cat(run.record_of(step).batches).tolist() for step in range(run.steps)]
    model.load_state_dict(start)
    expected = reference(model, data, order, targets)
    np.testing.assert_allclose(whence.audit(run, targets).influence, expected, rtol=0, atol=ROUNDING)
