"""How well counterfactuals predict retraining: the first 5,000 images of MNIST, small networks, random removals.

    python -m benchmarks.counterfactual --data-dir MNIST                      # every network
    python -m benchmarks.counterfactual --data-dir MNIST --network gelu       # one

Same initialisation and order, no dropout (track B): a random 1 % or 5 % of the training images is removed by zero
weight, the network is trained again, and the change of a target's loss is compared with the sum of what was predicted
for each removed image. The score is the mean over targets of the rank correlation over the removals (linear
datamodeling score); its interval is a bootstrap over targets. Beside ours: the audit of the same run, and gradient
products at its end. Results are written to ``benchmarks/results/counterfactual/`` and gathered into
``counterfactual.md``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

import whence
from benchmarks._machine import machine
from benchmarks._mnist import arguments, keep_freed_memory
from whence.datasets import load_mnist
from whence.gradients import capture

TRAIN, TEST, TARGETS, SETS = 5000, 500, 12, 30
SHARES = (0.01, 0.05)
MEAN, DEVIATION = 0.1307, 0.3081
_BATCH_OF_GRADIENTS = 250
Data = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Setting:
    """A network and its training.

    Attributes:
        activation: Between the layers, None for logistic regression.
        optimizer: Makes the optimizer.
        batch: Examples a step.
        epochs: Passes over the data.
        bars: The score to reach at each share removed, None where there is none.
    """

    activation: Callable[[], nn.Module] | None
    optimizer: Callable[[Any], Optimizer]
    batch: int
    epochs: int
    bars: tuple[float, float] | None


SETTINGS: dict[str, Setting] = {
    "lr": Setting(None, lambda p: SGD(p, 0.01), 32, 20, (0.98, 0.98)),
    "gelu": Setting(nn.GELU, lambda p: SGD(p, 0.05), 64, 10, (0.94, 0.90)),
    "relu": Setting(nn.ReLU, lambda p: SGD(p, 0.05), 64, 10, None),
    "gelu, momentum": Setting(nn.GELU, lambda p: SGD(p, 0.01, momentum=0.9), 64, 10, None),
    "relu, momentum, 50 epochs": Setting(nn.ReLU, lambda p: SGD(p, 0.01, momentum=0.9), 64, 50, (0.35, 0.27)),
    "gelu, Adam": Setting(nn.GELU, lambda p: Adam(p, 3e-4), 64, 10, None),
}


def main() -> None:
    """Measure the networks asked for."""
    parser = arguments("Counterfactuals against retraining.")
    parser.add_argument("--network", choices=SETTINGS, action="append")
    parser.add_argument("--sets", type=int, default=SETS)
    parser.add_argument("--cost", action="store_true", help="measure the time alone")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    for name in options.network or SETTINGS:
        for what in [cost] if options.cost else [cost, measure]:
            print(json.dumps(what(name, options), indent=1), flush=True)
    table(options.results)


def data_of(folder: Path, part: Literal["train", "test"], count: int) -> Data:
    """Return the first images of a part of MNIST, normalised, and their labels."""
    images = load_mnist(folder, part, mean=(MEAN,), std=(DEVIATION,))
    x, y = whence.as_examples(images).batch(range(count))
    return x, y


def network(setting: Setting) -> nn.Module:
    """Return the network of a setting, newly initialised."""
    torch.manual_seed(0)
    if setting.activation is None:
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    act = setting.activation
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), act(), nn.Linear(128, 64), act(), nn.Linear(64, 10))


def train(setting: Setting, data: Data, path: Path | None) -> tuple[nn.Module, float]:
    """Train, recorded if there is a path; return the network and the seconds."""
    model = network(setting)
    optimizer = setting.optimizer(model.parameters())
    start = time.perf_counter()
    if path is None:
        for epoch in range(setting.epochs):
            order = torch.randperm(len(data[1]), generator=torch.Generator().manual_seed(epoch))
            for ids in order.split(setting.batch):
                optimizer.zero_grad()
                F.cross_entropy(model(data[0][ids]), data[1][ids]).backward()
                optimizer.step()
        return model, time.perf_counter() - start
    with whence.record(path, model, optimizer, data, loss=F.cross_entropy) as recorder:
        for _ in range(setting.epochs):
            for x, y in recorder.batches(batch_size=setting.batch, shuffle=True, seed=0):
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
    return model, time.perf_counter() - start


def grad_dot(model: nn.Module, data: Data, targets: Data) -> NDArray[Any]:
    """Return the products of the loss gradients at the end of training, (targets, train)."""
    names = [name for name, _ in model.named_parameters()]

    def gradients(part: Data) -> Tensor:
        with capture(model, names) as captured:
            F.cross_entropy(model(part[0]), part[1], reduction="sum").backward()
        found = captured.gradients()
        return torch.cat([found[name].part(0, found[name].shape[0]) for name in names], 1)

    ours = gradients(targets)
    parts = zip(data[0].split(_BATCH_OF_GRADIENTS), data[1].split(_BATCH_OF_GRADIENTS), strict=True)
    return torch.cat([ours @ gradients(part).T for part in parts], 1).numpy()


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one network and write its result."""
    setting = SETTINGS[name]
    data, tests = data_of(options.data_dir, "train", TRAIN), data_of(options.data_dir, "test", TEST)
    targets = (tests[0][:TARGETS], tests[1][:TARGETS])
    with tempfile.TemporaryDirectory() as folder:
        model, recorded = train(setting, data, Path(folder) / "run")
        accuracy = float((model(tests[0]).argmax(1) == tests[1]).double().mean())
        run = whence.open_run(Path(folder) / "run", network(setting), data, loss=F.cross_entropy)
        effects = whence.counterfactual(run, targets, smoothness=0)
        trust = whence.counterfactual(run, targets, ids=[0]).attrs
        audited = -whence.audit(run, targets).influence.values
        scored = {"derivative": effects.values, "audit": audited, "grad-dot": grad_dot(model, data, targets)}
        scores: dict[str, Any] = {}
        for share in SHARES:
            check = whence.check(effects, int(share * TRAIN), seeds=options.sets, processes=options.processes)
            retrained = check.data["retrained"].values
            slope, interval = check.slope, check.interval()
            scores[f"{share:g}"] = {
                "slope": slope,
                "slope_interval": interval,
                **{kind: score(values, retrained, check.removals) for kind, values in scored.items()},
            }
    result = {
        "network": name,
        "bars": setting.bars,
        "accuracy": accuracy,
        "targets": TARGETS,
        "sets": options.sets,
        "recorded_seconds": recorded,
        "smoothness": list(trust["smoothness"]),
        "verdict": trust["verdict"],
        "scores": scores,
        "machine": machine(),
    }
    keep(options.results / "counterfactual", name, result)
    return result


