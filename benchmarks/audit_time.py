"""How long an audit takes beside plain training of the same steps, in one process, rounds interleaved.

    python -m benchmarks.audit_time --data-dir MNIST

LeNet-5, MNIST, batches of 256, Adam, 256 targets. A round trains plainly, then audits the recorded run of as many
steps in float32 and in mixed precision; what is quoted are medians over rounds and of each round's ratio. Costs are
linear in steps. Two parts are timed by themselves, since no audit can do without them and both depend on the machine:
the replay, and the product of the targets' sensitivities with the batch's gradients, (256 x parameters) by (parameters
x 256), in float32. Results are written to ``benchmarks/results/audit_time.json`` and ``.md``.
"""

from __future__ import annotations

import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import whence
from benchmarks._machine import machine
from benchmarks._mnist import (
    BATCH,
    RATE,
    arguments,
    keep_freed_memory,
    lenet5,
    plain_batches,
    target_data,
    training_data,
)
from benchmarks.audit import train_recorded
from whence.audit.products import fast_products


def main() -> None:
    """Measure and write."""
    parser = arguments("Time audits beside plain training.")
    parser.add_argument("--steps", type=int, default=100, help="steps of training in a round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    data, targets = training_data(options.data_dir, options.steps), target_data(options.data_dir)
    with tempfile.TemporaryDirectory() as folder:
        run = train_recorded(Path(folder) / "run", data, 0.0, 1)
        variants: dict[str, Callable[[], object]] = {
            "plain training": lambda: train_plainly(data),
            "replay": lambda: sum(1 for _ in run.replay(0, run.steps)),
            "the product alone, float32": lambda: multiply(run),
            "audit, float32": lambda: whence.audit(run, targets, precision="float32"),
            "audit, mixed": lambda: whence.audit(run, targets, precision="mixed"),
        }
        seconds = rounds(variants, options.rounds)
    write(seconds, options.steps, options.results)


def multiply(run: whence.Run) -> None:
    """Do the one large product of an audit, once a step."""
    size = sum(parameter.numel() for parameter in run.model.parameters())
    left, right, total = torch.ones(BATCH, size), torch.ones(BATCH, size), torch.zeros(BATCH, BATCH)
    with fast_products():
        for _ in range(run.steps):
            total.addmm_(left, right.T)


def train_plainly(data: tuple[Tensor, Tensor]) -> None:
    """Train one epoch without recording."""
    model = lenet5()
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    for x, y in plain_batches(data, 0):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def rounds(variants: dict[str, Callable[[], object]], count: int) -> dict[str, list[float]]:
    """Return the seconds of each variant in each round, after one round that does not count."""
    found: dict[str, list[float]] = {name: [] for name in variants}
    for at in range(count + 1):
        for name, work in variants.items():
            start = time.perf_counter()
            work()
            if at:
                found[name].append(time.perf_counter() - start)
    return found


def write(seconds: dict[str, list[float]], steps: int, results: Path) -> None:
    """Write the figures and the table."""
    plain = seconds["plain training"]
    told = {
        name: {
            "ms_per_step": 1e3 * statistics.median(each) / steps,
            "ratio": statistics.median(one / base for one, base in zip(each, plain, strict=True)),
            "lowest_ratio": min(one / base for one, base in zip(each, plain, strict=True)),
            "highest_ratio": max(one / base for one, base in zip(each, plain, strict=True)),
        }
        for name, each in seconds.items()
    }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    results.mkdir(parents=True, exist_ok=True)
    whole = {
        "steps": steps,
        "batch": BATCH,
        "rounds": len(plain),
        "peak_mib": peak,
        "machine": machine(),
        "figures": told,
    }
    (results / "audit_time.json").write_text(json.dumps(whole, indent=1) + "\n")
    lines = ["| | ms a step | times plain training | range over rounds |", "|---|---|---|---|"]
    for name, one in told.items():
        spread = f"{one['lowest_ratio']:.2f} - {one['highest_ratio']:.2f}"
        lines.append(f"| {name} | {one['ms_per_step']:.1f} | {one['ratio']:.2f} | {spread} |")
    head = f"LeNet-5, MNIST, {steps} steps of {BATCH}, {BATCH} targets, medians of {len(plain)} rounds.\n"
    (results / "audit_time.md").write_text(f"{head}Machine: {machine()}\n\n" + "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
