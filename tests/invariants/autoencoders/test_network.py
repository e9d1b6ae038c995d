"""The autoencoder itself: codes, layouts, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from whence._errors import ArgumentError, LabelError, ShapeError
from whence.invariants import Relu, SparseAutoencoder, TopK, feature_values
from whence.invariants.autoencoders.layout import grid_of, laid_back, rows_of


def autoencoder(activation: Relu | TopK, width: int = 5, features: int = 12) -> SparseAutoencoder:
    """Return an autoencoder with biases and a scale of its own, in float64."""
    found = SparseAutoencoder(width, features, activation, seed=3).double()
    torch.manual_seed(0)
    with torch.no_grad():
        found.decoder.div_(found.decoder.norm(dim=0))  # it was made in float32
        found.bias.normal_()
        found.pre_bias.normal_()
        found.scale.fill_(1.7)
    return found


@pytest.mark.parametrize("activation", [Relu(), TopK(4)])
def test_codes_and_reconstruction_are_those_of_the_formula(activation: Relu | TopK) -> None:
    made, x = autoencoder(activation), torch.randn(9, 5, dtype=torch.float64)
    codes, found = made(x)
    state = {name: one.numpy() for name, one in made.state_dict().items()}
    before = (x.numpy() / 1.7 - state["pre_bias"]) @ state["encoder"].T + state["bias"]
    expected = np.maximum(before, 0)
    if isinstance(activation, TopK):
        expected = np.where(before >= np.sort(before, 1)[:, [-4]], expected, 0)
    np.testing.assert_allclose(codes.detach(), expected, rtol=0, atol=1e-13)
    reconstruction = 1.7 * (expected @ state["decoder"].T + state["pre_bias"])
    np.testing.assert_allclose(found.detach(), reconstruction, rtol=0, atol=1e-12)


@pytest.mark.parametrize("k", [1, 3, 12])
def test_top_k_keeps_exactly_k_the_largest_where_they_are_above_zero(k: int) -> None:
    before = torch.rand(50, 12) + 0.1
    codes = TopK(k)(before)
    assert codes.count_nonzero(1).tolist() == [k] * 50
    torch.testing.assert_close(codes.sum(1), before.sort(1).values[:, -k:].sum(1))
    assert TopK(k)(-before).count_nonzero() == 0


def test_top_k_keeps_exactly_k_of_equal_ones() -> None:
    assert TopK(3)(torch.ones(4, 8)).count_nonzero(1).tolist() == [3] * 4


def test_the_encoder_starts_as_the_transpose_of_a_decoder_with_unit_columns() -> None:
    made = SparseAutoencoder(7, 20, Relu())
    torch.testing.assert_close(made.decoder.norm(dim=0), torch.ones(20))
    assert torch.equal(made.encoder, made.decoder.T)


def test_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    SparseAutoencoder(7, 20, Relu())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("activation", [Relu(), TopK(4)])
@pytest.mark.parametrize(("shape", "axis"), [((3, 5), 1), ((3, 5, 2, 4), 1), ((3, 6, 5), 2), ((3, 2, 5, 3, 2), 2)])
def test_feature_values_are_the_codes_position_by_position(
    activation: Relu | TopK, shape: tuple[int, ...], axis: int
) -> None:
    made, out = autoencoder(activation), torch.randn(shape, dtype=torch.float64)
    if axis == 2:
        made.channel_axis = axis
    rows = out.movedim(axis, -1).reshape(3, -1, 5)
    one_by_one = torch.stack([torch.stack([made.encode(x)[7] for x in example]) for example in rows])
    torch.testing.assert_close(feature_values(out, made, 7), one_by_one, rtol=0, atol=1e-13)
    before = torch.stack([torch.stack([made.before(x)[7] for x in example]) for example in rows])
    torch.testing.assert_close(feature_values(out, made, 7, before=True), before, rtol=0, atol=1e-13)


@pytest.mark.parametrize("activation", [Relu(), TopK(1)])
def test_a_silent_feature_has_a_gradient_before_the_activation_and_none_after(activation: Relu | TopK) -> None:
    made = autoencoder(activation)
    with torch.no_grad():
        made.bias[7] = -100.0
    out = torch.randn(2, 5, 3, 3, dtype=torch.float64, requires_grad=True)
    (after,) = torch.autograd.grad(feature_values(out, made, 7).sum(), out)
    (before,) = torch.autograd.grad(feature_values(out, made, 7, before=True).sum(), out)
    assert not after.any()
    expected = (made.encoder[7] / 1.7)[None, :, None, None].expand_as(before)
    torch.testing.assert_close(before, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("shape", "axis"), [((3, 5), 1), ((3, 5, 2, 4), 1), ((3, 6, 5), 2)])
def test_laying_back_undoes_laying_out(shape: tuple[int, ...], axis: int) -> None:
    out = torch.randn(shape)
    rows = rows_of(out, axis)
    assert rows.shape[1] == int(np.prod(grid_of(out, axis)))
    assert torch.equal(laid_back(rows, out, axis), out)


def test_a_layer_of_another_width_is_refused_with_the_axis_that_fits() -> None:
    made = SparseAutoencoder(5, 12, Relu())
    with pytest.raises(ShapeError, match=r"5 channels.*\(3, 5, 7\) has 7 on axis 2.*channel_axis=1"):
        feature_values(torch.zeros(3, 5, 7), made, 0)
    with pytest.raises(ShapeError, match=r"has 4 on axis 1. Give the layer that it was trained on"):
        feature_values(torch.zeros(3, 4), made, 0)
    with pytest.raises(ShapeError, match=r"shape \(3,\).*first axis is the examples"):
        feature_values(torch.zeros(3), made, 0)


def test_a_feature_that_is_not_there_is_named_with_those_that_are() -> None:
    made = SparseAutoencoder(5, 12, Relu())
    with pytest.raises(LabelError, match="No feature 12: the autoencoder has features 0 to 11"):
        feature_values(torch.zeros(3, 5), made, 12)
    with pytest.raises(LabelError, match="No feature -1"):
        feature_values(torch.zeros(3, 5), made, -1)


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ArgumentError, match="`k` is a whole number of features, at least 1; got 0"):
        TopK(0)
    with pytest.raises(ArgumentError, match="`l1` is a weight, at least 0; got -1"):
        Relu(-1.0)
    with pytest.raises(ArgumentError, match="TopK\\(9\\) needs at least 9 features; there are 8"):
        SparseAutoencoder(4, 8, TopK(9))
    with pytest.raises(ArgumentError, match="`features` is a whole number, at least 1; got 0"):
        SparseAutoencoder(4, 0, Relu())
