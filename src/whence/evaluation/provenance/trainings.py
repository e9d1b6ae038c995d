"""How the applications train networks: several at once, kept as they are found, resumed where they were cut off."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from whence._errors import ArgumentError
from whence._files import checksum
from whence._processes import as_processes, kept_arrays
from whence._statistics import Interval, student_interval
from whence.audit.identity import identity_of
from whence.evaluation.inputs import as_count
from whence.provenance import Objective, Optimization, ProvenanceNetwork, train
from whence.runs.randomness import kept_randomness

MakeNetwork = Callable[[Any], ProvenanceNetwork]
"""Training data -> a new network for it, such as `whence.provenance.single_branch`; it is called under a seed."""


@final
@dataclass(frozen=True, eq=False)
class Trainings:
    """How to train the networks that an application compares.

    Attributes:
        epochs: How many.
        seeds: How many networks for each setting; tables give the mean and Student's interval over them, within 0 to 1.
        objective: Losses and weights, as `whence.provenance.train` takes them.
        optimization: Optimizer, batches and schedule, alike.
        distort: Makes distorted inputs that keep their index, alike; with ``path`` something that prints the same in
            every process, such as `whence.provenance.Mixture`, and no lambda, so that its checkpoints are known again.
        processes: How many trainings at once, each forked and on one thread, sharing the data until it is changed. None
            is all usable cores on Linux without a GPU, else one.
        path: A folder in which to keep each result as it is found, and a checkpoint of each unfinished training: a call
            that was interrupted goes on there. Results are told apart by data, settings, seed and the code that makes
            networks, but not by what it calls or reads by name.

    Raises:
        ArgumentError: If a number is no whole one, at least 1.
    """

    epochs: int
    seeds: int = 3
    objective: Objective | None = None
    optimization: Optimization | None = None
    distort: Any = None
    processes: int | None = None
    path: str | Path | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("epochs", "seeds"):
            as_count(getattr(self, name), name)
        as_processes(self.processes, 1)


@final
@dataclass(frozen=True, eq=False)
class Setting:
    """One of the settings to compare.

    Attributes:
        name: What tells it from the others, also in another process.
        make: Makes a network.
        data: Given a seed, the data to train on.
        fingerprint: Given a seed, that data's.
        objective: Losses and weights.
        measure: Of a trained network and the data it was trained on, the numbers of a row: shares, from 0 to 1.
    """

    name: str
    make: MakeNetwork
    data: Callable[[int], Any]
    fingerprint: Callable[[int], str]
    objective: Objective | None
    measure: Callable[[ProvenanceNetwork, Any], Sequence[float]]


def trained(settings: Sequence[Setting], how: Trainings) -> list[list[Interval]]:
    """Train a network for each setting and seed, and return the mean over seeds of what each measures, a row a setting.

    Raises:
        ArgumentError: If ``make`` gives no provenance network.
        DataError: If files of the folder cannot be read.
        DiskError: If the disk is full or refuses to write.
    """
    folder = None if how.path is None else Path(how.path)
    jobs = [(setting, seed) for setting in settings for seed in range(how.seeds)]
    keys = [_key(setting, seed, how) for setting, seed in jobs]
    again = list(dict.fromkeys(keys))  # settings that come to the same, such as all of the data: train them once

    def make(place: int) -> NDArray[np.float64]:
        setting, seed = jobs[keys.index(again[place])]
        rest = None if folder is None else folder / f"unfinished-{again[place].rpartition(':')[2]}"
        network, data = _train(setting, seed, how, rest)
        found = np.array(setting.measure(network, data), dtype=np.float64)
        if rest is not None:
            shutil.rmtree(rest)
        return found

    found = kept_arrays(make, again, folder=folder, processes=how.processes, description="training networks")
    known = dict(zip(again, found, strict=True))
    by_setting = np.stack([known[key] for key in keys]).reshape(len(settings), how.seeds, -1)
    return [[_of_shares(one) for one in values.T] for values in by_setting]


def _of_shares(values: NDArray[np.float64]) -> Interval:
    """Return the mean of some shares with Student's interval, which ends at 0 and 1 as shares do; nan around one."""
    mean, low, high = student_interval(values)
    return Interval(mean, float(np.maximum(low, 0.0)), float(np.minimum(high, 1.0)))


def _train(setting: Setting, seed: int, how: Trainings, rest: Path | None) -> tuple[ProvenanceNetwork, Any]:
    data = setting.data(seed)
    with kept_randomness(torch.device("cpu")):
        torch.manual_seed(seed)
        network = setting.make(data)
    if not isinstance(network, ProvenanceNetwork):
        raise ArgumentError(f"`make_network` must return a ProvenanceNetwork; it gave {type(network).__name__}.")
    options = {"objective": setting.objective, "optimization": how.optimization, "distort": how.distort}
    train(network, data, how.epochs, **options, seed=seed, path=rest)
    return network, data


def _key(setting: Setting, seed: int, how: Trainings) -> str:
    """Return a checksum of all that decides a result."""
    parts = (setting.make, setting.objective, how.optimization, how.distort)
    told = [setting.name, setting.fingerprint(seed), seed, how.epochs, *(identity_of(one) for one in parts)]
    return checksum(" ".join(map(str, told)).encode())


def over(seeds: int) -> str:
    """Say over how many networks a mean is."""
    return "of one network" if seeds == 1 else f"mean of {seeds} networks"
