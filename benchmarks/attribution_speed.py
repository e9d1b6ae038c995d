"""Grad-dot and grad-cos beside captum's TracInCP for one checkpoint: time, memory, growth.

    pip install -e ".[baselines]"
    python -m benchmarks.attribution_speed --data-dir MNIST

LeNet-5 as initialised, the first images of MNIST, float32, one process. Ours is timed
whole: fitting and scoring. captum gets ready batches and per-example gradients in batches. Peak memory is that of a
process of its own that scores once, data and libraries included. Results: ``benchmarks/results/attribution_speed.*``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor, nn

from benchmarks._machine import machine, round_robin
from benchmarks._mnist import BATCH, arguments, keep_freed_memory, lenet5, target_data, training_data
from whence._statistics import rank_correlations
from whence.attribution import Attributor, GradCos, GradDot, attribute

Data = tuple[Tensor, Tensor]
TRAIN, TARGETS = 10_000, 1_000
PROJECTED = "grad-dot, projected to 256"
ALL: dict[str, Attributor] = {"grad-dot": GradDot(), "grad-cos": GradCos(), PROJECTED: GradDot(projection=256)}
LAST: dict[str, Attributor] = {
    "grad-dot, last layer": GradDot(layers="last"),
    "grad-cos, last layer": GradCos(layers="last"),
}
THEIRS, THEIRS_LAST = "captum TracInCP, all layers", "captum TracInCPFast, last layer"


def main() -> None:
    """Measure and write."""
    parser = arguments("Grad-dot and grad-cos beside captum.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--once", choices=[*ALL, *LAST], help="score once with one method and print the peak memory")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    if options.once:
        train, targets = data(options.data_dir, TRAIN, TARGETS)
        ours({**ALL, **LAST}[options.once], train, targets)
        print(peak())
        return
    found = {
        "train": TRAIN,
        "targets": TARGETS,
        "seconds": seconds(options),
        "deviation": deviation(options),
        "projection": projection(options),
        "memory": {name: memory(options, name) for name in (*ALL, *LAST)},
        "growth": growth(options),
        "machine": machine(),
    }
    write(found, options.results)


def peak() -> float:
    """Return this process's peak memory in MiB (getrusage would count that of the process it was forked from)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmHWM in /proc/self/status: peak memory is read on Linux only")


