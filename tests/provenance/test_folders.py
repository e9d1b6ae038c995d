"""A small network in a folder: the backbone suits any size, a training goes on, and what is not the same is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from whence._errors import ArgumentError, ChangedDataError, DataError
from whence.datasets import Images, as_examples
from whence.provenance import (
    CONDITIONS,
    DISTORT,
    FolderSettings,
    Mixture,
    Occlusion,
    Translation,
    conditions,
    folder_settings,
    folders,
    mixture_for,
    open_folder,
    retrieval_sheet,
    retrieve,
    small_backbone,
    train_folder,
)


def images(count: int = 40, seed: int = 0, side: int = 8) -> Images:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    pixels = torch.randint(0, 120, (count, 1, side, side), generator=draw, dtype=torch.uint8)
    for place, label in enumerate(labels.tolist()):
        pixels[place, 0, 2 * label : 2 * label + 2] = 255
    return Images(pixels, labels, class_names=("top", "middle", "bottom"))


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 8, 8), (3, 9, 13), (1, 16, 16), (1, 28, 28), (3, 40, 33)])
def test_the_small_backbone_suits_pictures_of_any_size(shape: tuple[int, int, int]) -> None:
    data = (torch.rand(6, *shape), torch.tensor([0, 1, 0, 1, 0, 1]))
    backbone = small_backbone(data)
    assert backbone(data[0]).shape == (6, 256)
    widths = [one.out_channels for one in backbone.modules() if isinstance(one, nn.Conv2d)]
    assert widths == [16, 32, 64]


def test_mnist_is_halved_three_times_and_digits_once() -> None:
    for side, times in ((8, 1), (16, 2), (28, 3), (64, 3)):
        backbone = small_backbone((torch.rand(4, 1, side, side), torch.tensor([0, 1, 0, 1])))
        assert sum(isinstance(one, nn.MaxPool2d) for one in backbone.modules()) == times


def test_the_backbone_itself_takes_away_the_training_pictures_mean_and_divides_by_their_deviation() -> None:
    pictures = torch.rand(50, 2, 6, 6) * torch.tensor([1.0, 3.0]).view(1, 2, 1, 1)
    first = small_backbone((pictures, torch.arange(50) % 2))[0]  # type: ignore[index]
    found = first(pictures).numpy()
    np.testing.assert_allclose(found.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(found.std((0, 2, 3)), 1, rtol=1e-5)
    same = torch.full((4, 1, 6, 6), 0.5)
    assert torch.isfinite(small_backbone((same, torch.tensor([0, 1, 0, 1])))[0](same)).all()  # type: ignore[index]


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"The small backbone takes pictures, .* a batch is \(4, 5\)\. For other"):
        small_backbone((torch.rand(4, 5), torch.tensor([0, 1, 0, 1])))


def test_strengths_in_pixels_go_with_the_side_and_the_names_say_them() -> None:
    assert dict(conditions(side=28)) == dict(CONDITIONS)
    assert mixture_for(28) == DISTORT
    small = conditions(side=8)
    assert len(small) == 15
    assert small["occlusion 1×1"] == Occlusion(1)
    assert small["occlusion 2×2"] == Occlusion(2)
    assert small["translation ±0.857 px"] == Translation(3 * 8 / 28)
    assert {"Gaussian blur σ=0.286", "Gaussian blur σ=0.571", "motion blur 3 px", "rotation ±30°"} <= small.keys()
    found = mixture_for(8, -1.0, 2.0)
    assert (found.occlusion, found.low, found.high, found.rotation) == (2, -1.0, 2.0, 40.0)
    assert found.shift == pytest.approx(4 * 8 / 28)
    with pytest.raises(ArgumentError, match="`side` must be a whole number of pixels, at least 4; got 3"):
        conditions(side=3)
    assert all(
        one(torch.rand(2, 1, 4, 4), torch.Generator()).shape == (2, 1, 4, 4) for one in conditions(side=4).values()
    )


def test_distortions_suit_the_range_of_the_pictures() -> None:
    pictures, labels = torch.rand(8, 1, 28, 28), torch.arange(8) % 2
    assert folders.distortion_of(as_examples((pictures, labels))) == DISTORT
    wide = folders.distortion_of(as_examples((pictures * 4 - 1, labels)))
    assert isinstance(wide, Mixture)
    assert (wide.low, wide.high) == (float((pictures * 4 - 1).min()), float((pictures * 4 - 1).max()))


@pytest.mark.parametrize(
    "options",
    [
        {"head": "cosine"},
        {"head": "bank", "distort": False},
        {"head": "codes", "conditional": True},
        {"head": "shared", "conditional": True, "width": 16},
        {"head": "neighbours"},
    ],
    ids=lambda one: one["head"],
)
def test_every_head_is_trained_kept_and_opened_as_it_was(options: dict[str, Any], tmp_path: Path) -> None:
    settings = FolderSettings(epochs=3, **options)
    before = torch.get_rng_state()
    made = train_folder(images(), tmp_path / "n", settings, source="bars")
    assert torch.equal(torch.get_rng_state(), before)
    assert made.history is not None
    assert made.history.sizes["epoch"] == 3
    assert folder_settings(tmp_path / "n") == (settings, "bars")
    again = open_folder(tmp_path / "n", images())
    assert (again.settings, again.source, again.network.training) == (settings, "bars", False)
    inputs = torch.rand(5, 1, 8, 8)
    assert retrieve(again.network, inputs, 2).identical(retrieve(made.network, inputs, 2))


def test_a_training_that_was_cut_off_goes_on_to_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, whole = FolderSettings(epochs=3), tmp_path / "whole"
    train_folder(images(), whole, settings)

    def stop(*_args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(folders, "save_network", stop)
        with pytest.raises(KeyboardInterrupt):
            train_folder(images(), tmp_path / "cut", settings)
    with pytest.raises(DataError, match=r"holds a network whose training was cut off\. Go on with the same"):
        open_folder(tmp_path / "cut", images())
    train_folder(images(), tmp_path / "cut", settings)
    one, other = (load_file(place / "network.safetensors") for place in (tmp_path / "cut", whole))
    assert all(torch.equal(one[name], other[name]) for name in one.keys() | other.keys())
    kept = (whole / "network.safetensors").stat().st_mtime_ns
    train_folder(images(), whole, settings)  # it is whole
    assert (whole / "network.safetensors").stat().st_mtime_ns == kept


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("trained") / "n"
    train_folder(images(), place, FolderSettings(epochs=1))
    return place


def test_other_settings_other_data_and_no_network_are_refused_in_words(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"holds a network of other settings: width was 128 and is 64\. Give the"):
        train_folder(images(), trained, FolderSettings(epochs=1, width=64))
    other = images(seed=1)
    with pytest.raises(ChangedDataError, match="is of other data"):
        train_folder(other, trained, FolderSettings(epochs=1))
    with pytest.raises(ChangedDataError, match="names examples of other data, blake2b:"):
        open_folder(trained, other)
    with pytest.raises(DataError, match=r"nothing holds no provenance network: .* Give a folder that train_folder"):
        open_folder(tmp_path / "nothing", images())
    shutil.copytree(trained, tmp_path / "copy")
    told = json.loads((trained / "settings.json").read_text())
    (tmp_path / "copy" / "settings.json").write_text(json.dumps({**told, "format": 9}))
    with pytest.raises(DataError, match="copy holds no provenance network of format 1"):
        folder_settings(tmp_path / "copy")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "cosin"}, r"No head 'cosin' \(similar: cosine or codes\)\. Choose one of cosine, bank, codes,"),
        ({"head": "shared"}, "The head shared numbers examples within their class: make the network conditional."),
        ({"epochs": 0}, "`epochs` is a whole number, at least 1; got 0."),
        ({"width": 0}, "`width` is a whole number, at least 1; got 0."),
        ({"seed": -1}, "`seed` is a whole number, at least 0; got -1."),
    ],
)
def test_settings_say_what_they_do_not_take(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        FolderSettings(**options)


def test_a_sheet_has_a_row_an_input_and_its_pictures_are_the_examples(trained: Path) -> None:
    data = images()
    network, ids = open_folder(trained, data).network, [4, 0, 2]
    found = retrieve(network, data.gather(torch.tensor(ids))[0], 2)
    sheet = np.asarray(retrieval_sheet(found, data, ids, data, size=80))
    cell = (80 + 8, 80 + 28 + 8)
    assert sheet.shape == (14 + 16 + 3 * cell[1], 8 + 3 * cell[0] + 24, 3)
    for row, one in enumerate(ids):
        top = 14 + 8 + row * cell[1]
        shown = [(8, one), *((8 + 24 + (at + 1) * cell[0], int(found["exemplar"][row, at])) for at in range(2))]
        for left, example in shown:
            square = sheet[top : top + 80, left : left + 80]
            np.testing.assert_array_equal(square[5::10, 5::10, 0], data.pixels[example, 0].numpy())


def test_a_sheet_says_what_it_cannot_draw(trained: Path) -> None:
    data = images()
    found = retrieve(open_folder(trained, data).network, data.gather(torch.tensor([0]))[0], 2)
    with pytest.raises(ArgumentError, match="`ids` has one id for each of 1 inputs; got 96 and 2 ids"):
        retrieval_sheet(found, data, [0, 1], data)
    with pytest.raises(ArgumentError, match="Example 0 is no image, so there is nothing to draw"):
        retrieval_sheet(found, (torch.rand(4, 5), torch.zeros(4)), [0], data)


def test_a_folder_holds_a_classifier_without_index_beside_its_network(tmp_path: Path) -> None:
    data = as_examples(images())
    train_folder(data, tmp_path / "net", FolderSettings(epochs=1, width=16, seed=3))
    found = folders.isolated_classifier(tmp_path / "net", data)
    assert found.settings == FolderSettings("neighbours", epochs=1, width=16, seed=3)
    assert (tmp_path / "net" / "isolated" / "network.safetensors").exists()
    again = folders.isolated_classifier(tmp_path / "net" / "isolated", data)  # which it is itself
    assert not (tmp_path / "net" / "isolated" / "isolated").exists()
    inputs = data.batch(range(4))[0]
    assert torch.equal(again.network(inputs).classes, found.network(inputs).classes)


def test_conditions_suit_the_pictures() -> None:
    assert list(folders.conditions_of(as_examples(images(side=14)))) == list(conditions(side=14))
