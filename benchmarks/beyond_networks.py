"""The derivative and the held-out outputs of ``beyond.py`` on other trainings of the same network.

    python -m benchmarks.beyond_networks --data-dir MNIST

Track B, 12 targets, 40 random removals of 1 % and of 5 % each, 20 parts. Results: ``benchmarks/results/
beyond-networks.json`` and ``.md``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks._beyond_methods import agreement, interval, slope, summed
from benchmarks._machine import machine
from benchmarks._mnist import arguments, keep_freed_memory
from benchmarks._networks import SETTINGS, TARGETS, TRAIN, Data, images, network
from benchmarks._weighted import Form, Task, gelu, losses, relu, sources, train, walk
from benchmarks.beyond import held_out, removals, without

SETS, PARTS, EPOCHS = 40, 20, 10
NETWORKS = {
    "GELU, 0.05": (0.05, 0.0, gelu),
    "ReLU, 0.05": (0.05, 0.0, relu),
    "ReLU, 0.01, momentum 0.9": (0.01, 0.9, relu),
}


def main() -> None:
    """Measure every network."""
    options = arguments("Held-out outputs on other networks.").parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    data, tests = images(options.data_dir, "train", TRAIN), images(options.data_dir, "test", TARGETS)
    targets = (tests[0].reshape(TARGETS, -1), tests[1])
    found: dict[str, Any] = {}
    for name in NETWORKS:
        found[name] = measure(task_of(name, data), targets)
        write(options.results, found)


def task_of(name: str, data: Data) -> Task:
    """Return the training of a network; the first parameters do not depend on the activation."""
    rate, momentum, bend = NETWORKS[name]
    first = [one.detach() for one in network(SETTINGS["gelu"]).parameters()]
    orders = [torch.randperm(TRAIN, generator=torch.Generator().manual_seed(epoch)) for epoch in range(EPOCHS)]
    batches = [ids for order in orders for ids in order.split(64)]
    return Task(data[0].reshape(TRAIN, -1), data[1], batches, first, rate, momentum, bend)


def measure(task: Task, targets: Data) -> dict[str, Any]:
    """Return both scores at each share removed."""
    ones = torch.ones(1, TRAIN)
    trained = train(task, ones, keep=True)
    base = losses(task, trained.end, targets)
    part = torch.from_numpy(np.random.default_rng(0).permutation(TRAIN) % PARTS)
    kept = [torch.zeros(len(ids), 10) for ids in task.batches]
    for some in (part[None] != torch.arange(PARTS)[:, None]).double().split(5):
        for one, more in zip(kept, train(task, some, hold_out=True).held_out, strict=True):
            one.add_(more)
    form = Form([lambda _step, _z, e: e, held_out(kept, linear=True)])
    both = [
        one.double().div(base[0][:, None]).numpy()
        for one in walk(task, trained, sources(task, trained.end, targets), ones[0], form)
    ]
    result = {}
    for size in (50, 250):
        sets = removals(size, SETS, 10)
        ends: list[Tensor] = [losses(task, train(task, some).end, targets).log() for some in without(sets).split(5)]
        truth = (torch.cat(ends) - base.log()).numpy()
        told = [summed(one, sets) for one in both]
        result[str(size / TRAIN)] = {
            "derivative": agreement(told[0], truth),
            "held_out": agreement(told[1], truth),
            "gain": interval(told[1], truth, told[0]),
            "slopes": [slope(one, truth) for one in told],
        }
    return result


def write(results: Path, found: dict[str, Any]) -> None:
    """Write the results and their table."""
    (results / "beyond-networks.json").write_text(json.dumps({**found, "machine": machine()}, indent=1) + "\n")
    lines = [
        f"Same network, data, targets and sizes as in beyond.md; {SETS} removals of each size, {PARTS} parts.\n",
        "| training, 10 epochs | removed | derivative | held-out outputs | above the derivative | slopes |",
        "|---|---|---|---|---|---|",
    ]
    for name, shares in found.items():
        for share, one in shares.items():
            lines.append(
                f"| {name} | {float(share):.0%} | {one['derivative']:.3f} | **{one['held_out']:.3f}** "
                f"| {one['gain'][0]:+.3f} to {one['gain'][1]:+.3f} | {one['slopes'][0]:.2f} / {one['slopes'][1]:.2f} |"
            )
    (results / "beyond-networks.md").write_text("\n".join(lines) + "\n")
    print(lines[-2], lines[-1], sep="\n", flush=True)


if __name__ == "__main__":
    main()
