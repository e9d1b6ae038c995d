"""An audit beside TracIn as captum has it: completeness, and seconds per pair of a training example and a target.

    pip install -e ".[baselines]"
    python -m benchmarks.tracin --data-dir MNIST                              # the paper's setting in full
    python -m benchmarks.tracin --data-dir MNIST --epochs 4 --batches 50 --every 1    # a quick look

One recorded run of LeNet-5 on MNIST (Adam) is scored by our audit (float32, trapezoid) and by captum's TracInCP and
TracInCPFast, with a checkpoint every few epochs and the training's learning rate times that number of epochs. captum
gets what is fastest for it: ready batches, per-example gradients in batches. Its checkpoints are formed before its time
is taken, while ours includes replaying the run. In a second, small run both must agree: SGD, full batch, Euler, a
checkpoint before every step. Results are written to ``benchmarks/results/tracin.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from captum.influence import TracInCP, TracInCPFast
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

import whence
from benchmarks._machine import machine
from benchmarks._mnist import BATCH, BATCHES, RATE, arguments, keep_freed_memory, lenet5, target_data, training_data
from benchmarks.audit import train_recorded
from whence.runs import ModelState

Data = tuple[Tensor, Tensor]
OURS = "audit, trapezoid, float32"
LAST = "11"  # the last layer's name in LeNet-5
SCORERS: dict[str, list[str] | None] = {
    "TracInCP, all layers": None,
    "TracInCP, last layer": [LAST],
    "TracInCPFast, last layer": [LAST],
}
EQUALITY = {"steps": 5, "batch": 64, "targets": 16, "rate": 0.1}  # SGD on the same 64 examples in every step


def main() -> None:
    """Measure and write."""
    parser = arguments("An audit beside captum's TracIn.")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--every", type=int, default=5, help="epochs that a checkpoint of TracIn stands for")
    parser.add_argument("--batches", type=int, default=BATCHES, help="batches of 256 in an epoch")
    parser.add_argument("--targets", type=int, default=BATCH)
    parser.add_argument("--train", type=int, help="training examples that captum scores (all: completeness needs all)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    warnings.filterwarnings("ignore", "Input Tensor 0 did not already require gradients")  # captum's, of its own doing
    found = {
        "epochs": options.epochs,
        "every": options.every,
        "batches": options.batches,
        "targets": options.targets,
        "scored": compare(options),
        "equality": {"setting": EQUALITY, "float32": equal(options, "float32"), "float64": equal(options, "float64")},
        "machine": machine(),
    }
    write(found, options.results)


def compare(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Score one run in every way."""
    data, targets = training_data(options.data_dir, options.batches), target_data(options.data_dir, options.targets)
    train = min(options.train or len(data[1]), len(data[1]))
    with tempfile.TemporaryDirectory() as folder:
        run = train_recorded(Path(folder) / "run", data, 0.0, options.epochs)
        start = time.perf_counter()
        audit = whence.audit(run, targets, precision="float32", quadrature="trapezoid")
        told = {OURS: figures(time.perf_counter() - start, len(data[1]), len(targets[1]), options.epochs)}
        ends = range(options.every, options.epochs + 1, options.every)
        states = [run.state_at(epoch * options.batches) for epoch in ends]
    change = audit.completeness.true_change.values
    told[OURS] |= completeness(change, audit.completeness.reconstructed.values)
    for name, layers in SCORERS.items():
        loader = batches_of((data[0][:train], data[1][:train]))
        start = time.perf_counter()
        scores = tracin(name, layers, states, RATE * options.every, loader, targets)
        told[name] = figures(time.perf_counter() - start, train, len(targets[1]), len(states))
        if train == len(data[1]):
            told[name] |= completeness(change, as_shares(scores, BATCH).sum(1))
    return told


def tracin(
    name: str, layers: list[str] | None, states: list[ModelState], rate: float, loader: DataLoader[Any], targets: Data
) -> Tensor:
    """Return captum's scores (targets, train): the sum over checkpoints of η g·g'."""
    model = lenet5().to(targets[0].dtype)
    loss = nn.CrossEntropyLoss(reduction="sum")

    def load(into: nn.Module, state: ModelState) -> float:
        into.load_state_dict({**state.parameters, **state.buffers})
        return rate  # captum's own way of loading a state dict takes it for 1

    scorer: Any
    if "Fast" in name:
        scorer = TracInCPFast(model, model.get_submodule(LAST), loader, states, load, loss)
    else:
        scorer = TracInCP(model, loader, states, load, layers, loss, sample_wise_grads_per_batch=True)
    found: Tensor = scorer.influence(targets).detach()
    return found


def batches_of(data: Data) -> DataLoader[Any]:
    """Return ready batches as a loader, so that no time goes into collating."""
    ready: Any = list(zip(data[0].split(BATCH), data[1].split(BATCH), strict=True))
    return DataLoader(ready, batch_size=None)


def as_shares(scores: Tensor, batch: int) -> NDArray[np.float64]:
    """Return TracIn's scores as shares of the change of a loss: a step's is -η/|B| g·g'."""
    found: NDArray[np.float64] = (-scores.double() / batch).numpy()
    return found


def figures(seconds: float, train: int, targets: int, visits: int) -> dict[str, Any]:
    """Return the time in all, for a pair, and for a pair and a visit (our epoch, their checkpoint)."""
    pair = seconds / (train * targets)
    return {"train": train, "seconds": seconds, "per_pair": pair, "per_pair_and_visit": pair / visits}


