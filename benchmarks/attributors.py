"""Every attributor against real trainings and injected label noise: score, AUROC, seconds.

    python -m benchmarks.attributors --data-dir MNIST                                # everything
    python -m benchmarks.attributors --data-dir MNIST --method GradDot --method TracIn

A small convolutional network on the first 5,000 training images of MNIST. Linear datamodeling score in both protocols,
for the first 200 test images: 100 random halves, a new seed each (track A), and 30 trainings without a random 1 %, same
initialisation and order (track B). Label noise: 10 % of the labels are another, and the network is trained on those;
what an example's score on itself says of it, where a method has one, and its summed harm to the test images. A mean
over several runs takes two more, of the same data and other seeds. Seconds are the processor's, of fitting and scoring
once on ``--threads`` threads. Trainings are kept in the folder of ``--cache`` and are not made again; with ``--method``
the other methods' figures stay as they are. Results: ``benchmarks/results/attributors.json`` and ``.md``, written after
each method, and ``.png``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from plotly.subplots import make_subplots
from torch import nn
from torch.optim import SGD

import whence
from benchmarks._machine import machine
from benchmarks._mnist import arguments, keep_freed_memory
from benchmarks._networks import Data, images
from benchmarks._pictures import save_figure
from whence import attribution, evaluation
from whence._errors import WhenceError
from whence.attribution import (
    EKFAC,
    TRAK,
    Attributor,
    ClassBalanced,
    Counterfactual,
    Ensemble,
    GradCos,
    GradDot,
    Influence,
    NearestNeighbours,
    PathAudit,
    PathSimilarity,
    Random,
    Relative,
    RepresentationCos,
    RepresentationDot,
    SameClass,
    SelfScoring,
    TracIn,
    as_trained,
)
from whence.runs import Run

TRAIN, TARGETS, HALVES, REMOVALS = 5000, 200, 100, 30
EPOCHS, BATCH, RATE = 10, 64, 0.1
NOISE, CLASSES = 0.1, 10
WAYS = ("on itself", "by harm")
OTHERS = 2  # runs with other seeds, for the mean over several


def methods(others: Sequence[Run]) -> list[Attributor]:
    """Return the attributors, given other runs on the same data; a few have settings that suit the network."""
    cheap: list[Attributor] = [GradDot(), GradCos(), TracIn(checkpoints=10), EKFAC(), TRAK()]
    return [
        *cheap,
        GradDot(layers="last"),
        GradDot(quantity="margin"),
        GradCos(layers="last"),
        TracIn(checkpoints=10, layers="last"),
        TracIn(checkpoints=10, layers=["0", "3"]),
        PathSimilarity(checkpoints=10),
        PathAudit(),
        Influence(damping=0.01, layers="last"),
        RepresentationCos(),
        RepresentationDot(),
        NearestNeighbours(),
        NearestNeighbours(layer="4"),
        SameClass(),
        Random(),
        *(Relative(one) for one in cheap if not isinstance(one, TRAK)),
        *(ClassBalanced(one) for one in cheap),
        *(Ensemble(one, others) for one in cheap),
        Counterfactual(),
    ]


def row_name(method: Any) -> str:
    """Return a method's class and what of its settings is not the default; of several runs, how many."""
    said = []
    for one in fields(method):
        value = getattr(method, one.name)
        if one.name == "inner":
            said.append(row_name(value))
        elif one.name == "others":
            said.extend([f"{len(value)} other runs"] if value else [])
        elif value != one.default:
            said.append(f"{one.name}={'+'.join(value) if isinstance(value, list) else value}")
    return f"{type(method).__name__}({', '.join(said)})"


def main() -> None:
    """Measure and write."""
    parser = arguments("Attributors against real trainings and label noise.")
    parser.add_argument("--method", action="append", help="only the rows whose name begins so")
    parser.add_argument("--processes", type=int, default=2, help="trainings at once")
    parser.add_argument("--cache", type=Path, help="folder to keep runs and trainings in")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
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


