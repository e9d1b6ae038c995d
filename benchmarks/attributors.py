"""Every attributor against real trainings and injected label noise: score, AUROC, seconds.

    python -m benchmarks.attributors --data-dir MNIST                                # everything
    python -m benchmarks.attributors --data-dir MNIST --method GradDot --method TracIn

A small convolutional network on the first 5,000 training images of MNIST. Linear datamodeling score in both protocols,
for the first 200 test images: 100 random halves, a new seed each (track A), and 30 trainings without a random 1 %, same
initialisation and order (track B). Label noise: 10 % of the labels are another, and the network is trained on those;
what an example's score on itself says of it, where a method has one, and its summed harm to the test images. Seconds
are the processor's, of fitting and scoring once on ``--threads`` threads. Trainings are kept in the folder of
``--cache`` and are not made again; with ``--method`` the other methods' figures stay as they are. Results:
``benchmarks/results/attributors.json`` and ``.md``, written after each method.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import SGD

import whence
from benchmarks._machine import machine
from benchmarks._mnist import arguments
from benchmarks._networks import Data, images
from whence import attribution, evaluation
from whence._errors import WhenceError
from whence.attribution import Attributor, SelfScoring, as_trained
from whence.runs import Run

TRAIN, TARGETS, HALVES, REMOVALS = 5000, 200, 100, 30
EPOCHS, BATCH, RATE = 10, 64, 0.1
NOISE, CLASSES = 0.1, 10
# by the class's name: those that this version has; a few have settings that suit the network
SETTINGS: dict[str, tuple[dict[str, Any], ...]] = {
    "GradDot": ({}, {"layers": "last"}, {"quantity": "margin"}),
    "GradCos": ({}, {"layers": "last"}),
    "TracIn": ({"checkpoints": 10},),
    "PathSimilarity": ({"checkpoints": 10},),
    "PathAudit": ({},),
    "Influence": ({"damping": 0.01, "layers": "last"},),
    "EKFAC": ({},),
    "TRAK": ({},),
    "RepresentationCos": ({},),
    "RepresentationDot": ({},),
    "NearestNeighbours": ({},),
    "SameClass": ({},),
    "Random": ({},),
    "Counterfactual": ({},),
}


def main() -> None:
    """Measure and write."""
    parser = arguments("Attributors against real trainings and label noise.")
    parser.add_argument("--method", choices=SETTINGS, action="append", help="only these")
    parser.add_argument("--processes", type=int, default=2, help="trainings at once")
    parser.add_argument("--cache", type=Path, help="folder to keep runs and trainings in")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        measure(options, options.cache or Path(folder))


def network(seed: int) -> nn.Module:
    """Return the small convolutional network, smooth, newly initialised."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2, padding=2), nn.GELU(), nn.AvgPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(784, 10),
    )  # fmt: skip


def trained_on(data: Data, ids: list[int], seed: int) -> nn.Module:
    """Train on some examples; initialisation and order follow the seed."""
    model = network(seed)
    optimizer, kept = SGD(model.parameters(), RATE), torch.tensor(ids)
    for epoch in range(EPOCHS):
        generator = torch.Generator().manual_seed(EPOCHS * seed + epoch)
        for rows in kept[torch.randperm(len(kept), generator=generator)].split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(data[0][rows]), data[1][rows]).backward()
            optimizer.step()
    return model


def recorded(path: Path, data: Data) -> Run:
    """Return the recorded training of the full data, made where it is not there yet."""
    if not path.exists():
        model = network(0)
        optimizer = SGD(model.parameters(), RATE)
        with whence.record(path, model, optimizer, data, loss=F.cross_entropy) as recorder:
            for _ in range(EPOCHS):
                for x, y in recorder.batches(batch_size=BATCH, shuffle=True, seed=0):
                    optimizer.zero_grad()
                    F.cross_entropy(model(x), y).backward()
                    optimizer.step()
    return whence.open_run(path, network(0), data, loss=F.cross_entropy)


def methods(only: list[str] | None) -> dict[str, Attributor]:
    """Return the attributors that this version has, by name and settings."""
    found = {}
    for name, several in SETTINGS.items():
        kind: Callable[..., Attributor] | None = getattr(attribution, name, None)
        if kind is not None and name in (only or SETTINGS):
            for settings in several:
                told = ", ".join(f"{key}={value}" for key, value in settings.items())
                found[f"{name}({told})"] = kind(**settings)
    return found


