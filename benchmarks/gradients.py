"""Per-example gradients against a plain backward pass and against vmap(grad), in one process.

    python -m benchmarks.gradients [--batch 256] [--threads 2] [--rounds 21] [--json gradients.json]

LeNet-5 on MNIST-sized noise, float32. "all parts" writes every example's whole gradient into one
preallocated (batch, parameters) matrix. For steady figures keep freed memory: MALLOC_MMAP_MAX_=0
MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456.
"""

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from benchmarks._machine import machine, round_robin
from whence.gradients import PerExample, capture


def lenet() -> nn.Module:
    """Return LeNet-5 with 61,706 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


class Variants:
    """The ways to get gradients, on the same model and batch."""

    def __init__(self, batch: int) -> None:
        torch.manual_seed(0)
        self.model = lenet()
        self.x, self.y = torch.randn(batch, 1, 28, 28), torch.randint(0, 10, (batch,))
        self.names = [name for name, _ in self.model.named_parameters()]
        self.matrix = torch.empty(batch, sum(p.numel() for p in self.model.parameters()))

    def plain(self) -> None:
        """One batch gradient, as in training."""
        self.model.zero_grad(set_to_none=True)
        self.backward()

    def backward(self) -> None:
        """Mean loss of the batch, and its backward pass."""
        F.cross_entropy(self.model(self.x), self.y).backward()

    def captured(self) -> dict[str, PerExample]:
        """Per-example gradients, as the audit takes them: outer products still factors."""
        self.model.zero_grad(set_to_none=True)
        with capture(self.model, self.names) as seen:
            self.backward()
        return seen.gradients()

    def parts(self) -> Tensor:
        """The same, written out into one matrix."""
        at = 0
        for gradient in self.captured().values():
            width = gradient.shape.numel()
            gradient.part(0, gradient.shape[0], out=self.matrix[:, at : at + width])
            at += width
        return self.matrix

    def vmapped(self) -> dict[str, Tensor]:
        """torch.func's per-example gradients, one tensor a parameter."""
        parameters = {name: p.detach() for name, p in self.model.named_parameters()}

        def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(functional_call(self.model, parameters, (x[None],)), y[None])

        found: dict[str, Tensor] = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, self.x, self.y)
        return found

    def flattened(self) -> Tensor:
        """The same, flattened into one matrix."""
        found = self.vmapped()
        return torch.cat([found[name].flatten(1) for name in self.names], 1)


def main() -> None:
    """Measure, print the table, and write it as JSON on request."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    variants = Variants(options.batch)
    seconds = round_robin(
        {
            "plain forward and backward": variants.plain,
            "capture": variants.captured,
            "capture, all parts": variants.parts,
            "vmap(grad)": variants.vmapped,
            "vmap(grad), flattened": variants.flattened,
        },
        options.rounds,
    )
    base = seconds["plain forward and backward"]
    print("  ".join(f"{key}: {value}" for key, value in machine().items()))
    for name, each in seconds.items():
        print(f"{name:28s} {1e3 * each:8.2f} ms  {each / base:5.2f} x plain")
    order = {name: i for i, name in enumerate(variants.captured())}
    exact = torch.cat([variants.vmapped()[name].flatten(1) for name in order], 1) / options.batch
    error = float((variants.parts() - exact).norm() / exact.norm())
    print(f"relative difference of the two results: {error:.1e}")
    if options.json:
        figures = {"machine": machine(), "batch": options.batch, "seconds": seconds, "difference": error}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
