"""The path kernel of the paper's MNIST setting: its time beside the audit's, difficulty scores, sketches and maps.

    python -m benchmarks.kernel --data-dir MNIST                       # trains the run first
    python -m benchmarks.kernel --data-dir MNIST --run RUN --no-audit  # a run that is there, without the audit's time
    python -m benchmarks.kernel --data-dir MNIST --epochs 1 --only ratio

The kernel of the training images with the targets is kept in ``--keep``, and goes on where it was stopped. Results are
written to ``benchmarks/results/kernel.json``, ``kernel.md`` and pictures beside them; with ``--device cuda`` to
``kernel-cuda.json`` and ``kernel-cuda.md``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import xarray as xr

import whence
from benchmarks._machine import machine
from benchmarks._mnist import BATCH, arguments, keep_freed_memory, lenet5, target_data, training_data
from benchmarks._pictures import save_figure
from benchmarks.audit import train_recorded
from whence.evaluation import difficulty
from whence.kernel import (
    Times,
    answers,
    class_margin,
    extremes,
    hidden_top_k,
    layout,
    load_kernel,
    logit_margin,
    max_softmax,
    path_features,
    similarity_norm,
)
from whence.report import class_map, error_map, extremes_sheet, similarity_map

Data = tuple[torch.Tensor, torch.Tensor]
WIDTHS = (256, 1024, 4096, 16384)
PARTS = ("ratio", "difficulty", "sketches", "maps")
PAPER = {
    "IPS norm": (0.9009, 0.5008, 0.2667),
    "IPS class margin": (1.0, 1.0, 0.8046),
    "hidden top-k": (0.8633, 0.3929, 0.6253),
    "max softmax": (0.9054, 0.4964, 0.9823),
    "logit margin": (0.9016, 0.4786, 0.9729),
}


def main() -> None:
    """Measure, and write what was found."""
    parser = arguments("The path kernel of LeNet-5 on MNIST.", device=True)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--targets", type=int, default=BATCH)
    parser.add_argument("--times", type=int, help="states of the run; the ends of its epochs if left out")
    parser.add_argument("--mapped", type=int, default=1000, help="test images on the maps")
    parser.add_argument("--run", type=Path, help="folder of a recorded run of this setting")
    parser.add_argument("--keep", type=Path, help="where to keep the kernel")
    parser.add_argument("--no-audit", action="store_true", help="leave the audit's time out")
    parser.add_argument("--only", choices=PARTS, action="append")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options, Path(folder))
    name = "kernel" if options.device == "cpu" else f"kernel-{options.device}"
    file = options.results / f"{name}.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**known, **found}, indent=1) + "\n")
    (options.results / f"{name}.md").write_text(page({**known, **found}))


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return everything that was asked for."""
    data, targets = training_data(options.data_dir), target_data(options.data_dir, options.targets)
    if options.run is None:
        run = train_recorded(folder / "run", data, 0.0, options.epochs, options.device)
    else:
        run = whence.open_run(options.run, lenet5().to(options.device), data, loss=F.cross_entropy)
    parts, times = options.only or PARTS, options.times or "epoch"
    found: dict[str, Any] = {"machine": machine()}
    if "ratio" in parts or "difficulty" in parts:
        kernel, seconds = kernel_of(run, targets, options.keep or folder / "kernel.zarr", times)
        found["kernel"] = {
            "epochs": run.epochs,
            "steps": run.steps,
            "states": options.times or run.epochs,
            "targets": len(targets[1]),
            "seconds": seconds,
        }
    if "ratio" in parts and seconds is not None and not options.no_audit:
        start = time.perf_counter()
        whence.audit(run, targets)
        audit = time.perf_counter() - start
        found["ratio"] = {**found["kernel"], "audit_seconds": audit, "ratio": seconds / audit}
    if "difficulty" in parts:
        found["difficulty"] = scores(run, targets, kernel)
    if "sketches" in parts:
        found["sketches"] = sketches(run, targets, times)
    if "maps" in parts:
        found["maps"] = maps(run, target_data(options.data_dir, options.mapped), options.results, times)
    return found


def kernel_of(run: whence.Run, targets: Data, path: Path, times: Times) -> tuple[xr.Dataset, float | None]:
    """Return the kernel with the training data, and its seconds if it was made now."""
    if path.exists():
        return load_kernel(path).load(), None
    start = time.perf_counter()
    made = whence.path_kernel(run, targets, run.examples, times=times, path=path).load()
    return made, time.perf_counter() - start


