"""Modes of the paper's MNIST training: how many hold its energy, and how well they can be followed along the run.

    python -m benchmarks.modes --data-dir MNIST                     # trains with recording first, 50 epochs
    python -m benchmarks.modes --data-dir MNIST --run RUN --every 4

Results go to ``benchmarks/results/modes.json`` and ``modes.md``, the energy by epoch to ``modes-energy.png``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr

import whence
from benchmarks._machine import machine
from benchmarks._mnist import BATCH, arguments, keep_freed_memory, lenet5, training_data
from benchmarks._pictures import save_picture
from benchmarks.audit import train_recorded
from whence.evaluation import Table
from whence.kernel import modes, modes_for_energy, online_modes, participation_ratio
from whence.runs import Run

SHARES = {0.9: 12, 0.95: 32, 0.99: 109}  # of the energy; modes that the paper needs (table 3, standard training)
COUNT = 150  # modes at the end
SAMPLED, LEADING = 2048, 50  # examples and modes of the spectrum along the run
SETTLED = 10  # epoch after which the paper's projector captures 99 %


def main() -> None:
    """Measure and write."""
    parser = arguments("Modes of LeNet-5 on MNIST.", device=True)
    parser.add_argument("--run", type=Path, help="a run recorded before, as benchmarks.audit does")
    parser.add_argument("--epochs", type=int, default=50, help="of the training, without --run")
    parser.add_argument("--every", type=int, default=4, help="steps of an epoch that the online modes look at")
    parser.add_argument("--rate", type=float, default=100.0, help="of the online modes")
    parser.add_argument("--count", type=int, default=125, help="of the online modes")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    data = training_data(options.data_dir)
    with tempfile.TemporaryDirectory() as folder:
        if options.run is None:
            run = train_recorded(Path(folder) / "run", data, 0.0, options.epochs, options.device)
        else:
            run = whence.open_run(options.run, lenet5().to(options.device), data, loss=F.cross_entropy)
        found = {
            "epochs": run.epochs,
            "steps": run.steps,
            "end": at_end(run),
            "along": along(run),
            "online": online(run, options),
            "machine": machine(),
        }
    (options.results / "modes.json").write_text(json.dumps(found, indent=1) + "\n")
    page(found, options.results)


def at_end(run: Run) -> dict[str, Any]:
    """Return how many modes hold shares of the energy of all training examples at the end."""
    start = time.perf_counter()
    found = modes(run, count=COUNT, iterations=1)
    needed = {
        str(share): modes_for_energy(found, [share])[share] if float(found.captured[-1]) >= share else None
        for share in SHARES
    }
    return {
        "examples": len(found.examples),
        "seconds": time.perf_counter() - start,
        "needed": needed,
        "captured": float(found.captured[-1]),
        "participation_ratio": float(participation_ratio(found.singular_values.square())),
        "singular_values": found.singular_values.tolist(),
        "drive": found.drive.tolist(),
    }


def along(run: Run) -> dict[str, Any]:
    """Return the effective number of modes at the start of every fifth epoch and at the end."""
    epochs = run.epoch_of_steps()
    steps = [int(np.flatnonzero(epochs == epoch)[0]) for epoch in range(0, run.epochs, 5)] + [run.steps]
    ratios = []
    for step in steps:
        found = modes(run, step=step, count=LEADING, ids=range(SAMPLED), iterations=1)
        ratios.append(float(participation_ratio(found.singular_values.square())))
    return {"steps": steps, "examples": SAMPLED, "modes": LEADING, "participation_ratio": ratios}


def online(run: Run, options: argparse.Namespace) -> dict[str, Any]:
    """Return the energy captured by the modes followed along the run, by epoch."""
    start = time.perf_counter()
    found = online_modes(run, options.count, every=options.every, rate=options.rate)
    seconds = time.perf_counter() - start
    by_epoch = found.captured.groupby(xr.DataArray(run.epoch_of_steps()[found.captured.step.values], dims="step"))
    return {
        "count": options.count,
        "every": options.every,
        "rate": options.rate,
        "seconds": seconds,
        "ms_per_step": 1e3 * seconds / run.steps,
        "epochs": [int(one) for one in by_epoch.groups],
        "mean": by_epoch.mean().values.tolist(),
        "least": by_epoch.min().values.tolist(),
    }


def energy_table(found: dict[str, Any]) -> Table:
    """Return the energy captured in each epoch: mean over its steps, and the least as the lower end."""
    mean, least = (np.array(found[name])[:, None] for name in ("mean", "least"))
    dims = ("epoch", "projector")
    attrs = {"title": "Energy that modes frozen before an epoch capture in it", "measure": "share of the norm"}
    return Table(
        xr.Dataset(
            {"estimate": (dims, mean), "low": (dims, least), "high": (dims, mean)},
            {"epoch": found["epochs"], "projector": [f"{found['count']} modes"]},
            attrs | {"interval": "down to the least of its steps"},
        ),
        (("the paper from epoch 10 on", 0.99),),
    )


def page(found: dict[str, Any], results: Path) -> None:
    """Write the results as a page with its picture."""
    end, course, followed = found["end"], found["along"], found["online"]
    mean, least = (
        min(
            (one for epoch, one in zip(followed["epochs"], followed[key], strict=True) if epoch >= SETTLED), default=0.0
        )
        for key in ("mean", "least")
    )
    lines = [
        f"LeNet-5, MNIST, 200 batches of {BATCH}, Adam 1.5e-5, {found['epochs']} epochs.",
        f"Machine: {json.dumps(found['machine'], sort_keys=True)}",
        "",
        f"Modes that hold a share of the energy of {end['examples']} examples' gradients at the end "
        f"({COUNT} modes, which hold {end['captured']:.4f}, in {end['seconds']:.0f} s):",
        "",
        "| share | modes | paper |",
        "|---|---|---|",
        *(
            f"| {share:.0%} | {end['needed'][str(share)] or f'more than {COUNT}'} | {paper} |"
            for share, paper in SHARES.items()
        ),
        "",
        f"Participation ratio of the energies: {end['participation_ratio']:.2f}. Before some steps, of the leading "
        f"{course['modes']} modes of {course['examples']} examples:",
        "",
        f"| step | {' | '.join(map(str, course['steps']))} |",
        "|---" * (len(course["steps"]) + 1) + "|",
        f"| participation ratio | {' | '.join(f'{one:.2f}' for one in course['participation_ratio'])} |",
        "",
        f"Modes followed by Oja's rule: {followed['count']}, γ = {followed['rate']:g}, 1 step in {followed['every']}, "
        f"{followed['ms_per_step']:.0f} ms a step of the run. Energy captured by the modes frozen before an "
        f"epoch, ‖ΦV‖/‖Φ‖, from epoch {SETTLED} on: at least {mean:.4f} in the mean over an epoch's steps, {least:.4f} "
        "at a single one (paper: 0.99).",
        "",
        "![Energy captured](modes-energy.png)",
    ]
    (results / "modes.md").write_text("\n".join(lines) + "\n")
    save_picture(energy_table(followed), results / "modes-energy.png", "Energy captured by modes of the epochs before")


if __name__ == "__main__":
    main()
