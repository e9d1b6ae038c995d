"""How complete each quadrature and subsampling is, on the paper's MNIST setting, from one walk over one run.

    python -m benchmarks.quadratures --data-dir MNIST
    python -m benchmarks.quadratures --data-dir MNIST --floor --epochs 10    # how far down float32 goes

An audit's influences and residuals add up to what its quadrature explains, h̄·Δθ over all steps (the identity that
tests/audit/test_completeness.py checks in float64 for every optimizer). So the mean error and the correlation of an
audit follow from the targets' gradients alone, and all quadratures share them here: no influence is formed.
With ``--floor`` the rules are finer and finer ones, a tolerance, and the same with targets in float64 on the same path:
what an error in float32 has beyond that in float64 is rounding. Results are written to
``benchmarks/results/quadratures.json`` (``floor.json``) and ``.md``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import whence
from benchmarks._machine import machine
from benchmarks._mnist import BATCH, arguments, keep_freed_memory, target_data, training_data
from benchmarks.audit import PAPER, train_recorded
from whence.audit.integral import Limit, Stretch, integrate
from whence.audit.quadrature import rule
from whence.audit.quantities import as_quantity
from whence.audit.targets import State, TargetGradients, TargetPass


@dataclass(frozen=True)
class Way:
    """How to integrate.

    Attributes:
        kind: The quadrature.
        length: Steps in a stretch.
        tolerance: Mean error in nats that the whole run may have, or None.
        dtype: In which the targets are evaluated.
    """

    kind: str
    length: int = 1
    tolerance: float | None = None
    dtype: torch.dtype = torch.float32


WAYS = {
    "euler": Way("euler"),
    "trapezoid": Way("trapezoid"),
    "simpson": Way("simpson"),
    "subsample-2": Way("trapezoid", 2),
    "subsample-5": Way("trapezoid", 5),
}
FLOOR = {
    "trapezoid": Way("trapezoid"),
    "simpson": Way("simpson"),
    "gauss3": Way("gauss3"),
    "tolerance 1e-5": Way("trapezoid", tolerance=1e-5),
    "trapezoid, targets in float64": Way("trapezoid", dtype=torch.float64),
    "simpson, targets in float64": Way("simpson", dtype=torch.float64),
    "gauss3, targets in float64": Way("gauss3", dtype=torch.float64),
}


def main() -> None:
    """Train, walk once, and write how complete each rule is."""
    parser = arguments("Completeness of quadratures on LeNet-5 and MNIST.")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--floor", action="store_true", help="how far down float32 goes, in place of the paper's rules")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    data = training_data(options.data_dir)
    with tempfile.TemporaryDirectory() as folder:
        run = train_recorded(Path(folder) / "run", data, 0.0, options.epochs)
        found = completeness(run, target_data(options.data_dir), FLOOR if options.floor else WAYS)
    write(found, run.steps, options)


def completeness(
    run: whence.Run, targets: tuple[Tensor, Tensor], ways: Mapping[str, Way]
) -> dict[str, tuple[float, float]]:
    """Return mean error and correlation of each way."""
    quantity = as_quantity("loss", run.loss, None, None)
    dtypes = {way.dtype for way in ways.values()}
    watches = {one: TargetPass(run.model, *targets, quantity, run.parameter_names, one) for one in dtypes}
    explained = {name: torch.zeros(len(targets[1]), dtype=torch.float64) for name in ways}
    standing: dict[str, tuple[State, TargetGradients]] = {}
    begin: dict[torch.dtype, Tensor] = {}
    end: dict[torch.dtype, Tensor] = {}
    for step, parameters in enumerate(path_of(run)):
        state = {one: {name: value.to(one) for name, value in parameters.items()} for one in dtypes}
        here = {one: watch.gradients(state[one], {}) for one, watch in watches.items()}
        end = {one: found.values for one, found in here.items()}
        begin = begin or end
        for name, way in ways.items():
            if step % way.length and step != run.steps:
                continue
            if name in standing:
                before = standing[name]
                stretch = Stretch(before[0], state[way.dtype], {}, {}, here[way.dtype])
                limit = None
                if way.tolerance is not None:
                    so_far = before[1].values - begin[way.dtype] - explained[name]
                    share = way.tolerance / run.steps
                    limit = Limit(so_far, share * step, share * way.length)
                known = Known(watches[way.dtype], before)
                explained[name] += integrate(stretch, known, rule(way.kind), limit).explained
            standing[name] = (state[way.dtype], here[way.dtype])
    told = {}
    for name, way in ways.items():
        change, ours = (end[way.dtype] - begin[way.dtype]).numpy(), explained[name].numpy()
        told[name] = (float(np.abs(change - ours).mean()), float(np.corrcoef(change, ours)[0, 1]))
    return told


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
    name = "floor" if options.floor else "quadratures"
    (options.results / f"{name}.json").write_text(json.dumps(told, indent=1) + "\n")
    lines = ["| rule | mean error (nats) | correlation | paper: mean error | correlation |", "|---|---|---|---|---|"]
    for way, (error, correlation) in found.items():
        theirs = None if options.floor else PAPER.get(way)
        paper = f"{theirs[0]:.4f} | {theirs[1]:.6f}" if theirs else "- | -"
        lines.append(f"| {way} | {error:.7f} | {correlation:.9f} | {paper} |")
    head = f"LeNet-5, MNIST, {steps} steps of 256, Adam 1.5e-5, {BATCH} targets, float32.\nMachine: {machine()}\n\n"
    (options.results / f"{name}.md").write_text(head + "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
