"""Small audited runs, and a reader of HTML, for the page's tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

import whence
from whence.datasets import Images, load_digits

VOID = {"meta", "img", "br", "hr", "link", "input"}


@dataclass
class Case:
    """A run, its audit and the targets."""

    run: whence.Run
    audit: whence.Audit
    targets: whence.Examples


@dataclass
class Element:
    """One element of a page, with the text directly in and below it."""

    tag: str
    attributes: dict[str, str | None]
    text: str = ""
    inside: tuple[str, ...] = ()


@dataclass
class Reader(HTMLParser):
    """Reads a page into a list of elements and finds elements that are not closed."""

    elements: list[Element] = field(default_factory=list)
    open: list[Element] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, dict(attrs), inside=tuple(one.tag for one in self.open))
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop().tag != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        for element in self.open:
            if self.open[-1].tag not in {"script", "style"} or element is self.open[-1]:
                element.text += data

    def of(self, *tags: str) -> list[Element]:
        """Return the elements with one of these tags, in order."""
        return [element for element in self.elements if element.tag in tags]


def read(path: Path) -> Reader:
    """Parse a page."""
    reader = Reader()
    reader.feed(path.read_text("utf-8"))
    reader.close()
    return reader


def pictures(count: int, names: tuple[str, ...], seed: int) -> Images:
    """Return pictures of a bar in one of three places, some of them noisy."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(len(names), (count,), generator=draw)
    pixels = torch.randint(0, 200, (count, 1, 6, 6), generator=draw, dtype=torch.uint8)
    for place, label in enumerate(labels.tolist()):
        pixels[place, 0, 2 * label] = 255
    return Images(pixels, labels, class_names=names)


def trained(path: Path, model: nn.Module, data: Any, loss: Any, *, epochs: int = 3) -> whence.Run:
    """Train with recording, four batches an epoch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    with whence.record(path, model, optimizer, data, loss=loss, snapshot_every=3) as recorder:
        for _ in range(epochs):
            for inputs, labels in recorder.batches(-(-len(whence.as_examples(data)) // 4)):
                optimizer.zero_grad()
                loss(model(inputs), labels).backward()
                optimizer.step()
    return whence.open_run(path, model, data, loss=loss)


def picture_case(folder: Path, names: tuple[str, ...] = ("top", "middle", "bottom"), **options: Any) -> Case:
    """Return an audited classifier of pictures; ``options`` go to the audit."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, len(names)))
    run = trained(folder / "run", model, pictures(40, names, 0), functional.cross_entropy)
    targets = whence.as_examples(pictures(20, names, 1))
    return Case(run, whence.audit(run, targets, **options), targets)


def table_case(folder: Path) -> Case:
    """Return an audited regression on rows of 15 numbers."""
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(24, 15, generator=draw)
    data = (inputs, inputs[:, :1] - inputs[:, 1:2])
    run = trained(folder / "run", nn.Linear(15, 1), data, functional.mse_loss)
    targets = whence.as_examples((inputs[:6] + 0.1, data[1][:6]))
    return Case(run, whence.audit(run, targets), targets)


def columns_case(folder: Path) -> Case:
    """Return an audited classifier of rows of 4 numbers, without class names."""
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(32, 4, generator=draw)
    data: tuple[Tensor, Tensor] = (inputs, (inputs[:, 0] > 0).long())
    run = trained(folder / "run", nn.Linear(4, 2), data, functional.cross_entropy)
    targets = whence.as_examples((inputs[:8] + 0.3, data[1][:8]))
    return Case(run, whence.audit(run, targets), targets)


@final
class DigitPrior:
    """A prior of digits that takes no training: brightness along the principal axes of its logit.

    Attributes:
        latent_shape: How many axes.
        bounds: Of the digits.
    """

    bounds = (0.0, 1.0)

    def __init__(self, axes: int = 20) -> None:
        self.latent_shape = (axes,)
        inputs, _ = whence.as_examples(load_digits("train")).batch(range(1442))
        logits = torch.logit(0.02 + 0.96 * inputs.flatten(1).double())
        self._mean = logits.mean(0)
        _, sizes, directions = torch.linalg.svd(logits - self._mean, full_matrices=False)
        self._axes = sizes[:axes, None] / len(logits) ** 0.5 * directions[:axes]

    def decode(self, latents: Tensor) -> Tensor:
        """Return the digits of latents."""
        found: Tensor = (self._mean.to(latents) + latents @ self._axes.to(latents)).sigmoid()
        return found.reshape(-1, 1, 8, 8)
