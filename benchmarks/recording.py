"""What recording costs: LeNet-5 on MNIST (Adam, batch 256), plain and recorded loops in turn in one process.

    python -m benchmarks.recording --data-dir MNIST

Four trainings take turns of ``--chunk`` steps, in an order that changes every round, so that all meet the same noise.
Each recorded one is compared with the plain one that draws its batches in the same way. The bar: at most 10 % more
time. Results are written to ``benchmarks/results/recording.json`` and ``recording.md``; with ``--device cuda`` to
``recording-cuda.json`` and ``recording-cuda.md``.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.utils.data import DataLoader, TensorDataset

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
    training_data,
)
from whence.runs import record

BAR = 0.10
PAIRS = {"recorder.batches": "plain batches", "recorder.watch(DataLoader)": "plain DataLoader"}


@dataclass
class Training:
    """A training that can be run a few steps at a time."""

    model: nn.Module
    optimizer: Optimizer
    batches: Iterator[tuple[Tensor, Tensor]]
    device: str
    seconds: list[float] = field(default_factory=list)
    processor_seconds: list[float] = field(default_factory=list)

    def run(self, steps: int) -> None:
        """Make some steps and take their time."""
        start, processor_start = time.perf_counter(), time.process_time()
        for inputs, labels in islice(self.batches, steps):
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(inputs.to(self.device)), labels.to(self.device)).backward()
            self.optimizer.step()
        finish(self.device)
        self.seconds.append(time.perf_counter() - start)
        self.processor_seconds.append(time.process_time() - processor_start)


def main() -> None:
    """Measure and write the results."""
    parser = arguments("What recording LeNet-5 on MNIST costs.", device=True)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--chunk", type=int, default=32, help="steps a training makes at its turn")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    dataset = TensorDataset(*training_data(options.data_dir))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        trainings = make_trainings(dataset, Path(folder), stack, options.device)
        take_turns(trainings, options.rounds, options.chunk)
        stack.close()
        disk = {name: used(Path(folder) / str(number)) for number, name in enumerate(PAIRS)}
    figures = {
        "machine": machine(),
        "setting": {"batch": BATCH, "learning rate": RATE, "rounds": options.rounds, "steps a turn": options.chunk},
        "milliseconds a step": {
            name: 1e3 * statistics.median(training.seconds) / options.chunk for name, training in trainings.items()
        },
        "cost": {n: cost(trainings[n].seconds, trainings[plain].seconds) for n, plain in PAIRS.items()},
        "cost in processor time": {
            n: cost(trainings[n].processor_seconds, trainings[plain].processor_seconds) for n, plain in PAIRS.items()
        },
        "disk": disk,
    }
    write(figures, options.results, named("recording", options.device))


def make_trainings(dataset: TensorDataset, folder: Path, stack: ExitStack, device: str) -> dict[str, Training]:
    """Return the four trainings, all from the same initial parameters."""

    def training(batches: Callable[[nn.Module, Optimizer], Iterable[tuple[Tensor, Tensor]]]) -> Training:
        model = lenet5().to(device)
        optimizer = Adam(model.parameters(), lr=RATE)
        return Training(model, optimizer, iter(batches(model, optimizer)), device)

    def recorded(number: int, watched: bool) -> Callable[[nn.Module, Optimizer], Iterator[Any]]:
        def batches(model: nn.Module, optimizer: Optimizer) -> Iterator[Any]:
            path = folder / str(number)
            recorder = stack.enter_context(record(path, model, optimizer, dataset, loss=F.cross_entropy))
            loader = recorder.watch(DataLoader(dataset, BATCH, shuffle=True)) if watched else None
            return forever(lambda _epoch: recorder.batches(BATCH) if loader is None else loader)

        return batches

    data = dataset.tensors[0], dataset.tensors[1]
    return {
        "plain batches": training(lambda _m, _o: forever(lambda epoch: plain_batches(data, epoch))),
        "recorder.batches": training(recorded(0, watched=False)),
        "plain DataLoader": training(lambda _m, _o: forever(lambda _epoch: DataLoader(dataset, BATCH, shuffle=True))),
        "recorder.watch(DataLoader)": training(recorded(1, watched=True)),
    }


def forever(epoch_of: Callable[[int], Iterable[Any]]) -> Iterator[Any]:
    """Yield the batches of epoch after epoch."""
    epoch = 0
    while True:
        yield from epoch_of(epoch)
        epoch += 1


def take_turns(trainings: dict[str, Training], rounds: int, chunk: int) -> None:
    """Run all trainings a few steps each, round after round; the first two rounds do not count."""
    names = list(trainings)
    for at in range(rounds + 2):
        for name in names[at % len(names) :] + names[: at % len(names)]:
            trainings[name].run(chunk)
    for training in trainings.values():
        del training.seconds[:2], training.processor_seconds[:2]


def cost(recorded: list[float], plain: list[float]) -> float:
    """Return the additional time as a share of the plain time: the median over rounds, each compared within itself."""
    return statistics.median(a / b for a, b in zip(recorded, plain, strict=True)) - 1.0


def used(path: Path) -> dict[str, int]:
    """Return what a run takes on the disk."""
    files = [file for file in path.rglob("*") if file.is_file()]
    snapshots = [file for file in files if file.suffix == ".safetensors"]
    return {
        "bytes of snapshots": sum(file.stat().st_size for file in snapshots),
        "snapshots": len(snapshots),
        "other bytes": sum(file.stat().st_size for file in files if file not in snapshots),
    }


def write(figures: dict[str, Any], folder: Path, name: str) -> None:
    """Print the results and write them as JSON and Markdown."""
    about = ", ".join(f"{key} {value}" for key, value in figures["machine"].items())
    times = figures["milliseconds a step"]
    rows = [f"| {name} | {milliseconds:.2f} | {shown(figures, name)} |" for name, milliseconds in times.items()]
    runs = [
        f"- {name}: {disk['snapshots']} snapshots of together {disk['bytes of snapshots'] / 1e6:.1f} MB, "
        f"steps {disk['other bytes'] / 1e6:.1f} MB"
        for name, disk in figures["disk"].items()
    ]
    setting = figures["setting"]
    text = "\n".join(
        [
            "# What recording costs",
            "",
            f"LeNet-5 on MNIST, Adam, batch {setting['batch']}, float32; {setting['rounds']} rounds in which each "
            f"training makes {setting['steps a turn']} steps. Cost: median over rounds of the time beside the plain "
            f"loop of the same round (the bar is {100 * BAR:.0f} %). Processor time leaves out waiting, for the disk "
            "and for other programs.",
            "",
            "| loop | ms a step (median) | cost of recording | the same in processor time |",
            "|---|---|---|---|",
            *rows,
            "",
            *runs,
            "",
            f"Machine: {about}.",
            "",
        ]
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n")
    (folder / f"{name}.md").write_text(text)
    print(text)


def shown(figures: dict[str, Any], name: str) -> str:
    """Return the two costs of a recorded loop as columns; nothing for a plain one."""
    if name not in PAIRS:
        return " |"
    return f"{100 * figures['cost'][name]:+.1f} % | {100 * figures['cost in processor time'][name]:+.1f} %"


if __name__ == "__main__":
    main()
