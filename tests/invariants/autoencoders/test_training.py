"""Training: planted dictionaries, dead features, resuming, layouts and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whence._errors import ArgumentError, ChangedDataError, DataError, LabelError, ShapeError
from whence.datasets import as_examples, load_digits
from whence.invariants import AutoencoderTraining, Relu, SparseAutoencoder, TopK, TrainedAutoencoder, train_autoencoder
from whence.invariants.autoencoders import loop, start
from whence.invariants.autoencoders.source import Activations, Reader
from whence.provenance.checkpoints import Checkpoint

from .planted import convolutional, identity, pictures, planted

FEW = AutoencoderTraining(epochs=4, batch_size=64, rate=3e-3)


def likeness(trained: TrainedAutoencoder, directions: Tensor) -> float:
    """Return the mean over true directions of the largest cosine with a learnt one."""
    return float((directions @ trained.autoencoder.decoder.detach()).amax(1).mean())


@pytest.mark.parametrize(
    ("activation", "features", "epochs"), [(TopK(2), 60, 8), (Relu(0.4), 80, 15)], ids=["top-k", "relu"]
)
def test_a_planted_dictionary_of_40_directions_in_32_dimensions_is_recovered(
    activation: Relu | TopK, features: int, epochs: int
) -> None:
    x, directions = planted(2048, 32, 40, 2)
    steps = AutoencoderTraining(epochs=epochs, batch_size=128, rate=1e-2)
    trained = train_autoencoder(identity(), "0", x, features=features, activation=activation, training=steps)
    untrained = SparseAutoencoder(32, features, activation)
    assert likeness(trained, directions) >= 0.95
    assert likeness(TrainedAutoencoder(untrained, "0"), directions) < 0.6  # by chance
    torch.testing.assert_close(trained.autoencoder.decoder.norm(dim=0), torch.ones(features))


def with_dead(activation: Relu | TopK, monkeypatch: pytest.MonkeyPatch, *, revive: bool) -> TrainedAutoencoder:
    """Train from a start at which half of the features are below 0 everywhere."""
    start_dead(monkeypatch)
    x, _ = planted(1024, 8, 16, 2)
    steps = AutoencoderTraining(epochs=12, batch_size=64, rate=2e-2, revive=revive)
    return train_autoencoder(identity(), "0", x, features=20, activation=activation, training=steps)


def start_dead(monkeypatch: pytest.MonkeyPatch, bias: float = -2.0) -> None:
    """Let trainings start with ten features that are below 0 everywhere."""
    begin = start.start_from

    def begin_dead(autoencoder: SparseAutoencoder, rows: Tensor) -> None:
        begin(autoencoder, rows)
        with torch.no_grad():
            autoencoder.bias[:10] = bias

    monkeypatch.setattr(loop, "start_from", begin_dead)


@pytest.mark.parametrize("activation", [TopK(2), Relu(0.1)], ids=["top-k", "relu"])
def test_dead_features_come_back_and_stay_dead_where_nothing_revives_them(
    activation: Relu | TopK, monkeypatch: pytest.MonkeyPatch
) -> None:
    revived = with_dead(activation, monkeypatch, revive=True).figures
    assert int((revived.density[:10] > 0).sum()) >= 8
    assert float(revived.history.sel(measure="revived").sum()) >= 8
    left = with_dead(activation, monkeypatch, revive=False).figures
    assert int((left.density[:10] > 0).sum()) == 0
    assert float(left.dead) >= 0.5  # half of them were so from the start


def test_more_top_k_features_of_digits_are_active_and_explain_more_where_silent_ones_are_revived() -> None:
    pixels = as_examples(load_digits()).batch(range(600))[0].float().flatten(1)
    revived, left = (
        train_autoencoder(
            identity(),
            "0",
            pixels,
            features=128,
            activation=TopK(2),
            training=AutoencoderTraining(epochs=12, batch_size=64, rate=2e-3, revive=revive),
        ).figures
        for revive in (True, False)
    )
    assert float(revived.dead) <= float(left.dead) - 0.1
    assert float(revived.explained_variance) >= float(left.explained_variance) + 0.03


class CutError(Exception):
    """What cuts a training off."""


@pytest.mark.parametrize("memory_budget", [2**20, 150 * 8 * 4], ids=["kept", "in parts"])
@pytest.mark.parametrize("activation", [TopK(2), Relu(0.1)], ids=["top-k", "relu"])
def test_a_training_that_was_cut_off_goes_on_to_what_it_would_have_given(
    activation: Relu | TopK, memory_budget: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_dead(monkeypatch)
    x, _ = planted(300, 8, 16, 2)
    steps = AutoencoderTraining(epochs=4, batch_size=32, rate=5e-3, memory_budget=memory_budget)
    given: dict[str, Any] = {"features": 64, "activation": activation, "training": steps}
    whole = train_autoencoder(identity(), "0", x, **given)
    keep, kept = Checkpoint.keep, []

    def cut(self: Checkpoint, *args: Any) -> None:
        keep(self, *args)
        kept.append(1)
        if len(kept) == 2:
            raise CutError

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "keep", cut)
        with pytest.raises(CutError):
            train_autoencoder(identity(), "0", x, path=tmp_path / "sae", **given)
    resumed = train_autoencoder(identity(), "0", x, path=tmp_path / "sae", **given)
    for name, one in whole.autoencoder.state_dict().items():
        assert torch.equal(one, resumed.autoencoder.state_dict()[name]), name
    assert whole.figures.identical(resumed.figures)
    assert float(whole.figures.history.sel(measure="revived").sum()) > 0


def test_a_checkpoint_of_other_data_model_or_settings_is_refused(tmp_path: Path) -> None:
    train_autoencoder(convolutional(), "1", pictures(), features=9, training=FEW, path=tmp_path / "a")
    with pytest.raises(ChangedDataError, match="is of other data"):
        train_autoencoder(convolutional(), "1", pictures(seed=1), features=9, training=FEW, path=tmp_path / "a")
    with pytest.raises(ArgumentError, match="other settings: features was 9 and is 8"):
        train_autoencoder(convolutional(), "1", pictures(), features=8, training=FEW, path=tmp_path / "a")
    other = convolutional()
    nn.init.zeros_(other.get_parameter("3.bias"))
    with pytest.raises(ArgumentError, match="other settings: model was"):
        train_autoencoder(other, "1", pictures(), features=9, training=FEW, path=tmp_path / "a")


def source(model: nn.Module, layer: str, data: Any, **given: Any) -> Activations:
    """Return a source of activations."""
    settings = {"positions": None, "channel_axis": None, "memory_budget": 2**20, "seed": 0, **given}
    return Activations(Reader(model, layer, as_examples(data)), **settings)


def test_a_convolution_gives_a_row_a_position_with_its_channels_across() -> None:
    model, data = convolutional(), pictures()
    found = source(model, "1", data).part(0, 0)
    expected = model[:2](data[0]).permute(0, 2, 3, 1).reshape(-1, 5)
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=0)


def test_parts_of_an_epoch_hold_every_activation_once_in_bounded_memory() -> None:
    model, data = convolutional(), pictures()
    parted = source(model, "1", data, memory_budget=7 * 16 * 5 * 4)
    assert max(map(len, parted.parts)) <= 7
    whole = source(model, "1", data).part(0, 0)
    for epoch in (0, 1):
        parts = [parted.part(epoch, number).clone() for number in range(len(parted.parts))]
        assert all(part.numel() * part.itemsize <= 7 * 16 * 5 * 4 for part in parts)
        joined = torch.cat(parts)
        assert not torch.equal(joined, whole)  # in another order
        torch.testing.assert_close(joined.unique(dim=0), whole.unique(dim=0), rtol=0, atol=1e-6)


def test_drawn_positions_are_of_each_example_and_differ_between_examples() -> None:
    model, data = convolutional(), pictures()
    found = source(model, "1", data, positions=3)
    whole, rows = source(model, "1", data).part(0, 0).reshape(30, 16, 5), found.part(0, 0).reshape(30, 3, 5)
    assert found.rows == 90
    same = (rows[:, :, None] == whole[:, None]).all(-1)
    assert same.any(2).all()
    places = {tuple(one) for one in same.double().argmax(2).sort(1).values.tolist() if same.any()}
    assert len(places) > 10


def test_tokens_of_a_transformer_are_rows_and_the_model_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5, batch_first=True)
    x = torch.randn(20, 6, 8)
    model.train()
    trained = train_autoencoder(model, "linear2", x, features=12, activation=TopK(2), training=FEW)
    assert model.training
    assert trained.autoencoder.width == 8
    assert trained.figures.attrs["positions"] == 120
    assert not any(one._forward_hooks for one in model.modules())


def test_channels_of_a_convolution_over_time_are_where_the_user_says() -> None:
    model = nn.Sequential(nn.Conv1d(2, 5, 3))
    x = torch.randn(40, 2, 9)
    trained = train_autoencoder(model, "0", x, features=12, channel_axis=1, training=FEW)
    assert trained.autoencoder.width == 5
    assert train_autoencoder(model, "0", x, features=12, training=FEW).autoencoder.width == 7


def test_a_training_in_float64_stays_so_and_in_bfloat16_becomes_float32() -> None:
    x, _ = planted(100, 8, 16, 2)
    kinds = [
        train_autoencoder(identity(), "0", x.to(kind), features=12, training=FEW).autoencoder.decoder.dtype
        for kind in (torch.float64, torch.bfloat16)
    ]
    assert kinds == [torch.float64, torch.float32]


def test_the_same_seed_gives_the_same_and_the_global_generator_is_left_alone() -> None:
    x, _ = planted(100, 8, 16, 2)
    state = torch.get_rng_state()
    first, second = (train_autoencoder(identity(), "0", x, features=12, training=FEW) for _ in range(2))
    assert torch.equal(first.autoencoder.encoder, second.autoencoder.encoder)
    assert torch.equal(state, torch.get_rng_state())


def test_a_layer_that_is_not_there_is_named_with_those_near_it() -> None:
    model = nn.ModuleDict({"conv1": nn.Conv2d(1, 5, 3), "conv2": nn.Conv2d(5, 5, 3)})
    with pytest.raises(LabelError, match=r"No layer 'conv3' in the model ModuleDict; names near it: .*conv2"):
        train_autoencoder(model, "conv3", pictures(), features=9)


def test_bad_inputs_are_refused_in_words() -> None:
    with pytest.raises(
        ArgumentError, match=r"Sequential cannot be called with the inputs of the data \(\(1, 3, 6, 6\)"
    ):
        train_autoencoder(convolutional(), "1", torch.zeros(4, 3, 6, 6), features=9)
    with pytest.raises(ArgumentError, match="must be called once with a tensor"):
        train_autoencoder(nn.Sequential(nn.LSTM(3, 4)), "0", torch.zeros(4, 2, 3), features=9)
    with pytest.raises(ArgumentError, match="the same at all of 480 positions"):
        train_autoencoder(nn.Sequential(nn.Conv2d(1, 5, 3), nn.Threshold(9, 9)), "1", pictures(), features=9)
    with pytest.raises(ArgumentError, match=r"'0' gives torch\.int64"):
        train_autoencoder(identity(), "0", torch.ones(4, 3, dtype=torch.int64), features=9)
    with pytest.raises(ShapeError, match="channels cannot be on axis 4"):
        train_autoencoder(convolutional(), "1", pictures(), features=9, channel_axis=4)
    with pytest.raises(DataError, match="not a dataset"):
        train_autoencoder(convolutional(), "1", pictures()[0], features=9, loss=F.cross_entropy)


@pytest.mark.parametrize(
    ("name", "value"), [("epochs", 0), ("batch_size", 0), ("seed", -1), ("memory_budget", 0), ("positions", 0)]
)
def test_settings_out_of_range_are_refused(name: str, value: int) -> None:
    with pytest.raises(ArgumentError, match=f"`{name}` is a whole number, at least"):
        AutoencoderTraining(**{name: value})  # type: ignore[arg-type]  # which of them, mypy cannot know
    with pytest.raises(ArgumentError, match=r"`rate` must be above 0; got 0\.0"):
        AutoencoderTraining(rate=0.0)
