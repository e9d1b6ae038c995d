"""How complete each quadrature and subsampling is, on the paper's MNIST setting, from one walk over one run.

    python -m benchmarks.quadratures --data-dir MNIST

An audit's influences and residuals add up to what its quadrature explains, h̄·Δθ over all steps (the identity that
tests/audit/test_completeness.py checks in float64 for every optimizer). So the mean error and the correlation of an
audit follow from the targets' gradients alone, and all quadratures share them here: no influence is formed.
Results are written to ``benchmarks/results/quadratures.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import whence
from benchmarks._machine import machine
from benchmarks._mnist import BATCH, arguments, keep_freed_memory, target_data, training_data
from benchmarks.audit import PAPER, train_recorded
from whence.audit.integral import Stretch, integrate
from whence.audit.quadrature import rule
from whence.audit.quantities import as_quantity
from whence.audit.targets import State, TargetGradients, TargetPass

RULES = {
    "euler": ("euler", 1),
    "trapezoid": ("trapezoid", 1),
    "simpson": ("simpson", 1),
    "subsample-2": ("trapezoid", 2),
    "subsample-5": ("trapezoid", 5),
}


def main() -> None:
    """Train, walk once, and write how complete each rule is."""
    parser = arguments("Completeness of quadratures on LeNet-5 and MNIST.")
    parser.add_argument("--epochs", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    data = training_data(options.data_dir)
    with tempfile.TemporaryDirectory() as folder:
        run = train_recorded(Path(folder) / "run", data, 0.0, options.epochs)
        found = completeness(run, target_data(options.data_dir))
    write(found, run.steps, options)


def completeness(run: whence.Run, targets: tuple[Tensor, Tensor]) -> dict[str, tuple[float, float]]:
    """Return mean error and correlation of each rule."""
    quantity = as_quantity("loss", run.loss, None, None)
    watch = TargetPass(run.model, *targets, quantity, run.parameter_names, torch.float32)
    explained = {name: torch.zeros(len(targets[1]), dtype=torch.float64) for name in RULES}
    standing: dict[str, tuple[State, TargetGradients]] = {}
    first = last = torch.zeros(0)
    for step, parameters in enumerate(path_of(run)):
        here = watch.gradients(parameters, {})
        first, last = (here.values if step == 0 else first), here.values
        for name, (kind, length) in RULES.items():
            if step % length and step != run.steps:
                continue
            if name in standing:
                before, _ = standing[name]
                stretch = Stretch(before, parameters, {}, {}, here)
                explained[name] += integrate(stretch, Known(watch, standing[name]), rule(kind), None).explained
            standing[name] = (parameters, here)
    change = (last - first).numpy()
    return {
        name: (float(np.abs(change - one.numpy()).mean()), float(np.corrcoef(change, one.numpy())[0, 1]))
        for name, one in explained.items()
    }


def path_of(run: whence.Run) -> Iterator[State]:
    """Yield the trained parameters before each step and at the end."""
    for made in run.replay(0, run.steps):
        yield made.parameters
    last = run.state_at(run.steps).parameters
    yield {name: last[name] for name in run.parameter_names}


class Known:
    """Targets whose gradients at the start of a stretch are known already."""

    def __init__(self, watch: TargetPass, start: tuple[State, TargetGradients]) -> None:
        self._watch, self._start = watch, start
        self.dtype = watch.dtype

    def values(self, parameters: State, buffers: State) -> Tensor:
        """Return the quantity alone."""
        return self._watch.values(parameters, buffers)

    def gradients(self, parameters: State, buffers: State) -> TargetGradients:
        """Return the known ones, or form them."""
        return self._start[1] if parameters is self._start[0] else self._watch.gradients(parameters, buffers)


def write(found: dict[str, tuple[float, float]], steps: int, options: argparse.Namespace) -> None:
    """Write the results and the table."""
    options.results.mkdir(parents=True, exist_ok=True)
    told = {"steps": steps, "targets": BATCH, "machine": machine(), "rules": found}
    (options.results / "quadratures.json").write_text(json.dumps(told, indent=1) + "\n")
    lines = ["| rule | mean error (nats) | correlation | paper: mean error | correlation |", "|---|---|---|---|---|"]
    for name, (error, correlation) in found.items():
        theirs = PAPER.get(name)
        paper = f"{theirs[0]:.4f} | {theirs[1]:.6f}" if theirs else "- | -"
        lines.append(f"| {name} | {error:.6f} | {correlation:.8f} | {paper} |")
    head = f"LeNet-5, MNIST, {steps} steps of 256, Adam 1.5e-5, {BATCH} targets, float32.\nMachine: {machine()}\n\n"
    (options.results / "quadratures.md").write_text(head + "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
