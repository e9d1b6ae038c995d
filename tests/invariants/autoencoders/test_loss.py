"""What the autoencoder learns by, against closed forms and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.optim import Adam

from whence._errors import ArgumentError
from whence.invariants import Relu, SparseAutoencoder, TopK
from whence.invariants.autoencoders.loss import autoencoder_loss, resample
from whence.invariants.autoencoders.start import geometric_median, normalise, remove_lengthening, start_from

from .test_network import autoencoder

ROWS, WIDTH = 9, 5


def rows() -> Tensor:
    """Return some activations."""
    return torch.randn(ROWS, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("activation", [Relu(0.3), TopK(4)])
def test_gradients_of_the_loss_are_the_closed_form(activation: Relu | TopK) -> None:
    made, x = autoencoder(activation), rows()
    autoencoder_loss(made, x).total.backward()
    one = {name: value.numpy() for name, value in made.state_dict().items()}
    seen = x.numpy() / 1.7 - one["pre_bias"]
    codes = made.encode(x).detach().numpy()
    error = codes @ one["decoder"].T + one["pre_bias"] - x.numpy() / 1.7
    on = codes > 0
    weight = 0.3 if isinstance(activation, Relu) else 0.0
    to_codes = on * (2 * error @ one["decoder"] + weight) / ROWS
    expected = {
        "decoder": 2 * error.T @ codes / ROWS,
        "encoder": to_codes.T @ seen,
        "bias": to_codes.sum(0),
        "pre_bias": 2 * error.sum(0) / ROWS - to_codes.sum(0) @ one["encoder"],
    }
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None
        np.testing.assert_allclose(parameter.grad, expected[name], rtol=0, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("activation", [Relu(0.3), TopK(4)])
def test_gradients_of_the_loss_are_its_finite_differences(activation: Relu | TopK) -> None:
    made, x, step = autoencoder(activation), rows(), 1e-6
    autoencoder_loss(made, x).total.backward()
    for name, parameter in made.named_parameters():
        direction = torch.randn_like(parameter)
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * step * direction)
                sides.append(float(autoencoder_loss(made, x).total))
                parameter.sub_(sign * step * direction)
        assert parameter.grad is not None
        slope = float((parameter.grad * direction).sum())
        assert (sides[0] - sides[1]) / (2 * step) == pytest.approx(slope, rel=1e-6, abs=1e-8), name


def test_steps_along_the_remaining_gradient_keep_column_lengths_to_second_order_and_normalising_does_the_rest() -> None:
    made = autoencoder(Relu(0.3))
    autoencoder_loss(made, rows()).total.backward()
    assert made.decoder.grad is not None
    columns, gradient = made.decoder.detach(), made.decoder.grad
    assert float((columns * gradient).sum(0).abs().max()) > 1e-3  # before, there is such a part
    remove_lengthening(made)
    assert float((columns * gradient).sum(0).abs().max()) < 1e-14
    with torch.no_grad():
        made.decoder.add_(0.1 * made.decoder.grad)
    normalise(made)
    torch.testing.assert_close(made.decoder.norm(dim=0), torch.ones(12, dtype=torch.float64), rtol=0, atol=1e-14)


def resampled(activation: Relu | TopK) -> tuple[SparseAutoencoder, dict[str, Tensor], Adam, Tensor, int]:
    """Resample two silent features after an optimizer's step; only activation 3 has an error worth drawing."""
    made = autoencoder(activation)
    optimizer = Adam(made.parameters(), 1e-9)
    autoencoder_loss(made, rows()).total.backward()
    optimizer.step()
    before = {name: one.clone() for name, one in made.state_dict().items()}
    far = rows() * 1e-3 + made.pre_bias.detach() * 1.7
    far[3] = 1000.0
    dead = torch.zeros(12, dtype=torch.bool)
    dead[[2, 8]] = True
    count = resample(made, optimizer, far, dead, torch.Generator().manual_seed(0))
    return made, before, optimizer, far, count


@pytest.mark.parametrize(("activation", "share"), [(Relu(0.3), 0.2), (TopK(4), 0.5)])
def test_resampled_features_point_at_badly_reconstructed_activations(activation: Relu | TopK, share: float) -> None:
    made, before, _, far, count = resampled(activation)
    assert count == 2
    seen = torch.nn.functional.normalize(far / 1.7 - made.pre_bias.detach(), dim=1)
    assert max(float(seen[3] @ made.decoder.detach()[:, one]) for one in (2, 8)) == pytest.approx(1.0, abs=1e-12)
    others = [one for one in range(12) if one not in {2, 8}]
    length = share * float(before["encoder"][others].norm(dim=1).mean())
    for one in (2, 8):
        torch.testing.assert_close(made.encoder[one], length * made.decoder[:, one], rtol=0, atol=1e-12)
        assert float(made.bias[one].detach()) == 0
    assert torch.equal(made.encoder[others], before["encoder"][others])
    assert torch.equal(made.decoder[:, others], before["decoder"][:, others])


@pytest.mark.parametrize("activation", [Relu(0.3), TopK(4)])
def test_the_optimizer_forgets_resampled_features_and_no_others(activation: Relu | TopK) -> None:
    made, _, optimizer, _, _ = resampled(activation)
    others = [one for one in range(12) if one not in {2, 8}]
    for parameter in (made.encoder, made.bias, made.decoder):
        for name in ("exp_avg", "exp_avg_sq"):
            kept = optimizer.state[parameter][name]
            kept = kept.T if parameter is made.decoder else kept
            assert not kept[[2, 8]].any()
            assert kept[others].any()


def test_the_geometric_median_has_the_smallest_sum_of_distances() -> None:
    x = torch.cat([rows(), torch.full((2, WIDTH), 30.0, dtype=torch.float64)])
    found = geometric_median(x)
    best = float((x - found).norm(dim=1).sum())
    for direction in torch.eye(WIDTH, dtype=torch.float64):
        for step in (0.05, -0.05):
            assert float((x - found - step * direction).norm(dim=1).sum()) > best
    assert best < float((x - x.mean(0)).norm(dim=1).sum())


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_the_loss_does_not_depend_on_the_size_of_activations(size: float) -> None:
    x = rows() + 3
    plain, sized = (SparseAutoencoder(WIDTH, 12, Relu(0.3)).double() for _ in range(2))
    start_from(plain, x)
    start_from(sized, size * x)
    assert float((plain.scaled(x) - plain.scaled(x).mean(0)).square().sum(1).mean()) == pytest.approx(1.0, rel=1e-12)
    expected = float(autoencoder_loss(plain, x).total.detach())
    assert float(autoencoder_loss(sized, size * x).total.detach()) == pytest.approx(expected, rel=1e-6)


def test_activations_without_variance_or_with_nan_are_refused() -> None:
    made = SparseAutoencoder(WIDTH, 12, Relu()).double()
    with pytest.raises(ArgumentError, match="the same at all of 9 positions"):
        start_from(made, torch.ones(ROWS, WIDTH, dtype=torch.float64))
    with pytest.raises(ArgumentError, match="not finite"):
        start_from(made, rows() / 0.0)
