"""Figures and top examples against brute force; files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from whence._errors import ArgumentError, AuditError, DataError, LabelError, ShapeError
from whence.invariants import (
    AutoencoderTraining,
    Relu,
    SparseAutoencoder,
    TopK,
    TrainedAutoencoder,
    autoencoder_figures,
    load_autoencoder,
    save_autoencoder,
    top_activating,
    train_autoencoder,
)
from whence.invariants.autoencoders.layout import replaced

from .planted import convolutional, identity, pictures, planted

SMALL = 3 * 16 * (2 * 5 + 2 * 9) * 8  # bytes: three examples a batch


def made(activation: Relu | TopK = Relu()) -> SparseAutoencoder:  # noqa: B008 - frozen
    """Return an autoencoder of the layer "1" of `convolutional`, in float64."""
    found = SparseAutoencoder(5, 9, activation).double()
    with torch.no_grad():
        found.pre_bias.fill_(0.2)
        found.bias[3] = -50.0
        found.scale.fill_(1.3)
    return found


def rows(x: Tensor) -> Tensor:
    """Return the activations at all positions."""
    found: Tensor = convolutional().double()[:2](x).permute(0, 2, 3, 1).reshape(-1, 5).detach()
    return found


@pytest.mark.parametrize("activation", [Relu(), TopK(2)])
def test_explained_variance_sparsity_and_density_are_those_of_all_codes_at_once(activation: Relu | TopK) -> None:
    x, labels = pictures()
    autoencoder = made(activation)
    found = autoencoder_figures(convolutional().double(), "1", autoencoder, (x.double(), labels), memory_budget=SMALL)
    activations = rows(x.double())
    codes, reconstruction = (one.detach().numpy() for one in autoencoder(activations))
    exact = activations.numpy()
    explained = 1 - ((exact - reconstruction) ** 2).sum() / ((exact - exact.mean(0)) ** 2).sum()
    assert float(found.explained_variance) == pytest.approx(explained, abs=1e-12)
    assert float(found.l0) == pytest.approx((codes > 0).sum(1).mean(), abs=1e-12)
    np.testing.assert_allclose(found.density, (codes > 0).mean(0), atol=1e-12)
    assert float(found.dead) == (codes.max(0) == 0).mean() > 0
    assert found.attrs == {"layer": "1", "examples": 30, "positions": 480}


def test_the_explained_variance_keeps_its_digits_beside_a_large_mean() -> None:
    x, _ = planted(500, 6, 12, 2)
    x = x.double() + 1e6
    autoencoder = SparseAutoencoder(6, 12, Relu()).double()
    with torch.no_grad():
        autoencoder.pre_bias.fill_(1e6)
    found = float(autoencoder_figures(identity(), "0", autoencoder, x).explained_variance)
    exact, reconstruction = x.numpy(), autoencoder(x)[1].detach().numpy()
    expected = 1 - ((exact - reconstruction) ** 2).sum() / ((exact - exact.mean(0)) ** 2).sum()
    assert found == pytest.approx(expected, abs=1e-6)  # 1e6 to the square in float64 has 4 digits left


def test_losses_and_classes_are_those_of_a_model_that_goes_on_from_what_stands_instead() -> None:
    x, labels = pictures()
    x, model, autoencoder = x.double(), convolutional().double(), made()
    found = autoencoder_figures(model, "1", autoencoder, (x, labels), loss=F.cross_entropy, memory_budget=SMALL)
    activations = rows(x)
    instead = [activations, autoencoder(activations)[1].detach(), activations.mean(0).expand(480, 5)]
    outputs = [model[2:](one.reshape(30, 4, 4, 5).permute(0, 3, 1, 2)).detach() for one in instead]
    losses = [float(F.cross_entropy(one, labels)) for one in outputs]
    np.testing.assert_allclose(found.loss, losses, atol=1e-12)
    assert found.instead.values.tolist() == ["nothing", "reconstruction", "mean"]
    same = [float((one.argmax(1) == outputs[0].argmax(1)).double().mean()) for one in outputs]
    np.testing.assert_allclose(found.same_class, same, atol=1e-12)
    if losses[2] > losses[0]:
        assert float(found.loss_recovered) == pytest.approx((losses[2] - losses[1]) / (losses[2] - losses[0]))
    else:
        assert np.isnan(found.loss_recovered)


def test_a_perfect_autoencoder_recovers_all_of_the_loss_and_the_mean_none() -> None:
    x, model = pictures()[0], convolutional()
    labels = model(x).argmax(1)  # so that every change of the layer costs something
    perfect, mean = (SparseAutoencoder(5, 10, Relu()) for _ in range(2))
    with torch.no_grad():
        perfect.decoder.copy_(torch.cat([torch.eye(5), -torch.eye(5)], 1))
        perfect.encoder.copy_(perfect.decoder.T)
        mean.bias.fill_(-1e3)
        mean.pre_bias.copy_(rows(x.double()).mean(0))
    found = [autoencoder_figures(model, "1", one, (x, labels), loss=F.cross_entropy) for one in (perfect, mean)]
    assert float(found[0].loss_recovered) == pytest.approx(1.0, abs=1e-5)
    assert float(found[1].loss_recovered) == pytest.approx(0.0, abs=1e-5)
    assert float(found[0].explained_variance) == pytest.approx(1.0, abs=1e-6)
    assert float(found[1].explained_variance) == pytest.approx(0.0, abs=1e-6)


def test_a_layer_is_replaced_only_inside_the_block() -> None:
    x, model = pictures()[0], convolutional()
    before = model(x)
    with replaced(model, "1", torch.zeros_like):
        torch.testing.assert_close(model(x), model.get_parameter("3.bias").expand(30, 3))
    assert torch.equal(model(x), before)
    with pytest.raises(ZeroDivisionError), replaced(model, "1", lambda _: 1 / 0):  # type: ignore[arg-type,return-value]
        model(x)
    assert torch.equal(model(x), before)


@pytest.mark.parametrize("activation", [Relu(), TopK(2)])
@pytest.mark.parametrize("memory_budget", [1, SMALL, 2**29])
def test_top_examples_are_those_of_all_codes_at_once(activation: Relu | TopK, memory_budget: int) -> None:
    x, labels = pictures()
    autoencoder = made(activation)
    found = top_activating(
        convolutional().double(), "1", autoencoder, (x.double(), labels), [4, 3, 0], k=7, memory_budget=memory_budget
    )
    codes = autoencoder.encode(rows(x.double())).detach().numpy().reshape(30, 4, 4, 9)
    for feature in (4, 3, 0):
        each = codes[..., feature].reshape(30, 16)
        best = [one for one in np.argsort(-each.max(1), kind="stable")[:7] if each[one].max() > 0]
        one, count = found.sel(feature=feature), len(best)
        assert one.example.values.tolist() == [*best, *[-1] * (7 - count)]
        np.testing.assert_allclose(one.activation[:count], each.max(1)[best], atol=1e-12)
        for rank, example in enumerate(best):
            place = int(one.row[rank]), int(one.column[rank])
            assert codes[(example, *place, feature)] == pytest.approx(float(one.activation[rank]), abs=1e-12)
    assert found.sel(feature=3).row.values.tolist() == [-1] * 7  # it is below 0 everywhere


def test_top_examples_of_tokens_tell_the_position_and_of_vectors_none() -> None:
    x = torch.zeros(4, 3, 5)
    x[2, 1, 0] = 5.0
    autoencoder = SparseAutoencoder(5, 5, Relu())
    with torch.no_grad():
        autoencoder.encoder.copy_(torch.eye(5))
    found = top_activating(identity(), "0", autoencoder, x, 0, k=1)
    assert (found.example.item(), found.position.item(), found.activation.item()) == (2, 1, 5.0)
    assert set(top_activating(identity(), "0", autoencoder, x[:, 1], 0, k=1).data_vars) == {"example", "activation"}


def test_equal_activations_come_by_id() -> None:
    autoencoder = SparseAutoencoder(2, 2, Relu())
    with torch.no_grad():
        autoencoder.encoder.copy_(torch.eye(2))
    found = top_activating(identity(), "0", autoencoder, torch.ones(300, 2), 0, k=4, memory_budget=100)
    assert found.example.values.tolist() == [[0, 1, 2, 3]]


def test_top_examples_refuse_what_is_not_there_in_words() -> None:
    model, data = convolutional().double(), (pictures()[0].double(), pictures()[1])
    with pytest.raises(ArgumentError, match="`k` is a number of examples, 1 to 30; got 31"):
        top_activating(model, "1", made(), data, [0], k=31)
    with pytest.raises(LabelError, match="No feature 9: the autoencoder has features 0 to 8"):
        top_activating(model, "1", made(), data, [0, 9])
    with pytest.raises(ArgumentError, match="`features` is empty"):
        top_activating(model, "1", made(), data, [])
    with pytest.raises(LabelError, match="No layer '7'"):
        top_activating(model, "7", made(), data, [0])
    with pytest.raises(ShapeError, match=r"5 channels; this output of shape .* has 3"):
        top_activating(model, "3", made(), data, [0])


@pytest.mark.parametrize("activation", [TopK(2), Relu(0.1)])
def test_what_is_saved_is_loaded(activation: Relu | TopK, tmp_path: Path) -> None:
    steps = AutoencoderTraining(epochs=2)
    trained = train_autoencoder(
        convolutional(), "1", pictures(), features=9, activation=activation, channel_axis=1, training=steps,
        loss=F.cross_entropy,
    )  # fmt: skip
    save_autoencoder(trained, tmp_path / "sub" / "sae.safetensors")
    found = load_autoencoder(tmp_path / "sub" / "sae.safetensors")
    assert (found.layer, found.autoencoder.told()) == ("1", trained.autoencoder.told())
    assert found.figures.equals(trained.figures)
    x = torch.randn(6, 5)
    for one, other in zip(trained.autoencoder(x), found.autoencoder(x), strict=True):
        assert torch.equal(one, other)


def test_files_that_are_none_are_refused_in_words(tmp_path: Path) -> None:
    place = tmp_path / "sae.safetensors"
    save_autoencoder(TrainedAutoencoder(made(), "1"), place)
    assert load_autoencoder(place).autoencoder.decoder.dtype == torch.float64
    with pytest.raises(AuditError, match=r"sae\.safetensors"):
        save_autoencoder(TrainedAutoencoder(made(), "1"), place)
    content = place.read_bytes()
    place.write_bytes(content[:-8])
    with pytest.raises(DataError, match=r"holds no autoencoder that can be read.*save_autoencoder wrote"):
        load_autoencoder(place)
    place.write_bytes(content.replace(b'\\"format\\": 1', b'\\"format\\": 7'))
    with pytest.raises(ArgumentError, match="has format 7; this version reads format 1"):
        load_autoencoder(place)
    with pytest.raises(DataError, match=r"nothing\.safetensors holds no autoencoder"):
        load_autoencoder(tmp_path / "nothing.safetensors")
