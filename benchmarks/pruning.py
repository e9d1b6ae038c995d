"""Train without a growing share of the data, removed by what the audit and path similarity say (PLGK, appendix A.4).

    python -m benchmarks.pruning --data-dir MNIST

The paper's LeNet-5 and Adam on MNIST, scaled down: 5,120 training images, 50 epochs at ten times the rate, so that a
training goes as far as the paper's in a tenth of its steps. Two tables: what matters least goes first (figure 21), and
what matters most goes first (figure 22); accuracy on the 10,000 test images, averaged over seeds of the initialisation
and the order. The audit is of 256 test images. Trainings are kept in the folder of ``--cache`` and are not made again.
Results: ``benchmarks/results/pruning.json``, ``.md`` and a picture of each table.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import Adam

import whence
from benchmarks._machine import machine
from benchmarks._mnist import BATCH, RATE, arguments, lenet5, target_data, training_data
from benchmarks._pictures import save_picture
from whence import evaluation
from whence.attribution import PathAudit, PathSimilarity, attribute
from whence.evaluation.orders import Keep, Order
from whence.evaluation.pruning import SHARES

BATCHES, EPOCHS = 20, 50
SPED = 10  # times the paper's rate
TEST = 10_000
CLUSTERS = 50
CHECKPOINTS = 10  # of the run, for path similarity
Data = tuple[torch.Tensor, torch.Tensor]


def main() -> None:
    """Measure and write."""
    parser = arguments("Accuracy after training without a share of the data.")
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2, help="trainings at once")
    parser.add_argument("--cache", type=Path, help="folder to keep trainings in")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        measure(options, options.cache or Path(folder))


def trained(data: Data, seed: int) -> nn.Module:
    """Train on some data; initialisation and order follow the seed."""
    model = lenet5(seed)
    optimizer, generator = Adam(model.parameters(), SPED * RATE), torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(data[1]), generator=generator).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(data[0][rows]), data[1][rows]).backward()
            optimizer.step()
    return model


def scores_of(folder: Path, data: Data, targets: Data) -> tuple[Any, Any]:
    """Return the audit of a recorded training of all data, and how alike its examples are to each other."""
    if not (folder / "run").exists():
        record_all(folder / "run", data)
    run = whence.open_run(folder / "run", lenet5(), data, loss=F.cross_entropy)
    return attribute(PathAudit(), run, targets), attribute(PathSimilarity(checkpoints=CHECKPOINTS), run, data)


def record_all(path: Path, data: Data) -> None:
    """Record the training on all data."""
    model = lenet5()
    optimizer = Adam(model.parameters(), SPED * RATE)
    with whence.record(path, model, optimizer, data, loss=F.cross_entropy) as recorder:
        for _ in range(EPOCHS):
            for x, y in recorder.batches(BATCH, shuffle=True, seed=0):
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()


def strategies(audit: Any, alike: Any, labels: torch.Tensor) -> tuple[dict[str, Order | Keep], dict[str, Order | Keep]]:
    """Return what removes little of importance first, and what removes most of it first."""
    whole = len(labels)
    summed, absolute = evaluation.least_summed(audit), evaluation.least_absolute(audit)
    redundant = evaluation.most_redundant(alike)
    baselines: dict[str, Order | Keep] = {
        "random": evaluation.at_random(whole),
        "random, class-balanced": evaluation.balanced_at_random(labels),
    }
    harmful = evaluation.most_harmful(audit)
    least = {
        **baselines,
        "least by sum": summed,
        "least by absolute sum": absolute,
        "least by absolute sum, class-balanced": evaluation.class_balanced(absolute, labels),
        "most redundant": redundant,
        "most redundant, upweighted": evaluation.upweighted(alike),
        "most harmful": harmful,
    }
    most = {
        **baselines,
        "most by sum": summed[::-1].copy(),
        "most by absolute sum": absolute[::-1].copy(),
        "most helpful": evaluation.most_helpful(audit),
        "most harmful": harmful,
        "most redundant": redundant,
        "whole clusters": evaluation.whole_clusters(alike, CLUSTERS),
    }
    return least, most


def measure(options: argparse.Namespace, folder: Path) -> None:
    """Measure and write, a table at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    data, targets = training_data(options.data_dir, BATCHES), target_data(options.data_dir)
    start = time.perf_counter()
    audit, alike = scores_of(folder, data, targets)
    seconds = time.perf_counter() - start
    tables = {}
    for name, some in zip(("least", "most"), strategies(audit, alike, data[1]), strict=True):
        tables[name] = evaluation.pruning(
            lambda ids, seed: trained((data[0][ids], data[1][ids]), seed),
            some,
            target_data(options.data_dir, TEST),
            shares=options.shares,
            seeds=options.seeds,
            processes=options.processes,
            path=folder / "trainings",
        )
        print(tables[name], flush=True)
    write(tables, seconds, time.perf_counter() - start, options)


def write(tables: dict[str, Any], scoring: float, whole: float, options: argparse.Namespace) -> None:
    """Write the figures, and a page that says them."""
    options.results.mkdir(parents=True, exist_ok=True)
    found = {
        "tables": {name: table.data.to_dict() for name, table in tables.items()},
        "seconds": {"run, audit and similarity": scoring, "everything": whole},
        "machine": machine(),
    }
    (options.results / "pruning.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = [
        f"LeNet-5 on {BATCHES * BATCH} images of MNIST, {EPOCHS} epochs of Adam at {SPED * RATE:g}, {options.seeds} "
        f"seeds. Run, audit of {BATCH} test images and path similarity {scoring:.0f} s, everything {whole:.0f} s.",
        f"Machine: {json.dumps(machine(), sort_keys=True)}",
    ]
    for name, title in (("least", "What matters least goes first"), ("most", "What matters most goes first")):
        lines += ["", f"{title}.", "", str(tables[name]), "", f"![{title}](pruning-{name}.png)"]
        save_picture(tables[name], options.results / f"pruning-{name}.png", title)
    (options.results / "pruning.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