def scores(run: whence.Run, targets: Data, kernel: xr.Dataset) -> dict[str, Any]:
    """Return the paper's table 1."""
    alike, found = whence.similarity(kernel), answers(run, targets)
    table = difficulty(
        {
            "IPS norm": similarity_norm(alike),
            "IPS class margin": class_margin(alike, run.examples.labels, found["predicted"]),
            "hidden top-k": hidden_top_k(run, targets),
            "max softmax": max_softmax(found),
            "logit margin": logit_margin(found),
        },
        found["predicted"].values != targets[1].numpy(),
        found["loss"],
    )
    return {**table.plain(), "printed": str(table)}


def sketches(run: whence.Run, targets: Data, times: Times) -> list[dict[str, float]]:
    """Return the error of sketches by width, and the seconds of one of the targets."""
    rows = []
    for width in WIDTHS:
        start = time.perf_counter()
        made = path_features(run, targets, width, times=times)
        rows.append(
            {
                "width": width,
                "error": made.attrs["error"],
                "cosine_error": made.attrs["cosine_error"],
                "seconds": time.perf_counter() - start,
            }
        )
    return rows


def maps(run: whence.Run, targets: Data, results: Path, times: Times) -> dict[str, Any]:
    """Draw the paper's figures 5 to 7 of test images among themselves."""
    start = time.perf_counter()
    alike = whence.similarity(whence.path_kernel(run, targets, times=times))
    seconds = time.perf_counter() - start
    places, labels = layout(alike, method="umap"), targets[1].numpy()
    wrong = answers(run, targets)["predicted"].values != labels
    shown = int((~wrong & (labels == 7)).argmax())
    side = {"width": 720, "height": 640}
    save_figure(class_map(places, labels, wrong=wrong), results / "kernel-classes.png", **side)
    save_figure(error_map(places, wrong), results / "kernel-errors.png", **side)
    save_figure(similarity_map(places, alike, shown), results / "kernel-similarity.png", **side)
    own = similarity_map(places, alike, shown, among=labels == labels[shown])
    save_figure(own, results / "kernel-similarity-class.png", **side)
    extremes_sheet(extremes(places, labels, 7), targets).save(results / "kernel-extremes.png")
    same = labels[:, None] == labels
    return {
        "examples": len(labels),
        "seconds": seconds,
        "misclassified": int(wrong.sum()),
        "mean_within_class": float(alike.values[same & ~torch.eye(len(labels), dtype=torch.bool).numpy()].mean()),
        "mean_between_classes": float(alike.values[~same].mean()),
    }


def page(found: dict[str, Any]) -> str:
    """Return the results in Markdown."""
    lines = ["LeNet-5, MNIST, 200 batches of 256, Adam 1.5e-5.", ""]
    lines += [f"Machine: {json.dumps(found['machine'], sort_keys=True)}", ""]
    if "kernel" in found:
        one = found["kernel"]
        lines += [f"{one['states']} states of {one['epochs']} epochs, {one['targets']} targets.", ""]
    if "kernel" in found and found["kernel"]["seconds"] is not None:
        lines += [f"Kernel of 51,200 x {one['targets']} over {one['epochs']} epochs: {one['seconds']:.0f} s.", ""]
    if "ratio" in found:
        one = found["ratio"]
        lines += [
            f"Beside the audit of {one['targets']} targets over {one['steps']} steps, same process: "
            f"{one['seconds']:.0f} s to {one['audit_seconds']:.0f} s, {one['ratio']:.2f} times its time (bar: 2).",
            "",
        ]
    if "difficulty" in found:
        lines += [found["difficulty"]["printed"], "", "Paper, table 1: AUROC, AUPR, Spearman", ""]
        lines += ["| score | AUROC | AUPR | Spearman |", "|---|---|---|---|"]
        lines += [f"| {name} | {' | '.join(f'{value:.4f}' for value in row)} |" for name, row in PAPER.items()]
        lines += [""]
    if "sketches" in found:
        lines += ["| sketch width | error of products | error of cosines | s |", "|---|---|---|---|"]
        lines += [
            f"| {one['width']} | {one['error']:.4f} | {one['cosine_error']:.4f} | {one['seconds']:.1f} |"
            for one in found["sketches"]
        ]
        lines += [""]
    if "maps" in found:
        one = found["maps"]
        lines += [
            f"Maps of {one['examples']} test images, {one['misclassified']} misclassified (kernel in "
            f"{one['seconds']:.0f} s): mean similarity {one['mean_within_class']:.3f} within classes, "
            f"{one['mean_between_classes']:.3f} between.",
            "",
        ]
        names = ("classes", "errors", "similarity", "similarity-class", "extremes")
        lines += [f"![{name}](kernel-{name}.png)" for name in names]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    main()
