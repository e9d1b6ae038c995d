"""The setting that benchmarks share: the paper's LeNet-5 on MNIST (appendix A.3: 200 batches of 256, Adam 1.5e-5)."""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from whence import as_examples
from whence.datasets import load_mnist

BATCH = 256
BATCHES = 200
RATE = 1.5e-5


def arguments(about: str, *, device: bool = False) -> argparse.ArgumentParser:
    """Return a parser with what every MNIST benchmark takes, and ``--device`` where that may be a GPU."""
    parser = argparse.ArgumentParser(description=about)
    data = os.environ.get("WHENCE_DATA")
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=Path(data) / "mnist" if data else None,
        required=data is None,
        help="folder of the four MNIST files (default: $WHENCE_DATA/mnist)",
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    if device:
        parser.add_argument("--device", default="cpu", help="where networks are; cpu or cuda")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    return parser


def lenet5(seed: int = 0) -> nn.Sequential:
    """Return LeNet-5 (61,706 parameters), newly initialised."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def training_data(folder: Path, batches: int = BATCHES) -> tuple[Tensor, Tensor]:
    """Return the first ``batches`` batches of MNIST's training images, in [0, 1], and their labels."""
    inputs, labels = as_examples(load_mnist(folder, "train")).batch(range(batches * BATCH))
    return inputs, labels


def target_data(folder: Path, targets: int = BATCH) -> tuple[Tensor, Tensor]:
    """Return the first test images and their labels."""
    inputs, labels = as_examples(load_mnist(folder, "test")).batch(range(targets))
    return inputs, labels


def plain_batches(data: tuple[Tensor, Tensor], seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Return one epoch of batches, shuffled, for the loop that is not recorded."""
    order = torch.randperm(len(data[1]), generator=torch.Generator().manual_seed(seed))
    for ids in order.split(BATCH):
        yield data[0].index_select(0, ids), data[1].index_select(0, ids)


def named(name: str, device: str) -> str:
    """Return what results measured on a device are called."""
    return name if device == "cpu" else f"{name}-{device}"


def finish(device: str) -> None:
    """Wait until a device has done all that it was given."""
    if device != "cpu":
        torch.accelerator.synchronize()


def keep_freed_memory() -> None:
    """Let glibc keep freed memory, as the command line does: large temporaries are then not mapped anew each time."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL("libc.so.6")
        for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 2**28)):
            libc.mallopt(option, value)
