"""Diffusion priors from the folders that diffusers' pipelines are saved in."""

from __future__ import annotations

import json
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from whence._errors import ArgumentError, DataError
from whence.invariants.priors.diffusion import Bounds, Diffusion, diffusers

MODELS = ("UNet2DModel", "DiTTransformer2DModel")
AUTOENCODERS = ("AutoencoderKL", "VQModel")
_SUPPORTED = (
    "Supported are pipelines whose model is UNet2DModel or DiTTransformer2DModel, such as DDPMPipeline, DDIMPipeline, "
    "LDMPipeline and DiTPipeline, with AutoencoderKL or VQModel where they are latent."
)


def load_diffusion(
    folder: str | Path,
    *,
    steps: int = 20,
    scheduler: str | None = None,
    label: int | None = None,
    bounds: Bounds = (-1.0, 1.0),
    seed: int = 0,
) -> Diffusion:
    """Open an unconditional pipeline of diffusers, saved with safetensors in a folder; nothing is fetched or unpickled.

    Args:
        folder: What ``pipeline.save_pretrained`` wrote, or a download of a published pipeline.
        steps: As the scheduler counts inference steps.
        scheduler: The name of another scheduler of diffusers to decode with, such as ``"DDIMScheduler"``, made from
            the settings of the pipeline's own.
        label: The class to tell a conditional model; see `Diffusion`.
        bounds: The range that the images' -1 to 1 is brought to; see `Diffusion`.
        seed: Of the noise that a stochastic scheduler adds.

    Raises:
        DataError: If the folder holds no such pipeline, or a part of it cannot be read.
        ArgumentError: If there is no such scheduler, or an argument is not what `Diffusion` takes.
        MissingExtraError: If diffusers is not installed.
    """
    place, library = Path(folder), diffusers()
    parts = _parts(place)
    walk = _opened(library, place, "scheduler", parts["scheduler"][1])
    if scheduler is not None:
        walk = _scheduler_class(library, scheduler).from_config(walk.config)
    name = "unet" if "unet" in parts else "transformer"
    model = _opened(library, place, name, parts[name][1])
    coder = next((one for one in ("vae", "vqvae") if one in parts), None)
    vae = None if coder is None else _opened(library, place, coder, parts[coder][1])
    for network in (model, vae):
        if network is not None:
            network.requires_grad_(False)
    return Diffusion(model, walk, None, steps, vae=vae, label=label, bounds=bounds, seed=seed)


def _parts(place: Path) -> dict[str, Any]:
    """Return what a pipeline is made of: library and class of each part.

    Raises:
        DataError: If there is no pipeline of a kind that is supported.
    """
    try:
        found = json.loads((place / "model_index.json").read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{place} holds no pipeline of diffusers: {error}. {_SUPPORTED}") from error
    kind = found.get("_class_name") if isinstance(found, dict) else None
    parts = {
        name: one
        for name, one in (found.items() if kind else ())
        if isinstance(one, list) and len(one) == 2 and one[1] is not None  # which says that a part is left out
    }
    model = parts.get("unet") or parts.get("transformer")
    wrong = next(
        (
            f"its {name} is {parts[name][1]}"
            for name, known in (
                ("unet", MODELS),
                ("transformer", MODELS),
                ("vae", AUTOENCODERS),
                ("vqvae", AUTOENCODERS),
            )
            if name in parts and parts[name][1] not in known
        ),
        None,
    )
    if model is None:
        wrong = "with neither a unet nor a transformer"
    if wrong is None and "scheduler" not in parts:
        wrong = "without a scheduler"
    if wrong is not None:
        raise DataError(f"{place} holds a {kind or 'list of parts without a kind'}, {wrong}. {_SUPPORTED}")
    return parts


def _opened(library: Any, place: Path, name: str, kind: str) -> Any:
    """Open a part of a pipeline.

    Raises:
        DataError: If it cannot be read.
    """
    options = {} if name == "scheduler" else {"use_safetensors": True}
    try:
        cls = _scheduler_class(library, kind) if name == "scheduler" else getattr(library, kind)
        return cls.from_pretrained(place, subfolder=name, local_files_only=True, **options)
    except Exception as error:  # whatever diffusers makes of settings that it does not know
        told = str(error).strip().partition("\n")[0].rstrip(".")
        raise DataError(
            f"{place / name} cannot be read: {told}. Nothing is ever unpickled here: save the pipeline with "
            "safetensors, or restore it from a copy."
        ) from error


def _scheduler_class(library: Any, name: str) -> Any:
    """Return a scheduler of diffusers by its name.

    Raises:
        ArgumentError: If there is none.
    """
    found = getattr(library, name, None) if name.endswith("Scheduler") else None
    if found is None:
        known = [one for one in dir(library) if one.endswith("Scheduler")]
        near = " or ".join(get_close_matches(name, known, cutoff=0.4)) or "none is close"
        raise ArgumentError(f"No scheduler {name!r} in diffusers (similar: {near}).")
    return found
