"""What a C compiler gives: the compiled kernels beside torch's own operations, in one process, rounds interleaved.

    python -m benchmarks.compiled

The walk: one step back of 256 targets over a linear layer's weight, with momentum, and the product with the gradients
of 256 examples; torch writes out the targets' and the examples' gradients, block by block, as an audit without kernels
does. Convolutions: per-example gradients of the weight. Medians over rounds, in float32. Results are written to
``benchmarks/results/compiled.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from benchmarks._machine import machine
from whence.audit.adjoints import Adjoints
from whence.audit.blocks import Microbatch
from whence.compiled import has_kernels
from whence.gradients import Outer
from whence.gradients.convolution import by_kernel, padded, suits_kernel, written
from whence.optimizers import LinearStep

ROWS = 256
WEIGHTS = {"120 x 400": (120, 400), "84 x 120": (84, 120), "128 x 784": (128, 784), "16 x 2048": (16, 2048)}
CONVOLUTIONS: dict[str, tuple[nn.Conv1d | nn.Conv2d, tuple[int, ...]]] = {
    "1 to 6, 5 x 5, on 28 x 28": (nn.Conv2d(1, 6, 5, padding=2), (256, 1, 28, 28)),
    "6 to 16, 5 x 5, on 14 x 14": (nn.Conv2d(6, 16, 5), (256, 6, 14, 14)),
    "16 to 32, 3 x 3, on 16 x 16": (nn.Conv2d(16, 32, 3, padding=1), (128, 16, 16, 16)),
    "64 to 64, 3 x 3, on 32 x 32": (nn.Conv2d(64, 64, 3, padding=1), (32, 64, 32, 32)),
    "3 to 64, 7 x 7 by 2, on 112 x 112": (nn.Conv2d(3, 64, 7, 2, 3), (16, 3, 112, 112)),
    "32 to 64, 5, on 200": (nn.Conv1d(32, 64, 5, padding=2), (64, 32, 200)),
    "32 groups of 1, 3 x 3, on 32 x 32": (nn.Conv2d(32, 32, 3, padding=1, groups=32), (64, 32, 32, 32)),
    "64 to 64, 1 x 1, on 32 x 32": (nn.Conv2d(64, 64, 1), (32, 64, 32, 32)),
}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description="Time the compiled kernels beside torch's own operations.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    if not has_kernels(torch.zeros(1)):
        raise SystemExit("There is no C compiler here: nothing to compare.")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    found = [(f"walk, {name}", "kernel", *times(*walks(*shape), options.rounds)) for name, shape in WEIGHTS.items()]
    for name, (layer, shape) in CONVOLUTIONS.items():
        used = "kernel" if suits_kernel(layer, shape[0]) else "torch"
        found.append((f"convolution, {name}", used, *times(*convolutions(layer, shape), options.rounds)))
    write(found, options.results)


def walks(rows: int, columns: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return a step back over one weight by the kernel, and by torch."""
    shape = torch.Size((rows, columns))
    step = {"weight": LinearStep(beta=0.9, kappa=0.1, sigma=1e-3 * torch.rand(shape))}
    targets = {"weight": Outer(torch.randn(ROWS, 2, rows), torch.randn(ROWS, 2, columns), shape)}
    examples = {"weight": Outer(torch.randn(ROWS, 1, rows), torch.randn(ROWS, 1, columns), shape)}
    adjoints = Adjoints({"weight": shape}, {"weight": 0}, ROWS, torch.float32, torch.device("cpu"))

    def walk() -> Tensor:
        return adjoints.step(step, targets, [Microbatch(examples, ROWS, 1.0)], {})[0]

    def by_torch() -> Tensor:
        with patch("whence.compiled.loading.library", lambda _dtype: None):
            return walk()

    return walk, by_torch


def convolutions(
    layer: nn.Conv1d | nn.Conv2d, shape: tuple[int, ...]
) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Return the gradients of a layer's weight by the kernel, and by torch."""
    layer.requires_grad_(False)
    inputs = torch.randn(shape)
    gradients = torch.randn_like(layer(inputs))
    around = padded(layer, inputs)
    torch.testing.assert_close(
        by_kernel(layer, around, gradients).values,
        written(layer, around, gradients).values,
        rtol=1e-4,
        atol=1e-5 * gradients[0, 0].numel(),
    )
    return lambda: by_kernel(layer, around, gradients).values, lambda: written(layer, around, gradients).values


def times(first: Callable[[], Any], second: Callable[[], Any], rounds: int) -> tuple[float, float, float]:
    """Return the median milliseconds of both, and of the second divided by the first, after a round that counts not."""
    found: list[list[float]] = [[], []]
    for at in range(rounds + 1):
        for place, work in enumerate((first, second)):
            start = time.perf_counter()
            work()
            if at:
                found[place].append(1e3 * (time.perf_counter() - start))
    ratio = statistics.median(torch_ / kernel for kernel, torch_ in zip(*found, strict=True))
    return statistics.median(found[0]), statistics.median(found[1]), ratio


def write(found: list[tuple[str, str, float, float, float]], results: Path) -> None:
    """Write the figures and the table."""
    results.mkdir(parents=True, exist_ok=True)
    names = ("what", "used", "kernel_ms", "torch_ms", "torch_by_kernel")
    told = {"machine": machine(), "figures": [dict(zip(names, one, strict=True)) for one in found]}
    (results / "compiled.json").write_text(json.dumps(told, indent=1) + "\n")
    lines = ["| | kernel, ms | torch, ms | torch / kernel | Whence takes |", "|---|---|---|---|---|"]
    lines += [f"| {what} | {one:.2f} | {other:.2f} | {ratio:.2f} | {used} |" for what, used, one, other, ratio in found]
    head = f"{ROWS} targets and {ROWS} examples in the walk; float32, medians.\nMachine: {machine()}\n\n"
    (results / "compiled.md").write_text(head + "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
