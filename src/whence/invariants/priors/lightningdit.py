"""LightningDiT from its published files: configuration, transformer, statistics of latents, VA-VAE."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from whence._errors import ArgumentError, DataError
from whence._extras import require
from whence._numbers import is_whole
from whence.invariants.priors.lightning_decoder import decoder_of
from whence.invariants.priors.lightning_flow import LightningFlow
from whence.invariants.priors.lightning_networks import LightningTransformer, TransformerSizes

STATISTICS = "latents_stats.pt"
_OTHER = (KeyError, RuntimeError, ValueError, IndexError, ZeroDivisionError)  # of tensors that are another network's
_HEADS = {"B": 12, "L": 16, "XL": 16, "1p0B": 24, "1p6B": 28}  # of the published sizes


def load_lightningdit(
    config: Mapping[str, Any] | str | Path,
    checkpoint: str | Path,
    vae_checkpoint: str | Path,
    *,
    statistics: str | Path | None = None,
    steps: int | None = None,
    label: int | None = None,
) -> LightningFlow:
    """Open a LightningDiT and its VA-VAE from the files that their authors publish; nothing is unpickled but tensors.

    How large the networks are is read from their tensors; the configuration tells the rest: the shift of times, the
    number of steps and the multiplier of latents.

    Args:
        config: The configuration: a mapping, its YAML file, or a folder with one such file.
        checkpoint: The transformer: ``.pt`` with its weights under ``ema`` or ``model``, or safetensors.
        vae_checkpoint: The autoencoder, of which the decoder is taken: ``.pt`` or safetensors.
        statistics: ``mean`` and ``std`` of latents: ``.pt`` or safetensors; if left out, ``latents_stats.pt`` beside
            the configuration or the checkpoint.
        steps: Euler steps; one less than the configuration's number of times if left out.
        label: The class that the transformer is told; its null class if left out.

    Raises:
        DataError: If a file cannot be read, or holds no tensors of a LightningDiT or VA-VAE.
        ArgumentError: If the configuration lacks what is needed, or a number is not what it must be.
        MissingExtraError: If a YAML file is given and PyYAML is not installed.
    """
    found, places = _configuration(config)
    told = _sections(found)
    tensors, coder = _tensors(Path(checkpoint)), _tensors(Path(vae_checkpoint))
    transformer = _transformer(tensors, told, Path(checkpoint))
    try:
        decoder = decoder_of(coder)
    except _OTHER as error:
        raise DataError(f"{vae_checkpoint} holds no decoder of a VA-VAE: {error}. Give its published file.") from error
    mean, deviation = _statistics(told, statistics, [*places, Path(checkpoint).parent], transformer.sizes.channels)
    sample, times = told["sample"], told["sample"].get("num_sampling_steps", 250)
    if not is_whole(times) or times < 1:
        raise ArgumentError(f"num_sampling_steps of the configuration is a whole number above 0; got {times!r}.")
    prior = LightningFlow(
        transformer,
        decoder,
        mean,
        deviation,
        multiplier=told["data"].get("latent_multiplier", 0.18215),  # what the published code takes for none
        label=label,
        steps=max(1, times - 1) if steps is None else steps,
        shift=sample.get("timestep_shift", 0) or 1.0,
    )
    return prior.eval().requires_grad_(False)


def _configuration(config: Mapping[str, Any] | str | Path) -> tuple[Mapping[str, Any], list[Path]]:
    """Return a configuration, and the folder that it came from.

    Raises:
        DataError: If it cannot be read.
    """
    if isinstance(config, Mapping):
        return config, []
    place = Path(config)
    files = sorted((*place.glob("*.yaml"), *place.glob("*.yml"))) if place.is_dir() else [place]
    if len(files) != 1:
        raise DataError(f"{place} holds {len(files)} YAML files, where one tells the configuration. Name the file.")
    yaml = require("yaml", "invariants")
    try:
        found = yaml.safe_load(files[0].read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{files[0]} holds no configuration: {error}. Give the published YAML file.") from error
    if not isinstance(found, Mapping):
        raise DataError(f"{files[0]} holds no configuration of names and values. Give the published YAML file.")
    return found, [files[0].parent]


def _sections(found: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the parts of a configuration that tell of the prior, empty ones where it has none.

    Raises:
        ArgumentError: If one is not of names and values.
    """
    told = {name: found.get(name) or {} for name in ("data", "model", "sample")}
    for name, one in told.items():
        if not isinstance(one, Mapping):
            raise ArgumentError(f"{name} of the configuration is of names and values; got {one!r}.")
    return told


