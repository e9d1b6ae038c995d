"""A latent flow in a folder: what it is and how it came out, and its tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from whence._devices import as_device
from whence._errors import ArgumentError, ChangedDataError, DataError
from whence._files import make_folder, write_atomically
from whence._numbers import json_ready
from whence.invariants.priors.latent_flow import LatentFlow, Sizes

PRIOR, TENSORS, CHECKPOINT = "prior.json", "prior.safetensors", "checkpoint"
FORMAT = 1
_KIND = "latent flow"


def save_prior(prior: LatentFlow, folder: Path, told: Mapping[str, Any]) -> None:
    """Write a prior: its tensors, then what it is, whole or not at all.

    Args:
        prior: What to write.
        folder: Made if it is not there.
        told: What else to tell of it, as JSON's types; numbers that are not finite become null.

    Raises:
        ArgumentError: If a file stands where the folder would be.
        DiskError: If the disk is full or refuses to write.
    """
    make_folder(folder)
    tensors = {name: one.detach().cpu().contiguous().clone() for name, one in prior.state_dict().items()}
    write_atomically(folder / TENSORS, lambda temporary: save_file(tensors, temporary))
    facts = {"format": FORMAT, "kind": _KIND, **vars(prior.sizes), **told, "steps": prior.steps, "rule": prior.rule}
    write_atomically(folder / PRIOR, (json.dumps(json_ready(facts), indent=1, allow_nan=False) + "\n").encode())


def prior_facts(folder: str | Path) -> dict[str, Any]:
    """Return what the folder of a trained prior tells: sizes, settings, realism, and the history of its training.

    ``realism`` is that of draws of the prior against held-out images, beside that of real images (see `Realism`);
    ``history`` has a row an epoch of what ``measures`` names: nats an image, squared error of velocity, shares of
    images, CPU-seconds, None where an epoch has none.

    Raises:
        DataError: If there is no trained prior.
    """
    place = Path(folder)
    if not (place / PRIOR).exists() and (place / CHECKPOINT).exists():
        raise DataError(
            f"{place} holds a prior whose training was cut off. Go on with the same whence prior train, or train_prior."
        )
    advice = "Give a folder that train_prior, or whence prior train, wrote."
    try:
        found = json.loads((place / PRIOR).read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{place} holds no prior: {error}. {advice}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT or found.get("kind") != _KIND:
        raise DataError(f"{place} holds no latent flow of format {FORMAT}. {advice}")
    return found


def load_prior(folder: str | Path, *, device: torch.device | str | None = None) -> LatentFlow:
    """Open the prior that `train_prior` left; its parameters want no gradient.

    Args:
        folder: The folder.
        device: Where to put it; the CPU if left out.

    Raises:
        ArgumentError: If there is no such device.
        DataError: If there is no trained prior, or its files cannot be read.
    """
    there, place, facts = as_device(device), Path(folder), prior_facts(folder)
    try:
        sizes = Sizes(tuple(facts["shape"]), facts["latent"], facts["width"], facts["hidden"], facts["blocks"])
        prior = LatentFlow(sizes, steps=facts["steps"], rule=facts["rule"])
        prior.load_state_dict(load_file(place / TENSORS))
    except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, ArgumentError) as error:
        raise DataError(f"The prior at {place} cannot be read: {error}. Restore it, or train it again.") from error
    return prior.eval().requires_grad_(False).to(there)


def refuse_other(folder: Path, told: Mapping[str, Any]) -> None:
    """Check that the prior in a folder is of the data and settings that are told.

    Raises:
        ArgumentError: If it is of other settings.
        ChangedDataError: If it is of other data.
        DataError: If it cannot be read.
    """
    found = prior_facts(folder)
    if found.get("fingerprint") != told["fingerprint"]:
        raise ChangedDataError(
            f"{folder} holds a prior of other data: {found.get('fingerprint')}, not {told['fingerprint']}. Give the "
            "data it was trained on, or another folder."
        )
    for name, value in told.items():
        if found.get(name) != value:
            raise ArgumentError(
                f"{folder} holds a prior of other settings: {name} was {found.get(name)!r} and is {value!r}. Give the "
                "same to open it, or another folder."
            )