def recorded(path: Path, data: Data, seed: int = 0) -> Run:
    """Return the recorded training of the full data, made where it is not there yet."""
    if not path.exists():
        model = network(seed)
        optimizer = SGD(model.parameters(), RATE)
        with whence.record(path, model, optimizer, data, loss=F.cross_entropy) as recorder:
            for _ in range(EPOCHS):
                for x, y in recorder.batches(batch_size=BATCH, shuffle=True, seed=seed):
                    optimizer.zero_grad()
                    F.cross_entropy(model(x), y).backward()
                    optimizer.step()
    return whence.open_run(path, network(seed), data, loss=F.cross_entropy)


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
    wrong = (data[0], noisy.labels)
    misled = recorded(folder / "noisy", wrong)
    others = [recorded(folder / f"run-{seed}", data, seed) for seed in range(1, OTHERS + 1)]
    misled_others = [recorded(folder / f"noisy-{seed}", wrong, seed) for seed in range(1, OTHERS + 1)]
    kept = options.results / "attributors.json"
    found: dict[str, Any] = json.loads(kept.read_text())["methods"] if kept.exists() and options.method else {}
    found = {name: one for name, one in found.items() if name in map(row_name, methods(others))}
    told = {"train": TRAIN, "targets": TARGETS, "sets": [HALVES, REMOVALS], "machine": machine()}
    for method, other in zip(methods(others), methods(misled_others), strict=True):
        name = row_name(method)
        if name.startswith(tuple(options.method or [""])):
            found[name] = one_method(name, (method, run), (other, misled), tests, (halves, removals), noisy.changed)
            print(name, json.dumps(found[name]), flush=True)
            write(told | {"methods": found}, options.results)
    save_figure(picture(found), options.results / "attributors.png", width=1200, height=120 + 24 * len(found))


def one_method(
    name: str,
    clean: tuple[Attributor, Run],
    misled: tuple[Attributor, Run],
    tests: Data,
    truths: tuple[evaluation.Truth, evaluation.Truth],
    changed: Any,
) -> dict[str, Any]:
    """Return scores and seconds of a method, or why it refused."""
    start = time.process_time()
    try:
        scores = attribution.attribute(*clean, tests)
    except WhenceError as error:
        return {"refused": str(error)}
    found: dict[str, Any] = {"seconds": time.process_time() - start}
    for track, truth in zip("AB", truths, strict=True):
        found[track] = evaluation.linear_datamodeling_score(truth, {name: scores}).value(name, "score")
    harm = attribution.attribute(*misled, tests)
    suspects = {"by harm": -harm.attrs["helps"] * harm.sum("target"), "on itself": on_itself(*misled)}
    table = evaluation.label_noise({key: one for key, one in suspects.items() if one is not None}, changed)
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
    columns = ("A", "B", *(f"{one} {way}" for way in WAYS for one in ("AUROC", "average precision", "miss rate")))
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


def picture(found: dict[str, Any]) -> Any:
    """Return a plot of scores and AUROC, a row a method, the best datamodeling score of random halves on top."""
    kept = {name: one for name, one in found.items() if "refused" not in one}
    ranked = sorted(kept, key=lambda name: kept[name]["A"][0])
    panels = {"A": "score, random halves", "B": "score, without 1 %"} | {f"AUROC {way}": f"AUROC {way}" for way in WAYS}
    figure = make_subplots(cols=len(panels), shared_yaxes=True, subplot_titles=list(panels.values()))
    for place, key in enumerate(panels, 1):
        names = [name for name in ranked if key in kept[name]]
        value, low, high = zip(*(kept[name][key] for name in names), strict=True)
        error = {"array": [b - a for a, b in zip(value, high, strict=True)], "symmetric": False}
        error["arrayminus"] = [a - b for a, b in zip(value, low, strict=True)]
        dots = go.Scatter(x=value, y=names, error_x=error, mode="markers", marker={"color": "#1764a3"})
        figure.add_trace(dots, row=1, col=place)
        figure.add_vline(0.5 if "AUROC" in key else 0, line={"dash": "dot", "color": "#565d66"}, row=1, col=place)
    figure.update_yaxes(categoryorder="array", categoryarray=ranked, automargin=True)
    return figure.update_layout(showlegend=False, template="plotly_white", margin={"l": 20, "r": 20, "t": 60})


if __name__ == "__main__":
    main()