def cost(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure how long counterfactuals of a network take beside its plain training, and write it."""
    setting = SETTINGS[name]
    data, tests = data_of(options.data_dir, "train", TRAIN), data_of(options.data_dir, "test", TEST)
    plain, seconds = [], {}
    with tempfile.TemporaryDirectory() as folder:
        train(setting, data, Path(folder) / "run")
        run = whence.open_run(Path(folder) / "run", network(setting), data, loss=F.cross_entropy)
        for count in (1, TARGETS, 100):
            plain.append(train(setting, data, None)[1])
            start = time.perf_counter()
            whence.counterfactual(run, (tests[0][:count], tests[1][:count]), smoothness=0)
            seconds[str(count)] = time.perf_counter() - start
    plain.append(train(setting, data, None)[1])
    result = {"plain_seconds": float(np.median(plain)), "seconds": seconds, "machine": machine()}
    keep(options.results / "counterfactual" / "cost", name, result)
    return result


def keep(folder: Path, name: str, result: dict[str, Any]) -> None:
    """Write a result."""
    folder.mkdir(parents=True, exist_ok=True)
    file_of(folder, name).write_text(json.dumps(result, indent=1) + "\n")


def file_of(folder: Path, name: str) -> Path:
    """Return where the result of a network stands."""
    return folder / f"{name.replace(', ', '-').replace(' ', '-')}.json"


def score(values: NDArray[Any], retrained: NDArray[Any], removals: tuple[tuple[int, ...], ...]) -> dict[str, float]:
    """Return the mean over targets of the rank correlation over sets, and a 95 % bootstrap interval over targets."""
    predicted = np.stack([values[:, list(one)].sum(1) for one in removals])
    ranks = [np.argsort(np.argsort(one, axis=0), axis=0).astype(float) for one in (predicted, retrained)]
    each = np.array([np.corrcoef(ranks[0][:, n], ranks[1][:, n])[0, 1] for n in range(values.shape[0])])
    draws = each[np.random.default_rng(0).integers(len(each), size=(2000, len(each)))].mean(1)
    low, high = np.percentile(draws, (2.5, 97.5))
    return {"score": float(each.mean()), "low": float(low), "high": float(high)}


def table(results: Path) -> None:
    """Gather the results that are there into one table."""
    lines = [
        "| network | accuracy | removed | derivative | audit | grad-dot | slope | error at weights -2 % / -10 % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    costs = ["| network | plain training, s | 1 target | 12 targets | 100 targets |", "|---|---|---|---|---|"]
    machines = set()
    for name in SETTINGS:
        file = file_of(results / "counterfactual", name)
        if not file.exists():
            continue
        one = json.loads(file.read_text())
        for share, found in one["scores"].items():
            told = [
                f"{found[kind]['score']:.3f} ({found[kind]['low']:.3f} to {found[kind]['high']:.3f})"
                for kind in ("derivative", "audit", "grad-dot")
            ]
            smooth = " / ".join(f"{error:.1%}" for error in one["smoothness"])
            lines.append(
                f"| {name} | {one['accuracy']:.3f} | {float(share):.0%} | {' | '.join(told)} | {found['slope']:.3f} "
                f"| {smooth} |"
            )
        machines.add(json.dumps(one["machine"], sort_keys=True))
    for name in SETTINGS:
        file = file_of(results / "counterfactual" / "cost", name)
        if file.exists():
            one = json.loads(file.read_text())
            times = [f"{one['seconds'][count] / one['plain_seconds']:.1f} x" for count in ("1", "12", "100")]
            costs.append(f"| {name} | {one['plain_seconds']:.2f} | {' | '.join(times)} |")
    head = (
        f"MNIST, first {TRAIN:,} training images, {TARGETS} test images as targets, {SETS} random removals of each "
        "size; same initialisation and order. Scores: mean over targets of the rank correlation of predicted and "
        "retrained loss over removals (95 % interval over targets).\n"
    )
    text = head + "".join(f"Machine: {one}\n" for one in sorted(machines)) + "\n" + "\n".join(lines)
    text += "\n\nTime of a counterfactual as a multiple of the plain training it explains (same process):\n\n"
    (results / "counterfactual.md").write_text(text + "\n".join(costs) + "\n")


if __name__ == "__main__":
    main()
