"""What `benchmarks.counterfactual` trains: small networks on the first images of MNIST, and how.

The multilayer networks and the convolutional one read single images. The transformer reads sequences: each four images
in a row are one, in the order of the file, and the largest of their digits is its label. An image is one token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

import whence
from benchmarks._mnist import finish
from whence.datasets import load_mnist

TRAIN, TEST, TARGETS = 5000, 500, 12
SHARES, SETS = (0.01, 0.05), 30
MEAN, DEVIATION = 0.1307, 0.3081
LENGTH = 4  # images in a sequence
Data = tuple[Tensor, Tensor]
Load = Callable[[Path, Literal["train", "test"], int], Data]


def images(folder: Path, part: Literal["train", "test"], count: int) -> Data:
    """Return the first images of a part of MNIST, normalised, and their labels."""
    read = load_mnist(folder, part, mean=(MEAN,), std=(DEVIATION,))
    x, y = whence.as_examples(read).batch(range(count))
    return x, y


def sequences(folder: Path, part: Literal["train", "test"], count: int) -> Data:
    """Return the first sequences of images of a part of MNIST, and the largest digit of each."""
    x, y = images(folder, part, LENGTH * count)
    return x.reshape(count, LENGTH, 28, 28), y.reshape(count, LENGTH).amax(1)


def logistic() -> nn.Module:
    """Return logistic regression."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


def gelu(dropout: float = 0.0) -> nn.Module:
    """Return a network of three layers, smooth."""
    return _layers(nn.GELU, dropout)


def relu(dropout: float = 0.0) -> nn.Module:
    """Return a network of three layers, not smooth."""
    return _layers(nn.ReLU, dropout)


def convolution() -> nn.Module:
    """Return a network with two convolutions, smooth."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2, padding=2), nn.GELU(), nn.AvgPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(784, 10),
    )  # fmt: skip


def transformer(width: int = 32) -> nn.Module:
    """Return a transformer of two layers that reads sequences of images, smooth."""
    block = partial(nn.TransformerEncoderLayer, width, 4, 2 * width, dropout=0.0, activation="gelu", batch_first=True)
    return nn.Sequential(
        nn.Flatten(2), nn.Linear(784, width), block(), block(), nn.Flatten(), nn.Linear(LENGTH * width, 10)
    )  # fmt: skip


def _layers(act: Callable[[], nn.Module], dropout: float) -> nn.Module:
    def after() -> list[nn.Module]:
        return [act(), nn.Dropout(dropout)] if dropout else [act()]

    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), *after(), nn.Linear(128, 64), *after(), nn.Linear(64, 10))


@dataclass(frozen=True)
class Setting:
    """A network and its training.

    Attributes:
        network: Makes the network; of some, given a dropout after each activation.
        optimizer: Makes the optimizer.
        batch: Examples a step.
        epochs: Passes over the data.
        bars: The score to reach at each share removed, None where there is none.
        load: Reads the data.
        count: Training examples.
    """

    network: Callable[..., nn.Module]
    optimizer: Callable[[Any], Optimizer]
    batch: int
    epochs: int
    bars: tuple[float, float] | None = None
    load: Load = images
    count: int = TRAIN


SETTINGS: dict[str, Setting] = {
    "lr": Setting(logistic, lambda p: SGD(p, 0.01), 32, 20, (0.98, 0.98)),
    "gelu": Setting(gelu, lambda p: SGD(p, 0.05), 64, 10, (0.94, 0.90)),
    "relu": Setting(relu, lambda p: SGD(p, 0.05), 64, 10),
    "gelu, momentum": Setting(gelu, lambda p: SGD(p, 0.01, momentum=0.9), 64, 10),
    "relu, momentum, 50 epochs": Setting(relu, lambda p: SGD(p, 0.01, momentum=0.9), 64, 50, (0.35, 0.27)),
    "gelu, Adam": Setting(gelu, lambda p: Adam(p, 3e-4), 64, 10),
    "convolution": Setting(convolution, lambda p: SGD(p, 0.1), 64, 5, count=3000),
    "transformer": Setting(transformer, lambda p: Adam(p, 3e-4), 64, 6, load=sequences, count=3000),
}


def network(setting: Setting, dtype: torch.dtype = torch.float32, *, seed: int = 0, dropout: float = 0.0) -> nn.Module:
    """Return the network of a setting, newly initialised: the same in every type."""
    torch.manual_seed(seed)
    return (setting.network(dropout) if dropout else setting.network()).to(dtype)


def training_data(setting: Setting, folder: Path) -> Data:
    """Return what a setting trains on."""
    return setting.load(folder, "train", setting.count)


def test_data(setting: Setting, folder: Path) -> Data:
    """Return the test data of a setting; the first of them are the targets."""
    return setting.load(folder, "test", TEST)


def train(setting: Setting, data: Data, path: Path | None, *, device: str = "cpu") -> tuple[nn.Module, float]:
    """Train, recorded if there is a path; return the network and the seconds."""
    start = time.perf_counter()
    model = (
        train_plain(setting, data, device=device)
        if path is None
        else train_recorded(setting, data, path, device=device)
    )
    finish(device)
    return model, time.perf_counter() - start


def train_recorded(
    setting: Setting, data: Data, path: Path, *, seed: int = 0, dropout: float = 0.0, device: str = "cpu"
) -> nn.Module:
    """Train in the type of the data, recorded; the seed decides initialisation, order and dropout."""
    model = network(setting, data[0].dtype, seed=seed, dropout=dropout).to(device)
    optimizer = setting.optimizer(model.parameters())
    with whence.record(path, model, optimizer, data, loss=F.cross_entropy) as recorder:
        for _ in range(setting.epochs):
            for x, y in recorder.batches(batch_size=setting.batch, shuffle=True, seed=seed):
                optimizer.zero_grad()
                F.cross_entropy(model(x.to(device)), y.to(device)).backward()
                optimizer.step()
    return model


def train_plain(
    setting: Setting,
    data: Data,
    batches: Iterable[Tensor] | None = None,
    *,
    seed: int = 0,
    dropout: float = 0.0,
    weights: Tensor | None = None,
    device: str = "cpu",
) -> nn.Module:
    """Train without recording; given batches of ids are those of a recorded run, weights multiply the losses."""
    model = network(setting, data[0].dtype, seed=seed, dropout=dropout).to(device)
    optimizer = setting.optimizer(model.parameters())
    for ids in shuffled(setting, len(data[1]), seed) if batches is None else batches:
        optimizer.zero_grad()
        out, labels = model(data[0][ids].to(device)), data[1][ids].to(device)
        if weights is None:
            F.cross_entropy(out, labels).backward()
        else:
            ((F.cross_entropy(out, labels, reduction="none") * weights[ids]).sum() / len(ids)).backward()
        optimizer.step()
    return model


def shuffled(setting: Setting, count: int, seed: int) -> Iterator[Tensor]:
    """Return the ids of every batch of a training, each epoch in an order of its own."""
    for epoch in range(setting.epochs):
        generator = torch.Generator().manual_seed(setting.epochs * seed + epoch)
        yield from torch.randperm(count, generator=generator).split(setting.batch)
