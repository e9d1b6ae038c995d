"""DiffROAR on BlockMNIST: do networks learn from the pixels that maps put first (Shah et al., 2021).

    python -m benchmarks.diffroar --data-dir MNIST

Each image is a digit of MNIST above or below a block that says nothing. A small convolutional network is trained on
4,000 of them; every image is mapped as a training example whose target is itself. Networks are trained again on the
top, and on the bottom pixels of each kind of map. Beside them: the image's own saliency, which knows no target, and
random pixels. How much of a map lies on the digit is told, too. Results: ``benchmarks/results/diffroar.json``, ``.md``
and ``.png``.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from benchmarks._machine import machine
from benchmarks._mnist import arguments
from benchmarks._networks import images
from benchmarks._pictures import save_picture
from whence import evaluation
from whence._statistics import mean_interval
from whence.attribution import as_trained
from whence.evaluation.masks import mass_inside
from whence.regions import DEFAULT, PAPER, own_saliency, region_map

TRAIN, TEST, EPOCHS = 4000, 1000, 5
KEEP = (5, 10, 20, 50)
RECIPES = {"default": DEFAULT, "paper, not smoothed": replace(PAPER, smooth=0)}


def main() -> None:
    """Measure and write."""
    parser = arguments("Train again on the pixels that maps put first.")
    parser.add_argument("--processes", type=int, default=2, help="trainings at once")
    parser.add_argument("--cache", type=Path, help="folder to keep trainings in")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train, test = (
        evaluation.block_digits(*one, seed=place)
        for place, one in enumerate((images(options.data_dir, "train", TRAIN), images(options.data_dir, "test", TEST)))
    )
    model = trained(train.inputs, train.labels, 0)
    maps: dict[str, Any] = {}
    for part in (train, test):
        source = as_trained(model, (part.inputs, part.labels), loss=F.cross_entropy)
        itself = [(one, one) for one in range(len(part.labels))]
        for name, recipe in RECIPES.items():
            maps.setdefault(name, []).append(
                region_map(source, (part.inputs, part.labels), itself, recipe=recipe).values
            )
        maps.setdefault("own saliency", []).append(own_saliency(source, range(len(part.labels))).values)
    shares = {name: mean_interval(mass_inside(pair[1], test.inside)) for name, pair in maps.items()}
    with tempfile.TemporaryDirectory() as folder:
        table = evaluation.diffroar(
            trained,
            (train.inputs, train.labels),
            (test.inputs, test.labels),
            maps,
            keep=KEEP,
            processes=options.processes,
            path=options.cache or folder,
        )
    write(table, shares, options.results)


def trained(inputs: Tensor, labels: Tensor, seed: int) -> nn.Module:
    """Train the small network; initialisation and order follow the seed."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.SiLU(), nn.AvgPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.SiLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(32 * 14 * 7, 10),
    )  # fmt: skip
    optimizer, generator = Adam(model.parameters(), 1e-3), torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(labels), generator=generator).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[rows]), labels[rows]).backward()
            optimizer.step()
    return model


def write(table: evaluation.Table, shares: dict[str, Any], results: Path) -> None:
    """Write the figures, and a page that says them."""
    results.mkdir(parents=True, exist_ok=True)
    found = {"table": table.data.to_dict(), "mass on the digit": shares, "machine": machine()}
    (results / "diffroar.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = [
        f"BlockMNIST, {TRAIN} training and {TEST} test images; small convolutional network with SiLU, see the script.",
        f"Machine: {json.dumps(machine(), sort_keys=True)}",
        "",
        str(table),
        "",
        "| map | mass on the digit's half, mean over test images (95 % interval) |",
        "|---|---|",
        *(f"| {name} | {one[0]:.3f} ({one[1]:.3f} to {one[2]:.3f}) |" for name, one in shares.items()),
        "",
        "![DiffROAR](diffroar.png)",
    ]
    (results / "diffroar.md").write_text("\n".join(lines) + "\n")
    save_picture(table, results / "diffroar.png", "DiffROAR on BlockMNIST")


if __name__ == "__main__":
    main()