def measure(options: argparse.Namespace, folder: Path) -> None:
    """Measure how every method does, and write."""
    data, tests = images(options.data_dir, "train", TRAIN), images(options.data_dir, "test", TARGETS)
    run = recorded(folder / "run", data)
    shared = {"processes": options.processes}
    halves = evaluation.subset_losses(
        lambda ids, seed: trained_on(data, ids, seed),
        evaluation.random_parts(TRAIN, sets=HALVES),
        tests,
        loss=F.cross_entropy,
        path=folder / "halves",
        **shared,
    )
    removals = evaluation.removal_losses(run, tests, sets=REMOVALS, path=folder / "removals", **shared)
    noisy = evaluation.add_label_noise(data[1], NOISE, classes=CLASSES)
    misled = recorded(folder / "noisy", (data[0], noisy.labels))
    kept = options.results / "attributors.json"
    found: dict[str, Any] = json.loads(kept.read_text())["methods"] if kept.exists() and options.method else {}
    told = {"train": TRAIN, "targets": TARGETS, "sets": [HALVES, REMOVALS], "machine": machine()}
    for name, method in methods(options.method).items():
        found[name] = one_method(name, method, run, tests, (halves, removals), (misled, noisy.changed))
        print(name, json.dumps(found[name]), flush=True)
        write(told | {"methods": found}, options.results)


def one_method(
    name: str,
    method: Attributor,
    run: Run,
    tests: Data,
    truths: tuple[evaluation.Truth, evaluation.Truth],
    noise: tuple[Run, Any],
) -> dict[str, Any]:
    """Return scores and seconds of a method, or why it refused."""
    start = time.process_time()
    try:
        scores = attribution.attribute(method, run, tests)
    except WhenceError as error:
        return {"refused": str(error)}
    found: dict[str, Any] = {"seconds": time.process_time() - start}
    for track, truth in zip("AB", truths, strict=True):
        found[track] = evaluation.linear_datamodeling_score(truth, {name: scores}).value(name, "score")
    misled = attribution.attribute(method, noise[0], tests)
    suspects = {"by harm": -misled.attrs["helps"] * misled.sum("target"), "on itself": on_itself(method, noise[0])}
    table = evaluation.label_noise({key: one for key, one in suspects.items() if one is not None}, noise[1])
    for key in table.data["score"].values:
        found |= {f"{measure} {key}": table.value(key, measure) for measure in table.data["measure"].values}
    return found


def on_itself(method: Attributor, run: Run) -> Any:
    """Return each training example's score on its own loss; None of a method that would have to score all pairs."""
    fitted: Any = method.fit(as_trained(run))
    return fitted.self_scores() if isinstance(fitted, SelfScoring) else None


def write(found: dict[str, Any], results: Path) -> None:
    """Write the figures, and a page that says them."""
    results.mkdir(parents=True, exist_ok=True)
    (results / "attributors.json").write_text(json.dumps(found, indent=1) + "\n")
    noise = ("AUROC on itself", "miss rate on itself", "AUROC by harm", "miss rate by harm")
    columns = ("A", "B", *noise)
    lines = [
        f"Small convolutional network, first {found['train']} training images of MNIST, {found['targets']} targets. "
        f"Linear datamodeling score over {found['sets'][0]} random halves (A) and {found['sets'][1]} trainings without "
        f"a random 1 % (B), 95 % interval over targets; {NOISE:.0%} wrong labels found by an example's score on "
        "itself, or by its summed harm to the targets, interval over examples; processor seconds of fit and scores.",
        f"Machine: {json.dumps(found['machine'], sort_keys=True)}",
        "",
        f"| method | {' | '.join(columns)} | seconds |",
        "|" + "---|" * (len(columns) + 2),
    ]
    ranked = sorted(found["methods"].items(), key=lambda one: -one[1].get("A", [-2])[0])
    for name, one in ranked:
        if "refused" in one:
            lines.append(f"| {name} | {one['refused']} |" + " |" * len(columns))
            continue
        cells = [f"{one[key][0]:.3f} ({one[key][1]:.3f} to {one[key][2]:.3f})" if key in one else "" for key in columns]
        lines.append(f"| {name} | {' | '.join(cells)} | {one['seconds']:.1f} |")
    (results / "attributors.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
