"""A trained sparse autoencoder with its figures, in memory and on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import xarray as xr
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from whence._errors import ArgumentError, DataError
from whence._files import make_folder, write_atomically
from whence.audit.storage import refuse_existing
from whence.invariants.autoencoders.network import Relu, SparseAutoencoder, TopK

FORMAT = 1
_ACTIVATIONS = {"Relu": Relu, "TopK": TopK}


@final
@dataclass(frozen=True, eq=False)
class TrainedAutoencoder:
    """What `train_autoencoder` gives.

    Attributes:
        autoencoder: The autoencoder.
        layer: Name of the module whose output it is of.
        figures: What `autoencoder_figures` gives, and the training's ``history``.
    """

    autoencoder: SparseAutoencoder
    layer: str
    figures: xr.Dataset = field(default_factory=xr.Dataset)


def checked_trained(trained: Any) -> None:
    """Refuse what is no trained autoencoder.

    Raises:
        ArgumentError: If it is none.
    """
    if not isinstance(trained, TrainedAutoencoder):
        raise ArgumentError(
            f"A TrainedAutoencoder is needed, as train_autoencoder and load_autoencoder give it; got a "
            f"{type(trained).__name__}. Of an autoencoder of your own, TrainedAutoencoder(autoencoder, layer)."
        )


def save_autoencoder(trained: TrainedAutoencoder, path: str | Path) -> None:
    """Write an autoencoder to one safetensors file, with layer and figures as JSON in its header; whole or not at all.

    Raises:
        AuditError: If something stands at ``path``.
        ArgumentError: If a file stands where its folder would be, or this is no trained autoencoder.
        DiskError: If the disk is full or refuses to write.
    """
    checked_trained(trained)
    place = Path(path)
    refuse_existing(place)
    make_folder(place.parent)
    told = {
        "format": FORMAT,
        "layer": trained.layer,
        **trained.autoencoder.told(),
        "figures": trained.figures.to_dict(),
    }
    tensors = {name: one.detach().cpu().contiguous().clone() for name, one in trained.autoencoder.state_dict().items()}
    metadata = {"whence": json.dumps(told)}
    write_atomically(place, lambda temporary: save_file(tensors, temporary, metadata))


def load_autoencoder(path: str | Path) -> TrainedAutoencoder:
    """Read what `save_autoencoder` wrote; the autoencoder is on the CPU, in the type it had.

    Raises:
        DataError: If there is no autoencoder at ``path``, or the file was truncated or altered.
        ArgumentError: If it is of another format.
    """
    place = Path(path)
    try:
        with safe_open(place, framework="pt") as file:
            told = json.loads((file.metadata() or {})["whence"])
        if told["format"] != FORMAT:
            raise ArgumentError(
                f"{place} has format {told['format']!r}; this version reads format {FORMAT}. Load it with the version "
                "of Whence that wrote it."
            )
        return TrainedAutoencoder(_made(told, place), told["layer"], xr.Dataset.from_dict(told["figures"]))
    except (OSError, SafetensorError, KeyError, TypeError, AttributeError, RuntimeError, json.JSONDecodeError) as error:
        raise DataError(
            f"{place} holds no autoencoder that can be read: {error}. Give the file that save_autoencoder wrote, or "
            "restore it from a copy."
        ) from error


def _made(told: dict[str, Any], place: Path) -> SparseAutoencoder:
    """Return the autoencoder that a file describes."""
    activation = dict(told["activation"])
    made = _ACTIVATIONS[activation.pop("kind")](**activation)
    tensors = load_file(place)
    autoencoder = SparseAutoencoder(told["width"], told["features"], made, channel_axis=told["channel_axis"])
    autoencoder.to(tensors["decoder"].dtype).load_state_dict(tensors)
    return autoencoder
