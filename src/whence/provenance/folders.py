"""A small provenance network in a folder: how it was made, where its training stands, and its tensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
import xarray as xr

from whence._errors import ArgumentError, DataError
from whence._files import make_folder, write_atomically
from whence._numbers import is_whole
from whence.datasets import Examples, as_examples
from whence.provenance.backbones import range_of, small_backbone, some_pictures
from whence.provenance.codes import CodeHead
from whence.provenance.conditions import conditions
from whence.provenance.cosine import CosineHead, MemoryBank, Neighbours
from whence.provenance.distortions import Distortion
from whence.provenance.heads import SharedHead
from whence.provenance.mixture import Mixture, mixture_for
from whence.provenance.network import ProvenanceNetwork
from whence.provenance.objective import Objective
from whence.provenance.parts import Branches
from whence.provenance.storage import load_network, save_network
from whence.provenance.training import Optimization, one_cycle, train, warm_up_and_decay

FORMAT = 1
_MANY = 8192  # examples from which on a class-independent head is compared with some of them a step

HEADS: dict[str, Callable[..., Any]] = {
    "cosine": CosineHead,
    "bank": MemoryBank,
    "codes": partial(CodeHead, base=64, levels=2),
    "shared": SharedHead,
    "neighbours": Neighbours,
}


@final
@dataclass(frozen=True)
class FolderSettings:
    """How a network in a folder is made and trained.

    Attributes:
        head: ``"cosine"``, ``"bank"``, ``"codes"``, ``"shared"`` (the paper's; conditional only) or ``"neighbours"``,
            which is not trained: nearest neighbours in a classifier's embedding.
        conditional: Whether the index is one within the class.
        distort: Train each batch also distorted, so that distorted pictures keep their index.
        width: Of the embedding.
        epochs: Passes over the training data.
        seed: Of initial weights, order and distortions.

    Raises:
        ArgumentError: If there is no such head, it does not go with the rest, or a number is not what it should be.
    """

    head: str = "cosine"
    conditional: bool = False
    distort: bool = True
    width: int = 128
    epochs: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            near = " or ".join(get_close_matches(str(self.head), HEADS)) or "none is close"
            raise ArgumentError(f"No head {self.head!r} (similar: {near}). Choose one of {', '.join(HEADS)}.")
        if self.head == "shared" and not self.conditional:
            raise ArgumentError("The head shared numbers examples within their class: make the network conditional.")
        for name, least in (("width", 1), ("epochs", 1), ("seed", 0)):
            if not is_whole(getattr(self, name)) or getattr(self, name) < least:
                raise ArgumentError(f"`{name}` is a whole number, at least {least}; got {getattr(self, name)!r}.")


@final
@dataclass(frozen=True, eq=False)
class NetworkFolder:
    """A trained network with what its folder says of it.

    Attributes:
        network: In evaluation mode.
        settings: How it was made.
        source: What the training data is called.
        history: Of its training, as `train` gives it; None where a folder was only opened.
    """

    network: ProvenanceNetwork
    settings: FolderSettings
    source: str
    history: xr.DataArray | None = None


def train_folder(
    train_data: Any, folder: str | Path, settings: FolderSettings | None = None, *, source: str = ""
) -> NetworkFolder:
    """Train a small network on pictures in a folder; one that was cut off goes on there, one that is whole is opened.

    Args:
        train_data: Pictures and labels: anything `as_examples` takes.
        folder: Holds ``settings.json``, a checkpoint, and in the end ``network.safetensors``.
        settings: How it is made.
        source: What the training data is called, for those who open the folder.

    Raises:
        ArgumentError: If the folder holds a network of other settings, or the data is not of pictures.
        ChangedDataError: If it holds a network of other data.
        DataError: If what it holds cannot be read.
        DiskError: If the disk is full or refuses to write.
    """
    examples, place, asked = as_examples(train_data), Path(folder), settings or FolderSettings()
    network = _made(examples, asked)
    make_folder(place)
    if (place / "settings.json").exists():
        _refuse_other(place, asked)
    else:
        told = {"format": FORMAT, **asdict(asked), "source": source, "fingerprint": examples.fingerprint}
        write_atomically(place / "settings.json", (json.dumps(told, indent=1) + "\n").encode())
    trained = network.head.trained
    history = train(
        network,
        examples,
        asked.epochs,
        objective=quick_objective(len(examples), conditional=asked.conditional),
        distort=distortion_of(examples) if asked.distort else None,
        optimization=quick_optimization(asked.epochs, len(examples), warm_up=trained),
        seed=asked.seed,
        path=place / "checkpoint",
    )
    if not (place / "network.safetensors").exists():
        save_network(network, place / "network.safetensors")
    return replace(open_folder(place, examples), history=history)


def folder_settings(folder: str | Path) -> tuple[FolderSettings, str]:
    """Return how the network in a folder is made, and what its training data is called.

    Raises:
        DataError: If the folder holds no network.
    """
    place, names = Path(folder), [one.name for one in fields(FolderSettings)]
    advice = "Give a folder that train_folder, or whence provenance train, wrote."
    try:
        found = json.loads((place / "settings.json").read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{place} holds no provenance network: {error}. {advice}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT or not {"source", *names} <= found.keys():
        raise DataError(f"{place} holds no provenance network of format {FORMAT}. {advice}")
    return FolderSettings(**{name: found[name] for name in names}), str(found["source"])


def open_folder(folder: str | Path, train_data: Any) -> NetworkFolder:
    """Open the network that `train_folder` left.

    Args:
        folder: The folder.
        train_data: The data that it was trained on.

    Raises:
        DataError: If the folder holds no network, or one whose training was cut off.
        ChangedDataError: If it was trained on other data.
        ArgumentError: If it was made by a library whose small network was another.
    """
    place, (settings, source) = Path(folder), folder_settings(folder)
    if not (place / "network.safetensors").exists():
        raise DataError(
            f"{place} holds a network whose training was cut off. Go on with the same whence provenance train, or "
            "train_folder."
        )
    network = load_network(_made(as_examples(train_data), settings), place / "network.safetensors")
    return NetworkFolder(network, settings, source)


def distortion_of(examples: Examples) -> Mixture:
    """Return the distortions that suit the size and range of pictures."""
    seen = some_pictures(examples)
    return mixture_for(min(seen.shape[2:]), *range_of(seen))


def conditions_of(examples: Examples) -> Mapping[str, Distortion]:
    """Return the paper's 15 conditions for the size and range of pictures."""
    seen = some_pictures(examples)
    return conditions(*range_of(seen), side=min(seen.shape[2:]))


def isolated_classifier(folder: str | Path, train_data: Any) -> NetworkFolder:
    """Return the classifier that a network's folder would hold without an index, with `Neighbours` behind it.

    It is trained once, with the settings of the network and in its folder, as ``isolated``; the folder of a network
    with the head ``"neighbours"`` holds it already. ``nn.Sequential(network.backbone, network.class_branch)`` gives its
    logits.

    Args:
        folder: Of the network.
        train_data: The data that it was trained on.

    Raises:
        DataError: If the folder holds no network, or one whose training was cut off.
        ChangedDataError: If it was trained on other data.
        DiskError: If the disk is full or refuses to write.
    """
    opened = open_folder(folder, train_data)
    if opened.settings.head == "neighbours":
        return opened
    settings = replace(opened.settings, head="neighbours", conditional=False)
    return train_folder(train_data, Path(folder) / "isolated", settings, source=opened.source)


def quick_objective(count: int, *, conditional: bool = False) -> Objective:
    """Return the losses for a small network of so many examples; a large index is compared with some at a step."""
    return Objective(smoothing=0.0, negatives=_MANY // 2 if count > _MANY and not conditional else None)


def quick_optimization(epochs: int, count: int, *, warm_up: bool = True) -> Optimization:
    """Return a fast schedule, with a warm-up where it is wanted and there is time for one."""
    size = 128 if count <= _MANY else 256
    schedule = one_cycle if epochs > 1 else warm_up_and_decay
    return Optimization(4e-3, batch_size=size, schedule=schedule, warm_up=int(warm_up and epochs > 2))


def _made(examples: Examples, settings: FolderSettings) -> ProvenanceNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return ProvenanceNetwork(
            small_backbone(examples),
            examples,
            head=HEADS[settings.head],
            conditional=settings.conditional,
            branches=Branches(width=settings.width),
        )


def _refuse_other(place: Path, asked: FolderSettings) -> None:
    """Check that what a folder holds is made as asked.

    Raises:
        ArgumentError: If it is not.
    """
    found, _ = folder_settings(place)
    for one in fields(FolderSettings):
        was, is_now = getattr(found, one.name), getattr(asked, one.name)
        if was != is_now:
            raise ArgumentError(
                f"{place} holds a network of other settings: {one.name} was {was!r} and is {is_now!r}. Give the same "
                "to go on there, or another folder."
            )