def completeness(change: NDArray[Any], summed: NDArray[Any]) -> dict[str, float]:
    """Return how well summed scores give the true change, as they are and times the one factor that suits them best."""
    change, summed = change.astype(np.float64), summed.astype(np.float64)
    factor = float(change @ summed / (summed @ summed))
    return {
        "mean_change": float(np.abs(change).mean()),
        "mean_error": float(np.abs(change - summed).mean()),
        "correlation": float(np.corrcoef(change, summed)[0, 1]),
        "best_factor": factor,
        "mean_error_with_best_factor": float(np.abs(change - factor * summed).mean()),
    }


def equal(options: argparse.Namespace, precision: str) -> dict[str, dict[str, float]]:
    """Return how far we are from captum where both must agree, over all layers and over the last."""
    dtype: torch.dtype = getattr(torch, precision)
    data, targets = small(options.data_dir, dtype)
    with tempfile.TemporaryDirectory() as folder:
        run = train_full_batch(Path(folder) / "run", data)
        influence = whence.audit(run, targets, precision=precision, quadrature="euler", by="layer").influence
        states = [run.state_at(step) for step in range(run.steps)]
    ours = {"all layers": influence.sum("layer").values, "last layer": influence.sel(layer=LAST).values}
    found = {}
    for name, layers in {"all layers": None, "last layer": [LAST]}.items():
        theirs = as_shares(tracin(name, layers, states, EQUALITY["rate"], batches_of(data), targets), len(data[1]))
        apart = np.abs(ours[name] - theirs)
        found[name] = {
            "of_largest": float(apart.max() / np.abs(theirs).max()),
            "of_each": float((apart / np.abs(theirs)).max()),
        }
    return found


def small(folder: Path, dtype: torch.dtype) -> tuple[Data, Data]:
    """Return the few examples and targets on which both must agree."""
    batch, targets = int(EQUALITY["batch"]), int(EQUALITY["targets"])
    (x, y), (targets_x, targets_y) = training_data(folder, 1), target_data(folder, targets)
    return (x[:batch].to(dtype), y[:batch]), (targets_x.to(dtype), targets_y)


def train_full_batch(path: Path, data: Data) -> whence.Run:
    """Train with plain SGD, all examples in every step."""
    model = lenet5().to(data[0].dtype)
    optimizer = torch.optim.SGD(model.parameters(), EQUALITY["rate"])
    with whence.record(path, model, optimizer, data, loss=F.cross_entropy) as recorder:
        for _ in range(int(EQUALITY["steps"])):
            for x, y in recorder.batches(len(data[1])):
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
    return whence.open_run(path, lenet5().to(data[0].dtype), data, loss=F.cross_entropy)


def write(found: dict[str, Any], results: Path) -> None:
    """Write the figures and the tables."""
    results.mkdir(parents=True, exist_ok=True)
    (results / "tracin.json").write_text(json.dumps(found, indent=1) + "\n")
    head = (
        f"LeNet-5, MNIST, {found['epochs']} epochs of {found['batches']} batches of {BATCH}, Adam {RATE:g}, "
        f"{found['targets']} targets, loss in nats; k = {found['every']}.\nMachine: {found['machine']}\n"
    )
    text = "\n".join([head, *comparison(found["scored"]), "", NOTES, "", *agreement(found["equality"])])
    (results / "tracin.md").write_text(text + "\n")
    print(text)


NOTES = f"""\
TracIn (captum): a checkpoint every k epochs, and k times the training's learning rate η. Its scores, the sum over
checkpoints of k η g·g', are taken in the scaling in which a step's share is -η/{BATCH} g·g': every example takes
part in one step an epoch, so a checkpoint stands for k of them. Mean error and correlation are those of the summed
scores against the true change of the loss; "best factor" is the mean error after multiplying all scores by the one
number that suits them best, for TracIn does not know that Adam's steps are not η g. Completeness is left out where
not all training examples were scored. A visit is an epoch of ours (each pair meets once) or a checkpoint of
TracIn's. TracInCPFast leaves out the bias. Our time includes replaying the run; captum's checkpoints were formed
beforehand."""


def comparison(scored: dict[str, dict[str, Any]]) -> list[str]:
    """Return the table of completeness and time."""
    lines = [
        "| | training examples scored | mean change | mean error | correlation | mean error, best factor "
        "| seconds | µs a pair | ns a pair and visit |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in scored.items():
        complete = "- | - | - | -"
        if "mean_error" in one:
            complete = (
                f"{one['mean_change']:.4f} | {one['mean_error']:.6f} | {one['correlation']:.6f} "
                f"| {one['mean_error_with_best_factor']:.6f}"
            )
        lines.append(
            f"| {name} | {one['train']} | {complete} | {one['seconds']:.1f} | {1e6 * one['per_pair']:.3f} "
            f"| {1e9 * one['per_pair_and_visit']:.1f} |"
        )
    return lines


def agreement(equality: dict[str, Any]) -> list[str]:
    """Return the table of the setting in which both must agree."""
    setting = equality["setting"]
    lines = [
        f"Made TracIn's (LeNet-5, SGD {setting['rate']:g} without momentum, {setting['steps']} full-batch steps of "
        f"{setting['batch']} examples, {setting['targets']} targets, euler, a checkpoint before every step), "
        "the audit differs from TracInCP by:",
        "",
        "| | largest difference / largest score | largest difference / its own score |",
        "|---|---|---|",
    ]
    for precision in ("float32", "float64"):
        for name, one in equality[precision].items():
            lines.append(f"| {name}, {precision} | {one['of_largest']:.1e} | {one['of_each']:.1e} |")
    return lines


if __name__ == "__main__":
    main()
