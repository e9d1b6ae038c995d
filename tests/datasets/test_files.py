"""Datasets in files: what is written is what is read; a damaged file is named."""

import gzip
import importlib
import inspect
import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn import datasets as sklearn_datasets
from torch.utils.data import default_collate

from whence._errors import ArgumentError, DataError, MissingExtraError
from whence.datasets import Images, as_examples, load_digits, load_image_folder, load_mnist, load_parquet


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


# images in memory and digits


def test_an_image_is_scaled_then_normalised_by_channel() -> None:
    pixels = torch.from_numpy(noise(4, 3, 5, 6))
    images = Images(pixels, torch.arange(4), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    expected = (pixels[2].double() / 255 - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor(
        [0.5, 0.6, 0.7]
    ).view(3, 1, 1)
    torch.testing.assert_close(images[2][0].double(), expected, rtol=1e-6, atol=1e-6)
    together = images.gather(torch.tensor([3, 1]))
    assert all(torch.equal(a, b) for a, b in zip(together, default_collate([images[3], images[1]]), strict=True))
    drawn = images.display(2)
    assert drawn is not None
    assert np.array_equal(drawn, pixels[2].permute(1, 2, 0).numpy())


def test_normalisation_is_part_of_the_fingerprint() -> None:
    pixels, labels = torch.from_numpy(noise(4, 1, 5, 6)), torch.arange(4)
    prints = {as_examples(Images(pixels, labels, mean=(mean,))).fingerprint for mean in (0.0, 0.5)}
    assert len(prints) == 2


@pytest.mark.parametrize(
    ("more", "error", "words"),
    [
        ({"mean": (0.1, 0.2)}, ArgumentError, r"mean needs one number, or one for each of 3 channels; got 2"),
        ({"std": (0.0,)}, ArgumentError, r"std must be positive in every channel; got \[0\.0\]"),
        ({"labels": torch.arange(3)}, DataError, r"got 4 images and 3 labels"),
    ],
)
def test_images_that_do_not_fit_are_refused(more: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Images(**{"pixels": torch.from_numpy(noise(4, 3, 5, 6)), "labels": torch.arange(4), **more})


def test_the_digits_splits_are_disjoint_complete_and_stratified() -> None:
    train, test = load_digits("train"), load_digits("test")
    images = np.asarray(sklearn_datasets.load_digits().images)
    rows = sorted(tuple(row) for part in (train, test) for row in (part.pixels.flatten(1)).tolist())
    assert rows == sorted(tuple(row) for row in images.reshape(len(images), -1).astype(int).tolist())
    for digit in range(10):
        there, here = int((train.labels == digit).sum()), int((test.labels == digit).sum())
        assert here == (there + here) // 5
    assert train[0][0].shape == (1, 8, 8)
    assert (float(train.gather(torch.arange(99))[0].min()), float(train.gather(torch.arange(99))[0].max())) == (0, 1)
    drawn = train.display(0)
    assert drawn is not None
    assert drawn.max() > 200


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"splits of the digits are 'train' and 'test'; got 'val'"):
        inspect.unwrap(load_digits)("val")  # past the type checker of the tests
    with pytest.raises(ArgumentError, match=r"splits of MNIST .* got 'val'"):
        inspect.unwrap(load_mnist)(".", "val")


# MNIST


def idx(array: np.ndarray) -> bytes:
    """Write the IDX format."""
    return struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


IMAGES, LABELS = noise(6, 28, 28), np.arange(6, dtype=np.uint8)
TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    folder = tmp_path / "mnist"
    folder.mkdir()
    (folder / TRAIN_IMAGES).write_bytes(idx(IMAGES))
    (folder / f"{TRAIN_LABELS}.gz").write_bytes(gzip.compress(idx(LABELS), mtime=0))
    (folder / "t10k-images.idx3-ubyte").write_bytes(idx(IMAGES[:2]))
    (folder / "t10k-labels.idx1-ubyte").write_bytes(idx(LABELS[:2]))
    return folder


def test_mnist_is_read_as_written_compressed_or_not(mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = load_mnist(mnist)
    inputs, labels = as_examples(train).batch(range(6))
    np.testing.assert_allclose(inputs[:, 0].numpy(), IMAGES / np.float32(255))
    assert labels.tolist() == LABELS.tolist()
    assert train.class_names == tuple("0123456789")
    monkeypatch.setenv("WHENCE_DATA", str(mnist.parent))
    assert len(load_mnist(split="test")) == 2


def test_mnist_pictures_are_not_normalised(mnist: Path) -> None:
    examples = as_examples(load_mnist(mnist, mean=(0.1307,), std=(0.3081,)))
    np.testing.assert_allclose(examples.batch([3])[0][0, 0].numpy(), (IMAGES[3] / 255 - 0.1307) / 0.3081, atol=1e-5)
    drawn = examples.picture(3)
    assert drawn is not None
    assert np.array_equal(drawn, IMAGES[3])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (TRAIN_IMAGES, idx(IMAGES)[:-1], r"train-images-idx3-ubyte is truncated or altered: its header promises 4704"),
        (TRAIN_IMAGES, idx(IMAGES) + b"x", r"truncated or altered"),
        (TRAIN_IMAGES, idx(LABELS), r"not an IDX file of bytes with 3 axes: it begins with 0x00000801, not 0x00000803"),
        (TRAIN_IMAGES, b"", r"begins with nothing"),
        (TRAIN_IMAGES, idx(IMAGES)[:6], r"not an IDX file"),
        (
            f"{TRAIN_LABELS}.gz",
            gzip.compress(idx(LABELS), mtime=0)[:-9],
            r"labels-idx1-ubyte\.gz is truncated or altered",
        ),
        (f"{TRAIN_LABELS}.gz", b"no gzip", r"labels-idx1-ubyte\.gz is truncated or altered"),
        (f"{TRAIN_LABELS}.gz", gzip.compress(idx(LABELS[:5]), mtime=0), r"do not belong together: 6 images, 5 labels"),
    ],
)
def test_a_damaged_mnist_file_is_named(mnist: Path, name: str, content: bytes, words: str) -> None:
    (mnist / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        load_mnist(mnist)


def test_a_missing_mnist_file_or_folder_is_named(mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (mnist / TRAIN_IMAGES).unlink()
    with pytest.raises(
        DataError,
        match=r"No train-images-idx3-ubyte or .*\.gz in .* \(it has 3 other entries\).*mnist:FOLDER, or --data-dir",
    ):
        load_mnist(mnist)
    with pytest.raises(DataError, match=r"the folder does not exist"):
        load_mnist(mnist / "nowhere")
    monkeypatch.delenv("WHENCE_DATA", raising=False)
    with pytest.raises(
        DataError,
        match=r"No folder for MNIST: give folder= .*mnist:FOLDER, or --data-dir of demo\), or set WHENCE_DATA",
    ):
        load_mnist()


# image folders


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    folder = tmp_path / "pets"
    for number, name in enumerate(("dog", "cat")):
        (folder / name / "more").mkdir(parents=True)
        Image.fromarray(noise(2, 6, 5, 3)[number]).save(folder / name / "b.png")
        Image.fromarray(noise(2, 6, 5, 3)[number] // 2).save(folder / name / "more" / "a.bmp")
        (folder / name / "notes.txt").write_text("not an image")
    return folder


def test_an_image_folder_is_read_class_by_class_in_the_order_of_names(pets: Path) -> None:
    data = load_image_folder(pets)
    examples = as_examples(data)
    assert examples.class_names == ("cat", "dog")
    assert examples.labels.tolist() == [0, 0, 1, 1]
    inputs, labels = examples.batch([2, 0])
    np.testing.assert_allclose(inputs[0].permute(1, 2, 0).numpy(), noise(2, 6, 5, 3)[0] / np.float32(255))
    assert labels.tolist() == [1, 0]
    drawn = examples.picture(2)
    assert drawn is not None
    assert np.array_equal(drawn, noise(2, 6, 5, 3)[0])


def test_an_image_folder_is_resized_and_made_grey_on_demand(pets: Path) -> None:
    Image.fromarray(noise(9, 9, 3)).save(pets / "cat" / "large.png")
    with pytest.raises(DataError, match=r"differ in size: .* is \(6, 5\), .*large\.png is \(9, 9\).*Give size="):
        load_image_folder(pets)
    inputs, _ = as_examples(load_image_folder(pets, mode="L", size=(4, 8))).batch(range(5))
    assert inputs.shape == (5, 1, 4, 8)


def test_an_image_folder_without_classes_images_or_with_a_broken_one_is_refused(pets: Path, tmp_path: Path) -> None:
    for folder in (tmp_path / "nowhere", pets / "cat" / "more"):
        with pytest.raises(DataError, match=r"has no subfolders"):
            load_image_folder(folder)
    (pets / "dog" / "b.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(DataError, match=r"dog/b\.png is not an image that can be read"):
        load_image_folder(pets)
    with pytest.raises(DataError, match=r"dog/b\.png is not an image that can be read: .*Repair it or take it out"):
        _ = load_image_folder(pets, size=(4, 4))[2]
    (pets / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty has no images \(\.bmp, "):
        load_image_folder(pets)


# Parquet


def encoded(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def parquet(path: Path, arrays: list[np.ndarray], labels: list[Any], **columns: str) -> Path:
    """Write images as the hub does."""
    table = pa.table(
        {
            columns.get("image", "image"): [{"bytes": encoded(array), "path": None} for array in arrays],
            columns.get("label", "label"): labels,
        }
    )
    pq.write_table(table, path)
    return path


def test_parquet_is_read_as_written(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", list(noise(3, 6, 5, 3)), [2, 0, 1])
    examples = as_examples(load_parquet(path, mean=(0.5,), class_names=("a", "b", "c")))
    inputs, labels = examples.batch([0, 1, 2])
    np.testing.assert_allclose(inputs.permute(0, 2, 3, 1).numpy(), noise(3, 6, 5, 3) / np.float32(255) - 0.5, atol=1e-6)
    assert labels.tolist() == [2, 0, 1]
    assert examples.class_names == ("a", "b", "c")
    drawn = examples.picture(1)
    assert drawn is not None
    assert np.array_equal(drawn, noise(3, 6, 5, 3)[1])


def test_parquet_columns_may_have_other_names_and_hold_bare_bytes(tmp_path: Path) -> None:
    table = pa.table({"img": [encoded(one) for one in noise(2, 4, 4)], "fine_label": [0, 1]})
    hub = b'{"info": {"features": {"fine_label": {"names": ["apple", "pear"], "_type": "ClassLabel"}}}}'
    pq.write_table(table.replace_schema_metadata({b"huggingface": hub}), tmp_path / "b.parquet")
    data = load_parquet(tmp_path / "b.parquet", image="img", label="fine_label", mode="L")
    assert torch.equal(data.pixels[:, 0], torch.from_numpy(noise(2, 4, 4)))
    assert data.class_names == ("apple", "pear")


def test_parquet_that_is_not_such_data_is_refused(tmp_path: Path) -> None:
    path, images = tmp_path / "c.parquet", list(noise(2, 4, 4, 3))
    with pytest.raises(DataError, match=r"There is no .*c\.parquet"):
        load_parquet(path)
    parquet(path, images, [0, 1], image="img")
    with pytest.raises(DataError, match=r"has no column 'image'; it has img, label\. Give image= and label="):
        load_parquet(path)
    parquet(path, images, ["cat", "dog"])
    with pytest.raises(DataError, match=r"Column 'label' .* whole number in every row; it is (large_)?string"):
        load_parquet(path)
    parquet(path, images, [0, None])
    with pytest.raises(DataError, match=r"whole number in every row"):
        load_parquet(path)
    parquet(path, [images[0], noise(5, 5, 3)], [0, 1])
    with pytest.raises(DataError, match=r"differ in size: row 0 is \(4, 4\), row 1 is \(5, 5\)"):
        load_parquet(path)
    pq.write_table(pa.table({"image": [b"no image"], "label": [0]}), path)
    with pytest.raises(DataError, match=r"Row 0 of .*c\.parquet, column 'image' is not an image"):
        load_parquet(path)
    pq.write_table(pa.table({"image": [1], "label": [0]}), path)
    with pytest.raises(DataError, match=r"Row 0 of .* holds no encoded image"):
        load_parquet(path)
    path.write_bytes(b"PAR1 broken")
    with pytest.raises(DataError, match=r"is not a Parquet file that can be read"):
        load_parquet(path)


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingExtraError, match=r'needs pyarrow, .* pip install "whence\[parquet\]"'):
        load_parquet(tmp_path)
