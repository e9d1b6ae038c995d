"""The demonstration on MNIST, on files of noise in its format."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from tests.report.making import read
from whence.report import demonstrate


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    folder, rng = tmp_path / "mnist", np.random.default_rng(0)
    folder.mkdir()
    for part, count in (("train", 20), ("t10k", 8)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape)
            (folder / f"{part}-{kind}-ubyte").write_bytes(head + array.tobytes())
    return folder


@pytest.mark.parametrize(("targets", "mapped"), [(5, True), (3, False)])
def test_the_page_has_a_map_of_the_targets_if_there_are_enough_to_lay_out(
    mnist: Path, tmp_path: Path, targets: int, mapped: bool
) -> None:
    made = demonstrate(tmp_path / "out", data="mnist", data_dir=mnist, epochs=2, batches=1, targets=targets)
    page = read(made.page)
    assert page.wrong == []
    sections = {element.attributes.get("id") for element in page.of("section")}
    assert ("alike" in sections) is mapped
