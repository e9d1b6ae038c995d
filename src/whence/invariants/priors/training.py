"""Training of a latent flow on any images, in a folder."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whence._devices import as_device
from whence._errors import ArgumentError
from whence._progress import progress
from whence.datasets import Examples
from whence.invariants.priors.fitting import Fitting, limits
from whence.invariants.priors.latent_flow import LatentFlow, Sizes
from whence.invariants.priors.latent_networks import Shape
from whence.invariants.priors.protocol import draw
from whence.invariants.priors.settings import PriorSettings
from whence.invariants.priors.storage import CHECKPOINT, PRIOR, load_prior, refuse_other, save_prior
from whence.invariants.realism import Features, PixelComponents, Realism, realism
from whence.kernel.answers import read_examples
from whence.provenance.checkpoints import Checkpoint
from whence.runs.randomness import kept_randomness

MEASURES = ("reconstruction", "divergence", "flow", "precision", "recall", "seconds")
_HELD_OUT = 2000  # images at most, and a tenth of the data
_WATCHED = 500  # of them after each epoch of the flow
_AT_ONCE = 500  # latents decoded together


def train_prior(
    data: Any,
    path: str | Path,
    settings: PriorSettings | None = None,
    *,
    features: Features | None = None,
    device: torch.device | str | None = None,
    source: str = "",
) -> LatentFlow:
    """Train a latent flow on images in a folder; one that was cut off goes on there, one that is whole is opened.

    A tenth of the images (2,000 at most) is held out: as many draws of the prior are held against 500 of them after
    each epoch of the flow's training, and against all at the end. `prior_facts` tells what came out.

    Args:
        data: Images of one size, alone or with labels: anything `as_examples` takes. The prior keeps their range.
        path: A folder for ``prior.json`` and ``prior.safetensors``, and until then for a checkpoint after each epoch.
        settings: How it is made and trained.
        features: The space in which realism is measured, see `realism`; principal components of pixels if left out.
        device: To train on; the CPU if left out.
        source: What the data is called, for those who read the folder.

    Returns:
        The prior, as `load_prior` opens it.

    Raises:
        ArgumentError: If the folder holds a prior of other settings, ``settings`` is no `PriorSettings`, or there is no
            such device.
        ChangedDataError: If it holds a prior of other data.
        DataError: If the data is not of 40 images or more of one size, or what the folder holds cannot be read.
        DiskError: If the disk is full or refuses to write.
        SnapshotError: If the checkpoint was truncated or altered.
    """
    if settings is not None and not isinstance(settings, PriorSettings):
        raise ArgumentError(f"settings are PriorSettings(...); got a {type(settings).__name__}.")
    examples, place, there = read_examples(data, "predicted"), Path(path), as_device(device)
    shape, low, high = limits(examples)
    asked = (settings or PriorSettings()).suited(shape, len(examples))
    told = {**asdict(asked), "fingerprint": examples.fingerprint}
    if (place / PRIOR).exists():
        refuse_other(place, told)
        return load_prior(place, device=there)
    prior = _made(shape, asked)
    prior.low.copy_(low)
    prior.high.copy_(high)
    held, train = _parted(examples, asked.seed)
    fitting = Fitting(prior.to(there), examples, train, asked)
    watch = _Watch(fitting, held, features)
    history = _fitted(fitting, Checkpoint(place / CHECKPOINT, told), watch)
    figures = watch.realism(_HELD_OUT)._asdict()
    told |= {"source": source, "realism": figures, "measures": MEASURES, "history": history}
    save_prior(prior, place, told)
    shutil.rmtree(place / CHECKPOINT)
    return load_prior(place, device=there)


def _fitted(fitting: Fitting, checkpoint: Checkpoint, watch: _Watch) -> list[list[float]]:
    """Train to the end, from where the checkpoint stands; return the measures of each epoch."""
    history = checkpoint.restore(fitting.prior, fitting.optimizers)
    nothing = float("nan")
    with kept_randomness(fitting.prior.low.device), progress("training the prior", fitting.epochs) as advance:
        advance(len(history))
        while len(history) < fitting.epochs:
            begun = time.process_time()
            row = fitting.epoch(len(history))
            flows = row[2] == row[2]  # not NaN
            seen = watch.realism(_WATCHED)[:2] if flows else (nothing, nothing)
            history.append([*row, *seen, time.process_time() - begun])
            checkpoint.keep(fitting.prior, fitting.optimizers, history)
            advance(1)
    return history


class _Watch:
    """Held-out images, and how real draws of a prior in training are beside them."""

    def __init__(self, fitting: Fitting, held: Tensor, features: Features | None) -> None:
        self._prior, self._seed = fitting.prior, fitting.settings.seed
        self._held, self._real = fitting.images(held), fitting.images(fitting.train[: len(held)])
        self._features = features or PixelComponents(self._held)

    def realism(self, most: int) -> Realism:
        """Return the realism of draws of the prior as it is, beside so many held-out images at most."""
        held = self._held[:most]
        with torch.no_grad():
            latents = draw(self._prior, len(held), self._seed, device=held.device)
            made = torch.cat([self._prior.decode(part) for part in latents.split(_AT_ONCE)])
        return realism(made, self._real[:most], held, self._features)


def _parted(examples: Examples, seed: int) -> tuple[Tensor, Tensor]:
    """Return which examples are held out, and which are trained on."""
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed))
    many = min(_HELD_OUT, len(examples) // 10)
    return order[:many], order[many:]


def _made(shape: Shape, settings: PriorSettings) -> LatentFlow:
    """Return a prior with initial weights of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        sizes = Sizes(shape, settings.latent or 1, settings.width, settings.hidden or 1)
        return LatentFlow(sizes, steps=settings.steps, rule=settings.rule)