def _tensors(place: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name: those of its average if there is one.

    Raises:
        DataError: If it cannot be read without unpickling anything but tensors.
    """
    try:
        if place.suffix == ".safetensors":
            return load_file(place)
        found: Any = torch.load(place, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, SafetensorError, RuntimeError, pickle.UnpicklingError, ValueError, EOFError) as error:
        raise DataError(
            f"{place} cannot be read: {str(error).splitlines()[0]} Only tensors are ever unpickled here: give the "
            "published file, or save its tensors as safetensors."
        ) from error
    for name in ("ema", "model", "state_dict"):
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
            break
    if not isinstance(found, Mapping) or not any(isinstance(one, Tensor) for one in found.values()):
        raise DataError(f"{place} holds no tensors by name, under ema, model, state_dict or at its top.")
    return {name.removeprefix("module."): one for name, one in found.items() if isinstance(one, Tensor)}


def _transformer(tensors: Mapping[str, Tensor], told: Mapping[str, Any], place: Path) -> LightningTransformer:
    """Return the transformer whose tensors these are.

    Raises:
        DataError: If they are of another architecture.
        ArgumentError: If nothing tells how many heads its attention has.
    """
    try:
        sizes = _sizes(tensors, told)
        with torch.device("meta"):
            found = LightningTransformer(sizes)
        found.load_state_dict(dict(tensors), strict=True, assign=True)
    except ArgumentError:
        raise
    except _OTHER as error:
        raise DataError(
            f"{place} holds no LightningDiT: {error}. Supported are the transformers of "
            "hustvl/LightningDiT, of any size."
        ) from error
    return found


def _sizes(tensors: Mapping[str, Tensor], told: Mapping[str, Any]) -> TransformerSizes:
    """Return how a transformer is built, as its tensors tell."""
    hidden, channels, patch, _ = tensors["x_embedder.proj.weight"].shape
    places, outputs = tensors["pos_embed"].shape[1], len(tensors["final_layer.linear.weight"])
    swiglu = "blocks.0.mlp.w12.weight" in tensors
    return TransformerSizes(
        channels=channels,
        side=round(places**0.5) * patch,
        patch=patch,
        hidden=hidden,
        depth=1 + max(int(found[1]) for name in tensors if (found := re.match(r"blocks\.(\d+)\.", name))),
        heads=_heads(tensors, told, hidden),
        classes=len(tensors["y_embedder.embedding_table.weight"]),
        feedforward=tensors[f"blocks.0.mlp.{'w3' if swiglu else 'fc2'}.weight"].shape[1],
        variance=outputs == 2 * channels * patch**2,
        swiglu=swiglu,
        rope="feat_rope.freqs_cos" in tensors,
        rms_norm="blocks.0.norm1.weight" in tensors,
        qk_norm="blocks.0.attn.q_norm.weight" in tensors,
        shift=len(tensors["blocks.0.adaLN_modulation.1.weight"]) == 6 * hidden,
    )


def _heads(tensors: Mapping[str, Tensor], told: Mapping[str, Any], hidden: int) -> int:
    """Return how many heads attention has: from tensors as wide as one, or the published size's name.

    Raises:
        ArgumentError: If nothing tells.
    """
    for name in ("feat_rope.freqs_cos", "blocks.0.attn.q_norm.weight"):
        if name in tensors:
            return int(hidden // tensors[name].shape[-1])
    model = told["model"]
    kind = str(model.get("model_type", "")).removeprefix("LightningDiT-").partition("/")[0]
    if "num_heads" not in model and kind not in _HEADS:
        raise ArgumentError(
            f"Nothing tells how many heads the transformer has. Give model: num_heads in the configuration, or a "
            f"model_type of {', '.join(f'LightningDiT-{one}' for one in _HEADS)}; got {model.get('model_type')!r}."
        )
    return int(model.get("num_heads", _HEADS.get(kind, 0)))


def _statistics(
    told: Mapping[str, Any], given: str | Path | None, places: list[Path], channels: int
) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of latents, one a channel.

    Raises:
        DataError: If they are needed and not found, or are of another number of channels.
    """
    found = next((place / STATISTICS for place in places if (place / STATISTICS).exists()), None)
    place = found if given is None else Path(given)
    if place is None:
        if told["data"].get("latent_norm", False):
            raise DataError(
                f"The transformer works on standardised latents, and there is no {STATISTICS} beside its "
                "configuration or checkpoint. Give statistics=: the published file of mean and std."
            )
        return torch.zeros(channels), torch.ones(channels)
    known = _tensors(place)
    pair = [known[name].flatten().float() for name in ("mean", "std") if name in known]
    if len(pair) != 2 or any(len(one) != channels for one in pair):
        raise DataError(f"{place} holds no mean and std of {channels} channels. Give the published {STATISTICS}.")
    return pair[0], pair[1]
