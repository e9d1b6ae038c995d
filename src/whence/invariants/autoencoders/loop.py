"""The steps of a sparse autoencoder's training, and how they are taken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.optim import Adam

from whence._errors import ArgumentError
from whence._numbers import is_number, is_whole
from whence._progress import Advance, progress
from whence.invariants.autoencoders.loss import autoencoder_loss, resample
from whence.invariants.autoencoders.network import SparseAutoencoder
from whence.invariants.autoencoders.source import Activations, seeded
from whence.invariants.autoencoders.start import normalise, remove_lengthening, start_from
from whence.provenance.checkpoints import Checkpoint

MEASURES = ("loss", "reconstruction", "l0", "dead", "revived")
_WARM_UP, _DECAY = 0.05, 0.2  # shares of the training in which the rate goes up, and down at the end
_SILENT = 1 / 16  # of the training: a feature that was silent for so long is dead (Bricken et al., 2023)
_RESAMPLED = (1 / 8, 1 / 4, 3 / 8, 1 / 2)  # when dead features are resampled, as shares of the training (the same)
_SEEDS = 2**63
_DRAWN = 8192  # rows of which resampled features, and the start, are drawn


@final
@dataclass(frozen=True)
class AutoencoderTraining:
    """How a sparse autoencoder is trained: Adam, its rate linearly up at first and down at the end.

    Attributes:
        epochs: Passes over the data.
        rate: Learning rate.
        batch_size: Rows, activations at one position each, a step.
        positions: How many positions of each example to take, drawn at random; None for all.
        revive: Whether features that go silent are brought back, pointed anew at activations that are reconstructed
            badly, four times in the first half of the training.
        seed: Of the first directions, order and draws.
        memory_budget: Bytes that activations may take. If all fit, they are computed once, else anew in each epoch.

    Raises:
        ArgumentError: If a number is not what it should be.
    """

    epochs: int = 10
    rate: float = 1e-3
    batch_size: int = 512
    positions: int | None = None
    revive: bool = True
    seed: int = 0
    memory_budget: int = 2**29

    def __post_init__(self) -> None:
        """Check the values."""
        for name, least in (("epochs", 1), ("batch_size", 1), ("seed", 0), ("memory_budget", 1)):
            if not is_whole(getattr(self, name)) or getattr(self, name) < least:
                raise ArgumentError(f"`{name}` is a whole number, at least {least}; got {getattr(self, name)!r}.")
        if self.seed >= _SEEDS:
            raise ArgumentError(f"`seed` is below 2^63; got {self.seed!r}.")
        if not is_number(self.rate) or self.rate <= 0:
            raise ArgumentError(f"`rate` must be above 0; got {self.rate!r}.")
        if self.positions is not None and (not is_whole(self.positions) or self.positions < 1):
            raise ArgumentError(f"`positions` is a whole number, at least 1, or None; got {self.positions!r}.")


class _State(nn.Module):
    """An autoencoder, and for how many rows each feature was silent."""

    silent: Tensor

    def __init__(self, autoencoder: SparseAutoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.register_buffer(
            "silent", torch.zeros(autoencoder.features, dtype=torch.int64, device=autoencoder.bias.device)
        )


@final
class Loop:
    """The steps of a training."""

    def __init__(self, autoencoder: SparseAutoencoder, source: Activations, settings: AutoencoderTraining) -> None:
        self._autoencoder, self._source, self._settings = autoencoder, source, settings
        self._state, self._optimizer = _State(autoencoder), Adam(autoencoder.parameters(), settings.rate)
        self._steps_of = [-(-source.rows_in(one) // settings.batch_size) for one in range(len(source.parts))]
        self._total = settings.epochs * sum(self._steps_of)
        self._patience = max(settings.batch_size, round(_SILENT * settings.epochs * source.rows))
        self._resampled = {round(share * self._total) for share in _RESAMPLED}

    def run(self, checkpoint: Checkpoint | None) -> xr.DataArray:
        """Train, from where a checkpoint stands, and return the means over each epoch."""
        parts = len(self._source.parts)
        with progress("activations", self._source.rows_in(0)) as advance:
            first = self._source.part(0, 0, advance)
        start_from(self._autoencoder, first[torch.randperm(len(first), generator=seeded(self._settings.seed))[:_DRAWN]])
        history = [] if checkpoint is None else checkpoint.restore(self._state, [self._optimizer])
        with progress("training the autoencoder", self._total) as advance:
            advance(sum(self._steps_of[at % parts] for at in range(len(history))))
            for at in range(len(history), self._settings.epochs * parts):
                history.append(self._part(at // parts, at % parts, advance))
                if checkpoint is not None:
                    checkpoint.keep(self._state, [self._optimizer], history)
        return self._means(history)

    def _part(self, epoch: int, number: int, advance: Advance) -> list[float]:
        """Train on a part of an epoch and return the means of what `MEASURES` lists."""
        rows = self._source.part(epoch, number)
        step = epoch * sum(self._steps_of) + sum(self._steps_of[:number])
        sums, revived = torch.zeros(len(MEASURES) - 1, dtype=torch.float64, device=rows.device), 0
        for place, ids in enumerate(self._batches(len(rows), epoch, number)):
            if step + place in self._resampled:
                revived += self._resample(step + place, rows)
            found, again = self._step(step + place, rows[ids.to(rows.device)])
            sums, revived = sums + found * len(ids), revived + again
            advance(1)
        return [*(float(one) for one in (sums / len(rows)).tolist()), float(revived)]

    def _batches(self, rows: int, epoch: int, number: int) -> Iterator[Tensor]:
        order = torch.randperm(rows, generator=seeded(self._settings.seed, epoch, number, 1))
        yield from order.tensor_split(self._steps_of[number])

    def _step(self, step: int, rows: Tensor) -> tuple[Tensor, int]:
        """Take a step; return its measures, and how many silent features came back by themselves."""
        autoencoder, optimizer, silent = self._autoencoder, self._optimizer, self._state.silent
        optimizer.param_groups[0]["lr"] = self._settings.rate * _factor((step + 0.5) / self._total)
        optimizer.zero_grad()
        found, dead = autoencoder_loss(autoencoder, rows), silent >= self._patience
        found.total.backward()
        remove_lengthening(autoencoder)
        optimizer.step()
        normalise(autoencoder)
        active = found.codes.detach() > 0
        awake = active.any(0)
        silent += len(rows)
        silent[awake] = 0
        measures = (
            found.total.detach(),
            found.reconstruction.detach(),
            active.sum(1).double().mean(),
            dead.double().mean(),
        )
        return torch.stack([one.double() for one in measures]), int((dead & awake).sum())

    @torch.no_grad()
    def _resample(self, step: int, rows: Tensor) -> int:
        """Point silent features anew; return how many."""
        if not self._settings.revive:
            return 0
        generator, dead = seeded(self._settings.seed, step, 2), self._state.silent >= self._patience
        drawn = rows[torch.randperm(len(rows), generator=generator)[:_DRAWN].to(rows.device)]
        found = resample(self._autoencoder, self._optimizer, drawn, dead, generator)
        self._state.silent[dead.nonzero()[:found, 0]] = 0
        return found

    def _means(self, history: list[list[float]]) -> xr.DataArray:
        """Return a history of parts as means over epochs."""
        rows = [self._source.rows_in(one) for one in range(len(self._source.parts))]
        parted = np.array(history).reshape(self._settings.epochs, len(rows), len(MEASURES))
        means = np.average(parted, axis=1, weights=rows)
        means[:, -1] = parted[..., -1].sum(1)  # a number, not a mean
        coords = {"epoch": np.arange(1, self._settings.epochs + 1), "measure": list(MEASURES)}
        return xr.DataArray(means, coords, ("epoch", "measure"))


def _factor(share: float) -> float:
    """Return what the rate is multiplied by at a share of the training."""
    return min(1.0, share / _WARM_UP, (1 - share) / _DECAY)
