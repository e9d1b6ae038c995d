"""The generative network is the paper's, goes on exactly, and names training pictures; what it refuses it says."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from whence._errors import (
    ArgumentError,
    ChangedDataError,
    DataError,
    LabelError,
    ModelMismatchError,
    RunFormatError,
    ShapeError,
    SnapshotError,
)
from whence.datasets import as_examples, load_digits
from whence.provenance import (
    GenerativeNetwork,
    Reconstruction,
    SharedClassHead,
    across_classes,
    class_index,
    exemplar_sheet,
    generate,
    generative_loss,
    nearest_in_pixels,
    train_generative,
    within_class,
)

Data = tuple[Tensor, Tensor]
LEARNING = (0.02, 1.0)


def digits(count: int, size: int = 8) -> Data:
    """Return the first digits, resized."""
    inputs, labels = as_examples(load_digits("train")).batch(range(count))
    return F.interpolate(inputs, (size, size), mode="bilinear").clamp(0, 1), labels


def small(data: Data, **options: Any) -> GenerativeNetwork:
    """Return a small fully connected network for some data."""
    shape = tuple(data[0].shape[1:])
    return GenerativeNetwork.fully_connected(class_index(data[1]), shape, latent=16, widths=(64, 32), **options)


def test_a_frozen_encoder_stays_in_evaluation_mode() -> None:
    network = GenerativeNetwork.convolutional(class_index([0, 1, 1]), (1, 8, 8), latent=4)
    network.encoder.requires_grad_(False)
    network.train()
    assert not any(part.training for part in network.encoder.modules())
    assert all(part.training for part in network.decoder.modules())
    assert not any(part.training for part in network.eval().modules())


@pytest.fixture(scope="module")
def learned() -> tuple[GenerativeNetwork, Data, xr.DataArray]:
    """Sixty digits learned by heart: with little weight on the divergence, as their 64 pixels weigh little, too."""
    data = digits(60)
    network = GenerativeNetwork.fully_connected(class_index(data[1]), (1, 8, 8), latent=16, widths=(128, 128))
    return network, data, train_generative(network, data, 80, batch_size=60, learning_rate=1e-2, weights=LEARNING)


def test_the_convolutional_network_has_the_papers_shapes() -> None:
    labels = torch.arange(30) % 10
    network = GenerativeNetwork.convolutional(class_index(labels))
    weights = {name: tuple(one.shape) for name, one in network.named_parameters() if one.dim() > 1}
    assert weights == {
        "encoder.layers.0.weight": (64, 1, 3, 3),
        "encoder.layers.3.weight": (128, 64, 3, 3),
        "encoder.layers.6.weight": (256, 128, 3, 3),
        "encoder.mean.weight": (128, 12544),
        "encoder.log_variance.weight": (128, 12544),
        "decoder.first.0.weight": (12544, 128),
        "decoder.first.2.weight": (256, 128, 3, 3),
        "decoder.rest.0.weight": (128, 64, 3, 3),
        "decoder.rest.3.weight": (64, 32, 3, 3),
        "decoder.rest.6.weight": (1, 32, 3, 3),
        "class_head.weight": (10, 128),
        "index_head.linear.weight": (30, 128),  # ten heads of three, side by side
    }
    made = network.eval()(torch.rand(2, 1, 28, 28))
    assert made.pictures.shape == (2, 1, 28, 28)
    assert made.feature.shape == (2, 128)


@pytest.mark.parametrize("shape", [(3, 8, 12), (2, 16, 8), (1, 28, 28)])
def test_any_channels_and_sides_divisible_by_four(shape: tuple[int, int, int]) -> None:
    network = GenerativeNetwork.convolutional(class_index([0, 1]), shape, latent=3)
    assert network(torch.rand(2, *shape), torch.randn(2, 3)).pictures.shape == (2, *shape)


def test_the_feature_is_the_mean_of_the_decoders_first_planes() -> None:
    network = GenerativeNetwork.convolutional(class_index([0, 1]), (1, 8, 8), latent=3).eval()
    latent = torch.randn(2, 3)
    planes = network.decoder.get_submodule("first")(latent)
    torch.testing.assert_close(network.decode(latent)["feature"], F.adaptive_avg_pool2d(planes, 1).flatten(1))


def test_the_latent_vector_is_mean_plus_deviation_times_noise() -> None:
    network, noise = small(digits(4)).double(), torch.randn(4, 16, dtype=torch.float64)
    inputs = digits(4)[0].double()
    plain, noisy = network(inputs), network(inputs, noise)
    expected = network.decode(plain.mean + torch.exp(plain.log_variance).sqrt() * noise)["logits"]
    torch.testing.assert_close(noisy.logits, expected)
    assert not torch.equal(plain.logits, noisy.logits)


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_that_of_torchs_distributions(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    mean, spread = (torch.randn(5, 7, generator=draw, dtype=torch.float64) for _ in range(2))
    logits = torch.randn(5, 1, 4, 4, generator=draw, dtype=torch.float64)
    inputs = torch.randint(2, logits.shape, generator=draw).double()
    class_logits = torch.randn(5, 3, generator=draw, dtype=torch.float64)
    index_logits = torch.randn(5, 9, generator=draw, dtype=torch.float64)
    labels, ids = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([4, 0, 8, 1, 2])
    made = Reconstruction(logits, mean, spread, torch.zeros(5, 2), class_logits)
    found = generative_loss(made, inputs, labels, index_logits, ids)

    latent = Independent(Normal(mean, (0.5 * spread).exp()), 1)
    standard = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 1)
    divergence = kl_divergence(latent, standard).mean()
    likelihood = Independent(Bernoulli(logits=logits), 3).log_prob(inputs).mean()
    each = [
        (-one.softmax(1)[torch.arange(5), true].log()).mean()
        for one, true in ((class_logits, labels), (index_logits, ids))
    ]
    torch.testing.assert_close(found.divergence, divergence, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.reconstruction, -likelihood, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.stack([found.classification, found.indexing]), torch.stack(each))
    torch.testing.assert_close(found.total, 0.6 * (divergence - likelihood) + 0.4 * (each[0] + each[1]))


def test_heads_side_by_side_are_one_linear_layer_a_class() -> None:
    labels = torch.tensor([2, 0, 1, 2, 2, 0])
    network, feature = small((torch.rand(6, 1, 8, 8), labels)), torch.randn(4, 32)
    layer = network.index_head.get_submodule("linear")
    for label in range(3):
        members = (labels == label).nonzero().flatten()
        head = nn.Linear(32, len(members))
        with torch.no_grad():
            head.weight.copy_(layer.get_parameter("weight")[members])
            head.bias.copy_(layer.get_parameter("bias")[members])
        found = network.index_logits(feature, torch.full((4,), label))
        torch.testing.assert_close(found[:, members], head(feature))
        assert bool((found[:, labels != label] == -torch.inf).all())


def test_heads_of_equal_weights_are_the_shared_head_with_its_mask() -> None:
    labels = torch.tensor([2, 0, 1, 2, 2, 0])
    data, index = (torch.rand(6, 1, 8, 8), labels), class_index(labels)
    shared, own = small(data, head=SharedClassHead), small(data)
    assert shared.index_head.get_submodule("linear").get_parameter("weight").shape == (3, 32)  # the largest class
    with torch.no_grad():
        for name in ("weight", "bias"):
            common = shared.index_head.get_submodule("linear").get_parameter(name)
            own.index_head.get_submodule("linear").get_parameter(name).copy_(common[index.local])
    feature, asked = torch.randn(3, 32), torch.tensor([0, 1, 2])
    torch.testing.assert_close(shared.index_logits(feature, asked), own.index_logits(feature, asked))
    by_hand = (shared.index_head.get_submodule("linear")(feature)).masked_fill(~index.valid[asked], -torch.inf)
    for row, label in enumerate(asked.tolist()):
        found = shared.index_logits(feature, asked)[row, index.members(label)]
        torch.testing.assert_close(found, by_hand[row, : int(index.sizes[label])])


def test_all_heads_weighted_by_the_class_are_a_distribution_over_all_examples() -> None:
    data = digits(20)
    network, feature, class_logits = small(data).double(), torch.randn(3, 32).double(), torch.randn(3, 10).double()
    found = across_classes(network, feature, class_logits).exp()
    torch.testing.assert_close(found.sum(1), torch.ones(3).double())
    for label in range(10):  # p(class) p(example | class)
        inside = network.index_logits(feature, torch.full((3,), label)).softmax(1)
        members = class_index(data[1]).members(label)
        torch.testing.assert_close(found[:, members], (class_logits.softmax(1)[:, label, None] * inside)[:, members])


def test_training_leaves_the_global_generator_and_repeats(tmp_path: Path) -> None:
    data, before = digits(12), torch.get_rng_state()
    first, second = small(data), small(data)
    histories = [train_generative(one, data, 2, batch_size=5, seed=3) for one in (first, second)]
    generate(first, 2, k=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert histories[0].equals(histories[1])
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not any(module.training for module in first.modules())


class Stops:
    """Data that ends the training at some reading, as Ctrl-C would."""

    def __init__(self, data: Data, after: int) -> None:
        self.data, self.left = data, after

    def __len__(self) -> int:
        return len(self.data[1])

    def all_labels(self) -> Tensor:
        return self.data[1]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return self.data[0][index], self.data[1][index]


def test_a_training_that_was_stopped_goes_on_to_the_same_result(tmp_path: Path) -> None:
    data, path = digits(20), tmp_path / "training"

    def make(seed: int) -> GenerativeNetwork:
        return GenerativeNetwork.convolutional(class_index(data[1]), (1, 8, 8), latent=4, seed=seed)

    whole, stopped, other = make(0), make(0), make(1)
    expected = train_generative(whole, Stops(data, -1), 3, batch_size=8)
    read = 1 + 16 + 20  # when it is looked at, and its fingerprint
    with pytest.raises(KeyboardInterrupt):
        train_generative(stopped, Stops(data, read + 20 + 12), 3, path=path, batch_size=8)
    assert [one.name for one in (path / "snapshots").iterdir()] == ["000000001.safetensors"]
    found = train_generative(other, Stops(data, -1), 3, path=path, batch_size=8)  # whatever its weights were
    xr.testing.assert_identical(found, expected)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), other.state_dict().values(), strict=True))
    assert not list(path.rglob("*.pt"))
    again = train_generative(make(2), Stops(data, -1), 3, path=path, batch_size=8)  # over: only read
    xr.testing.assert_identical(again, expected)
    with pytest.raises(ArgumentError, match=r"has 3 epochs already; got epochs=2\. Ask for more"):
        train_generative(make(0), Stops(data, -1), 2, path=path, batch_size=8)


def test_sixty_digits_are_learned_by_heart(learned: tuple[GenerativeNetwork, Data, xr.DataArray]) -> None:
    network, data, history = learned
    last = history.isel(epoch=-1)
    assert history.dims == ("epoch", "measure")
    assert float(last.sel(measure="index accuracy")) > 0.9
    assert float(last.sel(measure="class accuracy")) > 0.9
    assert float(last.sel(measure="reconstruction")) < float(history[0].sel(measure="reconstruction"))
    parts = [float(last.sel(measure=one)) for one in ("reconstruction", "divergence", "classification", "indexing")]
    assert float(last.sel(measure="total")) == pytest.approx(
        LEARNING[0] * sum(parts[:2]) + LEARNING[1] * sum(parts[2:])
    )
    made = network(data[0])
    scores = within_class(network, made.feature, made.class_logits)
    assert float((scores.argmax(1) == torch.arange(60)).double().mean()) > 0.9  # from first to last, without noise


def test_exemplars_are_of_the_predicted_class(learned: tuple[GenerativeNetwork, Data, xr.DataArray]) -> None:
    network, data, _ = learned
    found = generate(network, 300, k=4, seed=5)
    assert found["picture"].shape == (300, 1, 8, 8)
    assert 0 <= float(found["picture"].min()) <= float(found["picture"].max()) <= 1
    assert np.array_equal(
        data[1].numpy()[found["exemplar"].values], np.repeat(found["predicted"].values[:, None], 4, axis=1)
    )
    assert all(len(set(row)) == 4 for row in found["exemplar"].values.tolist())
    assert bool((found["score"].diff("rank") <= 0).all())
    xr.testing.assert_identical(found, generate(network, 300, k=4, seed=5))
    assert not found.equals(generate(network, 300, k=4, seed=6))


def test_a_class_may_be_asked_for(learned: tuple[GenerativeNetwork, Data, xr.DataArray]) -> None:
    network, data, _ = learned
    found = generate(network, 7, label=3, k=2)
    assert found["predicted"].values.tolist() == [3] * 7
    assert set(data[1].numpy()[found["exemplar"].values].ravel().tolist()) == {3}


def test_the_nearest_in_pixels_are_those_of_all_distances(
    learned: tuple[GenerativeNetwork, Data, xr.DataArray],
) -> None:
    network, data, _ = learned
    made = generate(network, 9, k=2)
    found = nearest_in_pixels(made, data, 3)
    apart = np.linalg.norm((made["picture"].values[:, None] - data[0].numpy()[None]).reshape(9, 60, -1), axis=2)
    np.testing.assert_array_equal(found["train"].values, np.argsort(apart, 1, kind="stable")[:, :3])
    np.testing.assert_allclose(found["distance"].values, np.sort(apart, 1)[:, :3], rtol=1e-5)


def test_a_sheet_shows_samples_exemplars_and_the_control(
    learned: tuple[GenerativeNetwork, Data, xr.DataArray],
) -> None:
    network, data, _ = learned
    made = generate(network, 3, k=4)
    sheet = exemplar_sheet(made, data, size=48)
    assert sheet.width > 9 * 48
    assert sheet.height > 3 * 48
    pixels = np.asarray(sheet)
    near = nearest_in_pixels(made, data, 4)["train"].values
    both = any(set(a) & set(b) for a, b in zip(made["exemplar"].values, near, strict=True))
    framed = bool((pixels == np.array([0xC2, 0x41, 0x0C])).all(2).any())
    assert framed == both
    with pytest.raises(ArgumentError, match=r"ids of 60 training examples; this data has 10\. Give the data"):
        exemplar_sheet(made, (data[0][:10], data[1][:10]))
    with pytest.raises(ArgumentError, match=r"other labels than this data has\. Give the data"):
        exemplar_sheet(made, (data[0], data[1].flip(0)))
    with pytest.raises(ArgumentError, match=r"other labels than this data has\. Give the data"):
        exemplar_sheet(made, (data[0], data[1] / 2))
    assert exemplar_sheet(made.drop_attrs(), data, size=48).size == sheet.size  # of an older version
    assert re.fullmatch("[0-9a-f]{8}", made.attrs["labels"])  # a number of 32 bits would not fit every file format
    with pytest.raises(ArgumentError, match=r"1 or 3 channels; these have 2"):
        exemplar_sheet(made.isel(channel=[0, 0]), (data[0].expand(-1, 2, -1, -1), data[1]))


def test_colour_pictures_of_any_size_by_the_fully_connected_network(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    data = torch.rand(6, 3, 7, 9, generator=draw), torch.tensor([0, 0, 1, 2, 2, 1])
    network = small(data, head=SharedClassHead)
    train_generative(network, data, 2, path=tmp_path / "faces")
    made = generate(network, 4, k=5, scoring=across_classes)  # two pictures of each person
    assert made["exemplar"].shape == (4, 5)
    exemplar_sheet(made, data).save(tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_pictures_that_do_not_fit_are_refused_by_their_size() -> None:
    index = class_index([0, 1])
    with pytest.raises(ArgumentError, match=r"divisible by 4 and at least 8; got 30 by 28.*fully_connected"):
        GenerativeNetwork.convolutional(index, (1, 30, 28))
    with pytest.raises(ArgumentError, match=r"`shape` is \(channels, height, width\).*; got \(28, 28\)"):
        GenerativeNetwork.convolutional(index, (28, 28))
    with pytest.raises(ArgumentError, match=r"2 of 4 have none, such as class 1\. Number the classes without gaps"):
        GenerativeNetwork.convolutional(class_index([0, 3]))
    with pytest.raises(ShapeError, match=r"shape \(1, 4, 4\) do not fit the network, which was made for \(1, 8, 8\)"):
        small(digits(4))(torch.rand(2, 1, 4, 4))
    with pytest.raises(ShapeError, match=r"shape \(1, 12, 12\) do not fit.*Resize them"):
        train_generative(small(digits(4)), digits(4, 12), 1)


def test_data_that_does_not_fit_is_refused_by_its_words() -> None:
    data = digits(30)
    network = small(data)
    with pytest.raises(ArgumentError, match=r"Labels must be 0 to 9, as there are 10 classes; 1 are not, such as 12"):
        train_generative(network, (data[0], torch.cat([data[1][:-1], torch.tensor([12])])), 1)
    with pytest.raises(
        ArgumentError, match=r"names the 30 examples of its ClassIndex; this data has 20 examples\. Make"
    ):
        train_generative(network, (data[0][:20], data[1][:20]), 1)
    with pytest.raises(ArgumentError, match=r"this data has \d+ labels that differ"):
        train_generative(network, (data[0], data[1].roll(1)), 1)
    wrong = data[0].clone()
    wrong[7] *= 255
    with pytest.raises(DataError, match=r"Pixels must be from 0 to 1.*; example 7 has 0 to 255\. Divide bytes by 255"):
        train_generative(network, (wrong, data[1]), 1)
    with pytest.raises(DataError, match=r"must be one tensor"):
        train_generative(network, [((one, one), label) for one, label in zip(*data, strict=True)], 1)


def test_numbers_that_are_none_are_refused() -> None:
    data = digits(10)
    network = small(data)
    with pytest.raises(ArgumentError, match=r"`epochs` is a whole number, at least 1; got 0"):
        train_generative(network, data, 0)
    with pytest.raises(ArgumentError, match=r"`learning_rate` is a number above 0; got 0\.0"):
        train_generative(network, data, 1, learning_rate=0.0)
    with pytest.raises(ArgumentError, match=r"`weights` are two numbers from 0, .*; got \(1\.0,\)"):
        train_generative(network, data, 1, weights=(1.0,))
    connected: Any = inspect.unwrap(GenerativeNetwork.fully_connected.__func__)  # type: ignore[attr-defined]
    for widths in ((), 3):
        with pytest.raises(ArgumentError, match=r"`widths` are of the encoder's first and second layer; got (\(\)|3)"):
            connected(GenerativeNetwork, class_index(data[1]), (1, 8, 8), widths=widths)
    with pytest.raises(
        ArgumentError, match=r"The loss is no finite number any more in epoch 1\. Lower `learning_rate`"
    ):
        train_generative(small(data), data, 1, batch_size=1, learning_rate=1e30)


def test_exemplars_that_are_not_there_are_refused(learned: tuple[GenerativeNetwork, Data, xr.DataArray]) -> None:
    network, data, _ = learned
    size = int((data[1] == 3).sum())
    with pytest.raises(
        ArgumentError, match=rf"50, are more than the {size} training examples of class 3\. .*across_cl"
    ):
        generate(network, 2, label=3, k=50)
    with pytest.raises(
        ArgumentError, match=r"50, are more than the \d+ training examples of a predicted class\. Ask for at"
    ):
        generate(network, 2, k=50)
    with pytest.raises(LabelError, match=r"No class 10: the network's classes are 0 to 9"):
        generate(network, 2, label=10)
    with pytest.raises(ArgumentError, match=r"`k`, 61, is more than the 60 training examples"):
        nearest_in_pixels(generate(network, 1, k=1), data, 61)
    never = small(data)
    with torch.no_grad():
        never.class_head.bias[3] = -1e6
    with pytest.raises(ArgumentError, match=r"Of 12800 pictures drawn, 0 were predicted as class 3; 2 were asked for"):
        generate(never, 2, label=3, k=1)


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    data, path = digits(12), tmp_path / "training"
    train_generative(small(data), data, 1, path=path)
    other = (data[0].flip(3), data[1])
    with pytest.raises(
        ChangedDataError, match=r"was begun with other data \(blake2b.*Give the same data, or another path"
    ):
        train_generative(small(data), other, 2, path=path)
    with pytest.raises(ModelMismatchError, match=r"begun with another network: index_head\S* is .* there and .* here"):
        train_generative(small(data, head=SharedClassHead), data, 2, path=path)
    with pytest.raises(ArgumentError, match=r"was begun with batch_size=128; got 4\. Give the same"):
        train_generative(small(data), data, 2, path=path, batch_size=4)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ArgumentError, match=r"holds no generative training, but notes\.txt, training\. Nothing was"):
        train_generative(small(data), data, 1, path=tmp_path)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["notes.txt", "training"]


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    data = digits(12)
    train_generative(small(data), data, 2, path=tmp_path)
    history, snapshot = tmp_path / "history.json", tmp_path / "snapshots" / "000000002.safetensors"
    kept = history.read_text()
    history.write_text(json.dumps(json.loads(kept)[:1]))
    with pytest.raises(RunFormatError, match=r"history\.json does not reach epoch 2\. Restore it"):
        train_generative(small(data), data, 3, path=tmp_path)
    history.write_text(kept)
    snapshot.write_bytes(snapshot.read_bytes()[:-100])
    with pytest.raises(SnapshotError, match=r"000000002\.safetensors is truncated or altered\. Restore it from a copy"):
        train_generative(small(data), data, 3, path=tmp_path)
    (tmp_path / "training.json").write_text("{")
    with pytest.raises(RunFormatError, match=r"training\.json cannot be read"):
        train_generative(small(data), data, 3, path=tmp_path)