def data(folder: Path, train: int, targets: int) -> tuple[Data, Data]:
    """Return training images and targets in float32."""
    x, y = training_data(folder, -(-train // BATCH))
    t, labels = target_data(folder, targets)
    return (x[:train].float(), y[:train]), (t.float(), labels)


def scored(method: Attributor, train: Data, targets: Data) -> xr.DataArray:
    """Score with one of our methods, as users get it."""
    return attribute(method, lenet5().float(), targets, train_data=train, loss=F.cross_entropy)


def ours(method: Attributor, train: Data, targets: Data) -> Tensor:
    """Score with one of our methods."""
    return torch.from_numpy(scored(method, train, targets).values)


def theirs(train: Data, targets: Data, *, fast: bool) -> Tensor:
    """Score with captum for one checkpoint at learning rate 1."""
    from captum.influence import TracInCP, TracInCPFast

    warnings.filterwarnings("ignore", "Input Tensor 0 did not already require gradients")
    model, loss = lenet5().float(), nn.CrossEntropyLoss(reduction="sum")
    ready: Any = list(zip(train[0].split(BATCH), train[1].split(BATCH), strict=True))
    loader: Any = torch.utils.data.DataLoader(ready, batch_size=None)
    scorer: Any
    if fast:
        scorer = TracInCPFast(model, model[-1], loader, [0], lambda *_: 1.0, loss)
    else:
        scorer = TracInCP(model, loader, [0], lambda *_: 1.0, None, loss, sample_wise_grads_per_batch=True)
    found: Tensor = scorer.influence(targets).detach()
    return found


def seconds(options: argparse.Namespace) -> dict[str, float]:
    """Return the median seconds of every method, in turns."""
    train, targets = data(options.data_dir, TRAIN, TARGETS)
    variants: dict[str, Any] = {
        name: (lambda method=method: ours(method, train, targets)) for name, method in {**ALL, **LAST}.items()
    }
    variants[THEIRS] = lambda: theirs(train, targets, fast=False)
    variants[THEIRS_LAST] = lambda: theirs(train, targets, fast=True)
    return round_robin(variants, options.rounds, warm_up=1)


def deviation(options: argparse.Namespace) -> float:
    """Return how far grad-dot is from TracInCP, relative to the largest score."""
    train, targets = data(options.data_dir, TRAIN, 100)
    one, other = ours(ALL["grad-dot"], train, targets), theirs(train, targets, fast=False)
    return float((one - other).abs().max() / other.abs().max())


def projection(options: argparse.Namespace) -> dict[str, float]:
    """Return the error of projected scores that they state, from a few pairs, and that over all pairs.

    Both are root mean squares relative to the exact scores; beside them the mean rank correlation of a target's scores.
    """
    train, targets = data(options.data_dir, TRAIN, 100)
    exact, projected = scored(ALL["grad-dot"], train, targets), scored(ALL[PROJECTED], train, targets)
    away = float(((projected - exact) ** 2).mean() ** 0.5 / (exact**2).mean() ** 0.5)
    ranks = rank_correlations(exact.values.T, projected.values.T)
    return {"stated": float(projected.attrs["projection_error"]), "all": away, "rank": float(np.mean(ranks))}


def memory(options: argparse.Namespace, name: str) -> float:
    """Return the peak memory in MiB of a process that scores once."""
    call = [sys.executable, "-m", "benchmarks.attribution_speed", "--once", name, "--data-dir", str(options.data_dir)]
    said = subprocess.run([*call, "--threads", str(options.threads)], check=True, capture_output=True, text=True)
    return float(said.stdout.split()[-1])


def growth(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return seconds of grad-dot for growing numbers of targets and of training examples."""
    train, targets = data(options.data_dir, TRAIN, 4 * TARGETS)
    sizes = [(TRAIN, TARGETS), (TRAIN, 2 * TARGETS), (TRAIN, 4 * TARGETS), (TRAIN // 4, TARGETS), (TRAIN // 2, TARGETS)]
    variants: dict[str, Any] = {
        f"{m} x {n}": (
            lambda m=m, n=n: ours(ALL["grad-dot"], (train[0][:m], train[1][:m]), (targets[0][:n], targets[1][:n]))
        )
        for m, n in sizes
    }
    found = round_robin(variants, options.rounds, warm_up=1)
    return {
        "targets": {str(n): found[f"{TRAIN} x {n}"] for n in (TARGETS, 2 * TARGETS, 4 * TARGETS)},
        "train": {str(m): found[f"{m} x {TARGETS}"] for m in (TRAIN // 4, TRAIN // 2, TRAIN)},
    }


def write(found: dict[str, Any], results: Path) -> None:
    """Write the figures, and a page that says them."""
    results.mkdir(parents=True, exist_ok=True)
    (results / "attribution_speed.json").write_text(json.dumps(found, indent=1) + "\n")
    times = found["seconds"]
    rows = [
        f"| {name} | {times[name]:.2f} | {times[peer] / times[name]:.1f} x {peer} | {found['memory'][name]:.0f} |"
        for names, peer in ((ALL, THEIRS), (LAST, THEIRS_LAST))
        for name in names
    ]
    rows += [f"| {name} | {times[name]:.2f} | | |" for name in (THEIRS, THEIRS_LAST)]
    lines = [
        f"LeNet-5, MNIST, {found['train']} training examples × {found['targets']} targets, float32, fitting included; "
        "medians of rounds in turns. Largest difference between grad-dot and TracInCP relative to the largest score: "
        f"{found['deviation']:.1e}.",
        f"Machine: {json.dumps(found['machine'], sort_keys=True)}",
        "",
        "| method | seconds | as fast as | peak memory of a process, MiB |",
        "|---|---|---|---|",
        *rows,
        "",
        f"Projected scores state an error of {found['projection']['stated']:.3f} of the exact ones, from a few pairs; "
        f"over all pairs of 100 targets it is {found['projection']['all']:.3f}, and the rank correlation of a target's "
        f"scores {found['projection']['rank']:.3f}.",
        "",
        "Growth of grad-dot over all layers, seconds:",
        "",
        *(
            f"- {kind}: " + ", ".join(f"{count}: {value:.2f}" for count, value in one.items())
            for kind, one in found["growth"].items()
        ),
    ]
    (results / "attribution_speed.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
