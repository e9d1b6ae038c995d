"""How long an audit takes beside plain training of the same steps, in one process, rounds interleaved.

    python -m benchmarks.audit_time --data-dir MNIST

LeNet-5, MNIST, batches of 256, Adam, 256 targets. A round trains plainly, then audits the recorded run of as many
steps in float32, with the kernels that a C compiler makes and without, and in mixed precision. Compiling them, about
a second a process, falls into the round that does not count. What is quoted are medians over rounds and of each round's
ratio. Costs are linear in steps. Two parts are timed by themselves, since no audit can do without them and both depend
on the machine: the replay, and the product of the targets' sensitivities with the batch's gradients, (256 x parameters)
by (parameters x 256), in float32. What else compiling could give shows in the gradients of 256 examples, written out
once a step: by our layer rules, block by block into memory that is used again, as in the audit; and whole, (256 x
parameters), by torch.func, as it is and through torch.compile on a CPU with a C++ compiler. Results are written to
``benchmarks/results/audit_time.json`` and ``.md``; with ``--device cuda`` to ``audit_time-cuda.json`` and ``.md``.
"""

from __future__ import annotations

import json
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, vmap

import whence
from benchmarks._machine import machine
from benchmarks._mnist import (
    BATCH,
    RATE,
    arguments,
    finish,
    keep_freed_memory,
    lenet5,
    named,
    plain_batches,
    target_data,
    training_data,
)
from benchmarks.audit import train_recorded
from whence.audit.blocks import blocks
from whence.audit.products import fast_products
from whence.gradients import capture

DTYPE = torch.float32


def main() -> None:
    """Measure and write."""
    parser = arguments("Time audits beside plain training.", device=True)
    parser.add_argument("--steps", type=int, default=100, help="steps of training in a round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    data, targets = training_data(options.data_dir, options.steps), target_data(options.data_dir)
    with tempfile.TemporaryDirectory() as folder:
        run = train_recorded(Path(folder) / "run", data, 0.0, 1, options.device)
        variants: dict[str, Callable[[], object]] = {
            "plain training": lambda: train_plainly(data, options.device),
            "replay": lambda: sum(1 for _ in run.replay(0, run.steps)),
            "the product alone, float32": lambda: multiply(run),
            **{f"gradients written out, {name}": work for name, work in gradients(run, targets).items()},
            "audit, float32": lambda: whence.audit(run, targets, precision="float32"),
            "audit, float32, no compiler": lambda: audit_by_torch(run, targets),
            "audit, mixed": lambda: whence.audit(run, targets, precision="mixed"),
        }
        seconds = rounds(variants, options.rounds, options.device)
    write(seconds, options.steps, options.results, named("audit_time", options.device))


def audit_by_torch(run: whence.Run, targets: tuple[Tensor, Tensor]) -> None:
    """Audit without compiled kernels."""
    with patch("whence.compiled.loading.library", lambda _dtype: None):
        whence.audit(run, targets, precision="float32")


def multiply(run: whence.Run) -> None:
    """Do the one large product of an audit, once a step."""
    size = sum(parameter.numel() for parameter in run.model.parameters())
    device = next(run.model.parameters()).device
    left, right, total = (torch.ones(BATCH, width, device=device) for width in (size, size, BATCH))
    with fast_products():
        for _ in range(run.steps):
            total.addmm_(left, right.T)


def gradients(run: whence.Run, targets: tuple[Tensor, Tensor]) -> dict[str, Callable[[], object]]:
    """Return ways to write out the targets' gradients, once for each step of the run."""
    device = next(run.model.parameters()).device
    model, targets = lenet5().to(device).requires_grad_(False), (targets[0].to(device), targets[1].to(device))
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    shapes, layers = {name: one.shape for name, one in parameters.items()}, dict.fromkeys(parameters, 0)
    parts = blocks(shapes, layers, BATCH, DTYPE, device)
    held = torch.empty(max(BATCH * one.width for one in parts), device=device)

    def ours(keep: list[Tensor] | None = None) -> None:
        with capture(model, tuple(parameters), frozen=True, check=False) as captured:
            F.cross_entropy(model(targets[0]), targets[1], reduction="sum").backward()
        for one in parts:
            out = held[: BATCH * one.width].view(BATCH, one.width)
            captured.gradients()[one.name].part(one.start, one.stop, out)
            if keep is not None:
                keep.append(out.clone())

    def loss(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, values, (x[None],)), y[None])

    def theirs() -> Tensor:
        found = vmap(grad(loss), (None, 0, 0))(parameters, *targets)
        return torch.cat([one.flatten(1) for one in found.values()], 1)

    ways: dict[str, Callable[[], object]] = {"our rules": ours, "torch.func": theirs}
    if device.type == "cpu" and any(shutil.which(name) for name in ("g++", "clang++")):
        ways["torch.func, compiled"] = torch.compile(theirs)
    kept: list[Tensor] = []
    ours(kept)
    torch.testing.assert_close(torch.cat(kept, 1), theirs(), rtol=1e-4, atol=1e-4)
    return {name: partial(repeat, way, run.steps) for name, way in ways.items()}


def repeat(work: Callable[[], object], times: int) -> None:
    """Do something so many times."""
    for _ in range(times):
        work()


def train_plainly(data: tuple[Tensor, Tensor], device: str) -> None:
    """Train one epoch without recording."""
    model = lenet5().to(device)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    for x, y in plain_batches(data, 0):
        optimizer.zero_grad()
        F.cross_entropy(model(x.to(device)), y.to(device)).backward()
        optimizer.step()


def rounds(variants: dict[str, Callable[[], object]], count: int, device: str) -> dict[str, list[float]]:
    """Return the seconds of each variant in each round, after one round that does not count."""
    found: dict[str, list[float]] = {name: [] for name in variants}
    for at in range(count + 1):
        for name, work in variants.items():
            start = time.perf_counter()
            work()
            finish(device)
            if at:
                found[name].append(time.perf_counter() - start)
    return found


def write(seconds: dict[str, list[float]], steps: int, results: Path, name: str) -> None:
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
    (results / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n")
    lines = ["| | ms a step | times plain training | range over rounds |", "|---|---|---|---|"]
    for row, one in told.items():
        spread = f"{one['lowest_ratio']:.2f} - {one['highest_ratio']:.2f}"
        lines.append(f"| {row} | {one['ms_per_step']:.1f} | {one['ratio']:.2f} | {spread} |")
    head = f"LeNet-5, MNIST, {steps} steps of {BATCH}, {BATCH} targets, medians of {len(plain)} rounds.\n"
    (results / f"{name}.md").write_text(f"{head}Machine: {machine()}\n\n" + "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
