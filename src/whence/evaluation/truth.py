"""The costly truth of the linear datamodeling score: what targets became when networks were trained on parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
import xarray as xr
import zarr
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import nn

from whence._errors import ArgumentError, DataError
from whence._files import checksum
from whence._numbers import check_seed, even_parts, random_ids
from whence._processes import kept_arrays
from whence.audit.identity import identity_of
from whence.audit.storage import save_dataset
from whence.datasets import Examples, as_examples, call_model
from whence.evaluation.inputs import as_count, as_share
from whence.runs import (
    ModelState,
    Run,
    TrainingLoss,
    as_weights,
    model_copy,
    prepare,
    retrain,
    to_device,
    training_loss,
)

FORMAT = 1
OF_RUN = ("run", "run_identity", "steps")
"""Attributes that say of which run trainings are."""
_ROWS = 512
Train = Callable[[list[int], int], nn.Module]
"""Trains a new network on some of the training examples, with a seed."""


@final
@dataclass(frozen=True)
class Truth:
    """Losses of targets after real trainings, each on a part of the training examples.

    Attributes:
        data: Variables ``kept`` (set, train), which examples took part, and ``loss`` (set, target), in the loss's own
            unit. ``attrs["protocol"]`` says how the trainings differ; ``run``, ``run_identity`` and ``steps``, of which
            run they are, if of one.
    """

    data: xr.Dataset

    def save(self, path: str | Path) -> None:
        """Write the truth as a Zarr group, whole or not at all.

        Raises:
            AuditError: If something stands at ``path``.
            DiskError: If the disk is full or refuses to write.
        """
        save_dataset(self.data.assign_attrs(format=FORMAT), Path(path))


def truth_of(kept: NDArray[np.bool_], losses: NDArray[np.floating], *, protocol: str = "given") -> Truth:
    """Make a truth of losses that are known already.

    Args:
        kept: Which examples took part in each training, (sets, train).
        losses: Of each target after it, (sets, targets).
        protocol: How the trainings differ, in words.

    Raises:
        ArgumentError: If the numbers of sets differ, or a loss is no finite number.
    """
    if kept.ndim != 2 or losses.ndim != 2 or len(kept) != len(losses) or not np.isfinite(losses).all():
        raise ArgumentError(
            f"Losses need one row a set and finite numbers; got {losses.shape} for sets of shape {kept.shape}."
        )
    data = xr.Dataset(
        {"kept": (("set", "train"), kept), "loss": (("set", "target"), losses.astype(np.float64))},
        {"train": np.arange(kept.shape[1]), "target": np.arange(losses.shape[1])},
        {"protocol": protocol},
    )
    return Truth(data)


def load_truth(path: str | Path) -> Truth:
    """Open what `Truth.save` wrote.

    Raises:
        DataError: If there is no truth at ``path``, or one of another format.
    """
    place = Path(path)
    try:
        data = xr.open_zarr(place, chunks=None, consolidated=False).load()
    except (OSError, ValueError, KeyError, zarr.errors.BaseZarrError) as error:
        raise DataError(f"{place} holds no truth: {error}. Give the path that Truth.save wrote.") from error
    if not {"kept", "loss"} <= set(data.variables) or data.attrs.get("format") != FORMAT:
        raise DataError(f"{place} holds no truth of format {FORMAT}. Give the path that Truth.save wrote.")
    return Truth(data)


def random_parts(count: int, *, share: float = 0.5, sets: int = 100, seed: int = 0) -> Bool[np.ndarray, "sets train"]:
    """Draw random parts of the training examples.

    Args:
        count: How many training examples there are.
        share: Of the examples in each part.
        sets: How many parts.
        seed: Of the first; each has the next.

    Raises:
        ArgumentError: If a number is outside what is listed.
    """
    whole, parts = as_count(count, "count", 2), as_count(sets, "sets")
    check_seed(seed)
    size = min(whole - 1, max(1, round(as_share(share, "share") * whole)))
    return np.stack([members(random_ids(whole, size, one), whole) for one in range(seed, seed + parts)])


def subset_losses(
    train: Train,
    parts: Bool[np.ndarray, "sets train"],
    targets: Any,
    *,
    loss: Any,
    seed: int = 1,
    processes: int | None = None,
    path: str | Path | None = None,
) -> Truth:
    """Train on parts of the data, each time with a new seed: how the training, not one run of it, responds.

    TRAK, section 2 (Park et al., 2023); track A of this project's benchmarks.

    Args:
        train: Given ids and a seed, trains a new network on those examples: initialisation, order and any other
            randomness are to follow the seed.
        parts: Which examples take part in each training, as `random_parts` draws them.
        targets: The examples whose losses are measured: anything `as_examples` takes.
        loss: As `whence.record` takes it.
        seed: Of the first network; each has the next.
        processes: How many to train at once, each forked and on one thread, sharing the data until it is
            changed. None is all usable cores on Linux without a GPU, else one.
        path: A folder in which to keep each result as it is found: a call that was interrupted goes on there. Results
            are told apart by all arguments and by the code of ``train``, but not by what it calls or reads by name.

    Raises:
        ArgumentError: If a part is empty, ``processes`` is no number of them, or ``train`` gives no network.
        DataError: If targets, or files of ``path``, cannot be read.
        DiskError: If the disk is full or refuses to write.
    """
    check_seed(seed)
    if not len(parts) or not parts.any(1).all():
        raise ArgumentError(f"`parts` must each hold an example; got shape {parts.shape}. Draw them with random_parts.")
    examples, seeds = as_examples(targets), range(seed, seed + len(parts))
    chosen = [np.flatnonzero(part).tolist() for part in parts]

    def make(place: int) -> NDArray[np.float64]:
        model = checked_model(train(chosen[place], seeds[place]))
        return losses_at(model, examples, training_loss(loss, model, examples))

    header = f"subset {identity_of(train)} {examples.fingerprint} {identity_of(loss)}"
    keys = [checksum(f"{header} {ids} {one}".encode()) for ids, one in zip(chosen, seeds, strict=True)]
    found = kept_arrays(
        make, keys, folder=None if path is None else Path(path), processes=processes, description="training on parts"
    )
    protocol = f"on {np.mean(parts.sum(1)):g} of {parts.shape[1]} examples, a new seed each"
    return truth_of(parts, np.stack(found), protocol=protocol)


def removal_losses(
    run: Run,
    targets: Any,
    *,
    share: float = 0.01,
    sets: int = 30,
    seed: int = 0,
    processes: int | None = None,
    path: str | Path | None = None,
) -> Truth:
    """Train a recorded run again without random examples, same initialisation and order: how this run responds.

    Those left out have weight zero in their batches (`Run.retrain`). Bae et al. (2024) and metagradient descent
    (Engstrom et al., 2025) score so; track B of this project's benchmarks.

    Args:
        run: The run.
        targets: The examples whose losses are measured: anything `as_examples` takes.
        share: Of the examples that are left out.
        sets: How many random sets: those that `whence.check` draws with seeds ``seed``, ``seed + 1``, ...
        seed: Of the first.
        processes: How many to train at once, each forked and on one thread, sharing the data until it is
            changed. None is all usable cores on Linux without a GPU, else one.
        path: A folder in which to keep each result as it is found: a call that was interrupted goes on there.

    Raises:
        ArgumentError: If a number is outside what is listed.
        ReplayError: If the run does not replay.
        DataError: If targets, or files of ``path``, cannot be read.
        DiskError: If the disk is full or refuses to write.
    """
    whole, examples = len(run.examples), as_examples(targets)
    size = max(1, int(as_share(share, "share") * whole))
    chosen = [random_ids(whole, size, one) for one in range(seed, seed + as_count(sets, "sets"))]

    def make(place: int) -> NDArray[np.float64]:
        end = retrain(run, as_weights(whole, chosen[place]))
        return losses_at(model_at(run, end), examples, run.loss)

    keys = [checksum(f"removal {run.identity} {run.steps} {examples.fingerprint} {ids}".encode()) for ids in chosen]
    found = kept_arrays(
        make,
        keys,
        folder=None if path is None else Path(path),
        processes=processes,
        description="training again without",
        begin=run.reopen,
        ready=partial(prepare, run),
    )
    kept = ~np.stack([members(ids, whole) for ids in chosen])
    made = truth_of(kept, np.stack(found), protocol=f"without {size} of {whole} examples, same seed and order")
    which = dict(zip(OF_RUN, (run.path.name, run.identity, run.steps), strict=True))
    return Truth(made.data.assign_attrs(which))


def model_at(run: Run, state: ModelState) -> nn.Module:
    """Return a copy of a run's model at a state."""
    model = model_copy(run.model)
    live = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with torch.no_grad():
        for name, value in (*state.parameters.items(), *state.buffers.items()):
            live[name].copy_(value)
    return model


def losses_at(model: nn.Module, examples: Examples, loss: TrainingLoss) -> NDArray[np.float64]:
    """Return the loss of each example, in evaluation mode."""
    model.eval()
    device = next(model.parameters()).device
    found = []
    with torch.no_grad():
        for part in even_parts(range(len(examples)), _ROWS):
            inputs, labels = to_device(examples.batch(part), device)
            found.append(loss.per_example(call_model(model, inputs), labels).double().cpu().numpy())
    return np.concatenate(found)


def checked_model(given: object) -> nn.Module:
    """Return what a caller's training gave.

    Raises:
        ArgumentError: If it is no network.
    """
    if not isinstance(given, nn.Module):
        raise ArgumentError(f"`train` must return the trained network (nn.Module); it gave {type(given).__name__}.")
    return given


def members(ids: Sequence[int], count: int) -> NDArray[np.bool_]:
    """Return which of ``count`` examples are named."""
    found = np.zeros(count, dtype=bool)
    found[list(ids)] = True
    return found
