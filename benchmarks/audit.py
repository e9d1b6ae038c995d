"""The audit of the paper's MNIST setting in full: completeness and peak memory.

    python -m benchmarks.audit --data-dir MNIST            # every variant, each in a process of its own
    python -m benchmarks.audit --data-dir MNIST --variant trapezoid --epochs 2

Each variant trains with recording and audits the run, in a process of its own. Time is measured by
``benchmarks/audit_time.py``. Results are written to ``benchmarks/results/audit/`` and gathered into ``audit.md``; with
``--device cuda`` to ``audit-cuda/`` and ``audit-cuda.md``, where memory is the GPU's.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.optim import Adam, AdamW, Optimizer

import whence
from benchmarks._machine import machine
from benchmarks._mnist import BATCH, RATE, arguments, keep_freed_memory, lenet5, named, target_data, training_data

VARIANTS: dict[str, dict[str, Any]] = {
    "trapezoid": {},
    "mixed": {"precision": "mixed"},
    "adamw": {"decay": 0.1},
    "simpson": {"quadrature": "simpson"},
    "tolerance": {"tolerance": 1e-4},
    "euler": {"quadrature": "euler"},
    "subsample-2": {"subsample": 2},
    "subsample-5": {"subsample": 5},
}


def main() -> None:
    """Run one variant here, or all of them in turn."""
    parser = arguments("Audit LeNet-5 on MNIST.", device=True)
    parser.add_argument("--variant", choices=VARIANTS, action="append")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--targets", type=int, default=BATCH)
    options = parser.parse_args()
    chosen = options.variant or list(VARIANTS)
    if len(chosen) == 1:
        print(json.dumps(measure(chosen[0], options), indent=1))
    else:
        for name in chosen:
            subprocess.run([sys.executable, "-m", "benchmarks.audit", "--variant", name, *rest(options)], check=True)
    table(options.results, named("audit", options.device))


def rest(options: argparse.Namespace) -> list[str]:
    """Return the options for the process of one variant."""
    found = ["--data-dir", str(options.data_dir), "--threads", str(options.threads), "--results", str(options.results)]
    found += ["--device", options.device]
    return [*found, "--epochs", str(options.epochs), "--targets", str(options.targets)]


def optimizer_for(model: torch.nn.Module, decay: float) -> Optimizer:
    """Return the paper's Adam, or AdamW with decay."""
    return AdamW(model.parameters(), RATE, weight_decay=decay) if decay else Adam(model.parameters(), RATE)


def train_recorded(
    path: Path, data: tuple[torch.Tensor, torch.Tensor], decay: float, epochs: int, device: str = "cpu"
) -> whence.Run:
    """Train with recording and open the run."""
    model = lenet5().to(device)
    optimizer = optimizer_for(model, decay)
    with whence.record(path, model, optimizer, data, loss=F.cross_entropy) as recorder:
        for _ in range(epochs):
            for x, y in recorder.batches(BATCH):
                optimizer.zero_grad()
                F.cross_entropy(model(x.to(device)), y.to(device)).backward()
                optimizer.step()
    return whence.open_run(path, lenet5().to(device), data, loss=F.cross_entropy)


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one variant and write its result."""
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    settings = dict(VARIANTS[name])
    decay = settings.pop("decay", 0.0)
    data, targets = training_data(options.data_dir), target_data(options.data_dir, options.targets)
    with tempfile.TemporaryDirectory() as folder:
        run = train_recorded(Path(folder) / "run", data, decay, options.epochs, options.device)
        start = time.perf_counter()
        audit = whence.audit(run, targets, **settings)
        seconds = (time.perf_counter() - start) / run.steps
    found = {
        "variant": name,
        "epochs": options.epochs,
        "steps": run.steps,
        "targets": options.targets,
        **figures(audit),
        "audit_ms_per_step": 1e3 * seconds,
        "peak_mib": peak(options.device) / 2**20,
        "machine": machine(),
    }
    folder_of_results = options.results / named("audit", options.device)
    folder_of_results.mkdir(parents=True, exist_ok=True)
    (folder_of_results / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    return found


def peak(device: str) -> int:
    """Return the most bytes that this process has held, on the GPU if it is on one."""
    if device == "cpu":
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return torch.accelerator.max_memory_allocated()


def figures(audit: whence.Audit) -> dict[str, float]:
    """Return the completeness of an audit."""
    completeness = audit.completeness
    return {
        "mean_error": completeness.mean_error,
        "correlation": completeness.correlation,
        "mean_change": float(abs(completeness.true_change).mean()),
        "largest_error": float(abs(completeness.error).max()),
        "mean_residual": float(abs(completeness.residual.sum("source")).mean()),
        "sum_of_step_errors": float(audit.data["step_error"].sum()),
    }


PAPER = {
    "trapezoid": (0.010386, 0.999998),
    "euler": (0.090122, 0.990681),
    "subsample-2": (0.013338, 0.999976),
    "subsample-5": (0.021712, 0.999786),
}


def table(results: Path, what: str) -> None:
    """Gather the results that are there into one table."""
    lines = [
        "| variant | steps | mean error | correlation | mean residual | paper: mean error | correlation "
        "| peak MiB | ms a step |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    machines = set()
    for name in VARIANTS:
        file = results / what / f"{name}.json"
        if not file.exists():
            continue
        one = json.loads(file.read_text())
        theirs = PAPER.get(name)
        paper = f"{theirs[0]:.4f} | {theirs[1]:.6f}" if theirs else "- | -"
        lines.append(
            f"| {name} | {one['steps']} | {one['mean_error']:.6f} | {one['correlation']:.8f} "
            f"| {one['mean_residual']:.4f} | {paper} | {one['peak_mib']:.0f} "
            f"| {one['audit_ms_per_step']:.0f} |"
        )
        machines.add(json.dumps(one["machine"], sort_keys=True))
    head = (
        "LeNet-5, MNIST, 200 batches of 256, Adam 1.5e-5 (adamw: AdamW, weight decay 0.1); 256 targets, loss in nats.\n"
    )
    text = head + "".join(f"Machine: {one}\n" for one in sorted(machines)) + "\n" + "\n".join(lines) + "\n"
    (results / f"{what}.md").write_text(text)


if __name__ == "__main__":
    main()
