"""The demonstration on MNIST, on files of noise in its format."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from tests.report.making import read
from whence._errors import ArgumentError
from whence.report import demonstrate
from whence.report.demo import _plan


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


@pytest.mark.parametrize(
    ("targets", "ids"), [(None, list(range(355))), (4, [0, 118, 236, 354]), (900, list(range(355)))]
)
def test_targets_among_the_digits_are_all_or_so_many_evenly_spaced(targets: int | None, ids: list[int]) -> None:
    assert list(_plan("digits", None, 1, 40, targets).ids) == ids


def test_a_demonstration_without_a_target_is_refused() -> None:
    with pytest.raises(ArgumentError, match="`targets` must be at least 1, got 0"):
        demonstrate(targets=0)
