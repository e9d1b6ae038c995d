"""How well the scores of other libraries, and ours, predict training without some examples.

    pip install -e ".[baselines]"
    python -m benchmarks.counterfactual_peers --data-dir MNIST                            # everything
    python -m benchmarks.counterfactual_peers --data-dir MNIST --network gelu --track B   # one network, one question

Track B: the same initialisation and order, no dropout, and a random 1 % or 5 % of the training images has weight zero.
Track A: a random half of the images, and a new initialisation, order and dropout (0.1, not for logistic regression)
each time; a mean of scores over trainings of the full data with other seeds stands beside those of one. The score is
the mean over targets of the rank correlation, over the sets left out, of summed scores and the loss after really
training without the set; its interval is a bootstrap over targets. Every method has the same targets, sets and trained
network. Where a method has settings, each network and track uses those that are best on other random sets (a mean over
the shares removed). Results are written to ``benchmarks/results/counterfactual_peers/`` and gathered into
``counterfactual_peers.md``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

import whence
from benchmarks._machine import machine
from benchmarks._methods import CHECKPOINTS, Method, accuracy, methods
from benchmarks._mnist import arguments
from benchmarks._networks import (
    SETS,
    SETTINGS,
    SHARES,
    TARGETS,
    TEST,
    TRAIN,
    Data,
    Setting,
    images,
    logistic,
    network,
    train_plain,
    train_recorded,
)
from benchmarks._peers import Case, State
from benchmarks._peers_table import file_of, table
from benchmarks._retraining import Truth, of_halves, removal_sets, without_sets
from benchmarks._scores import score, summed

NETWORKS = {"lr": "AB", "gelu": "B", "relu, momentum, 50 epochs": "AB"}
HALVES, TUNING, FIRST_OF_TUNING = 100, 15, 1000
DROPOUT, MODELS, RUNS = 0.1, 10, 5
Arrays = dict[str, NDArray[Any]]


def main() -> None:
    """Measure what is asked for."""
    parser = arguments("Counterfactuals of several libraries against retraining.")
    parser.add_argument("--network", choices=NETWORKS, action="append")
    parser.add_argument("--track", choices=("A", "B"), action="append")
    parser.add_argument("--without", choices=methods("lr", "A"), action="append", help="leave a method out")
    parser.add_argument(
        "--cache", type=Path, help="folder to keep trainings and scores in, for another call of this version"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", "Input Tensor 0 did not already require gradients")  # captum's, of its own doing
    for name, tracks in NETWORKS.items():
        for track in tracks:
            if name in (options.network or NETWORKS) and track in (options.track or tracks):
                with tempfile.TemporaryDirectory() as folder:
                    found = Measurement(name, track, options, options.cache or Path(folder)).result()
                file = file_of(options.results, name, track)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(found, indent=1) + "\n")
    print(table(options.results, list(NETWORKS)))


class Measurement:
    """One network and track.

    Args:
        name: Of the network.
        track: ``"A"`` or ``"B"``.
        options: Of the command line.
        folder: Where trainings and scores are kept.
    """

    def __init__(self, name: str, track: str, options: argparse.Namespace, folder: Path) -> None:
        self.name, self.track = name, track
        self.methods = {one: how for one, how in methods(name, track).items() if one not in (options.without or ())}
        self.setting: Setting = SETTINGS[name]
        self.dropout = DROPOUT if track == "A" and self.setting.network is not logistic else 0.0
        self.data = images(options.data_dir, "train", TRAIN)
        self.tests = images(options.data_dir, "test", TEST)
        self.targets: Data = (self.tests[0][:TARGETS], self.tests[1][:TARGETS])
        self.folder = folder / file_of(Path(), name, track).stem
        self.folder.mkdir(parents=True, exist_ok=True)
        self.cases = [self.case(seed) for seed in range(RUNS if track == "A" else 1)]

    def result(self) -> dict[str, Any]:
        """Return how every method does."""
        tuning, reported = self.truths(range(FIRST_OF_TUNING, FIRST_OF_TUNING + TUNING)), self.truths(self.seeds())
        found = {}
        for method, how in self.methods.items():
            found[method] = self.measure(method, how, tuning, reported)
            print(self.name, self.track, method, json.dumps(found[method]), flush=True)
        return {
            "network": self.name,
            "track": self.track,
            "accuracy": accuracy(self.cases[0].model(), self.tests),
            "targets": TARGETS,
            "sets": len(self.seeds()),
            "tuning_sets": TUNING,
            "methods": found,
            "machine": machine(),
        }

    def measure(self, name: str, how: Method, tuning: dict[str, Truth], reported: dict[str, Truth]) -> dict[str, Any]:
        """Return how one method does, with the settings that did best on the sets for tuning."""
        scores = self.remember(f"scores-{name}", lambda: how.score(self.cases[0], how.settings))
        tuned = {setting: agreement(scores[setting], tuning) for setting in how.settings}
        chosen = max(tuned, key=lambda setting: tuned[setting])
        told: dict[str, Any] = {"chosen": chosen, "tuning": tuned, "scores": scored(scores[chosen], reported)}
        if how.several and len(self.cases) > 1:
            only = {chosen: how.settings[chosen]}
            each = [scores[chosen]]
            for place, case in enumerate(self.cases[1:], start=1):
                key = f"scores-{name}-{chosen}-{place}"
                each.append(self.remember(key, lambda case=case: how.score(case, only))[chosen])  # type: ignore[misc]
            told["mean"] = scored(np.mean(each, 0), reported)
        return told

    def case(self, seed: int) -> Case:
        """Return a recorded training of the full data; the first also knows the ends of others."""
        path = self.folder / f"run-{seed}"
        if not path.exists():
            unfinished = path.with_suffix(".part")
            shutil.rmtree(unfinished, ignore_errors=True)
            train_recorded(self.setting, self.data, unfinished, seed=seed, dropout=self.dropout)
            unfinished.rename(path)
        run = whence.open_run(
            path, network(self.setting, seed=seed, dropout=self.dropout), self.data, loss=F.cross_entropy
        )
        steps = [round(run.steps * (place + 1) / CHECKPOINTS) for place in range(CHECKPOINTS)]
        checkpoints = tuple(dict(run.state_at(step).parameters) for step in steps)
        rate = run.record_of(0).settings[0].options["lr"]
        others = range(1, MODELS if seed == 0 else 1)
        ends = (checkpoints[-1], *(self.end(other) for other in others))
        return Case(
            lambda: network(self.setting, seed=seed, dropout=self.dropout).eval(),
            checkpoints, float(rate), ends, self.data, self.targets, run,
        )  # fmt: skip

    def end(self, seed: int) -> State:
        """Return the end of another training of the full data, for methods that want several."""

        def train() -> Arrays:
            model = train_plain(self.setting, self.data, seed=seed, dropout=self.dropout)
            return {name: one.numpy() for name, one in model.state_dict().items()}

        return {name: torch.from_numpy(one) for name, one in self.remember(f"end-{seed}", train).items()}

    def seeds(self) -> range:
        """Return the seeds of the sets that are reported: on track B those of ``benchmarks.counterfactual``."""
        return range(HALVES if self.track == "A" else SETS)

    def truths(self, seeds: range) -> dict[str, Truth]:
        """Return what training without random sets gives, for each share left out."""
        run = self.cases[0].run
        found = {}
        for share in (0.5,) if self.track == "A" else SHARES:
            removals = removal_sets(TRAIN, share, seeds)

            def train(removals: tuple[tuple[int, ...], ...] = removals) -> Arrays:
                if self.track == "A":
                    truth = of_halves(
                        self.setting, self.data, self.targets, removals, seed=seeds[0], dropout=self.dropout
                    )
                else:
                    batches = [run.record_of(step).batches[0] for step in range(run.steps)]
                    truth = without_sets(self.setting, self.data, self.targets, batches, removals)
                return {"losses": truth.losses}

            kept = self.remember(f"truth-{share:g}-{seeds[0]}-{len(seeds)}", train)
            found[f"{share:g}"] = Truth(removals, kept["losses"])
        return found

    def remember(self, key: str, make: Callable[[], Arrays]) -> Arrays:
        """Return what was made under this name, in this call or an earlier one with the same cache."""
        file = self.folder / f"{key.replace(' ', '_')}.npz"
        if not file.exists():
            np.savez(file, **make())  # type: ignore[arg-type]
        with np.load(file) as arrays:
            return dict(arrays)


def agreement(values: NDArray[Any], truths: dict[str, Truth]) -> float:
    """Return the mean score over the shares, -1 for scores that are no numbers."""
    if not np.isfinite(values).all():
        return -1.0
    return float(np.mean([one["score"] for one in scored(values, truths).values()]))


def scored(values: NDArray[Any], truths: dict[str, Truth]) -> dict[str, dict[str, float]]:
    """Return the score and its interval for each share left out."""
    return {share: score(summed(values, truth.removals), truth.losses) for share, truth in truths.items()}


if __name__ == "__main__":
    main()
