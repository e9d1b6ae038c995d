"""Region maps against what is known: insertion, shortcut, specificity, random weights, beside controls.

    python -m benchmarks.regions --cifar CIFAR10 --data-dir MNIST
    python -m benchmarks.regions --cifar CIFAR10 --data-dir MNIST --part shortcut    # a part alone; the others stay

A light convolutional network on CIFAR-10 (classes dog, ship and automobile for the shortcut). Insertion: 40 test
images, 4 most helpful images each by grad-cos out of a pool that was not trained on. Shortcut: 17 shares of the dogs
have the patch, 0 to 100 %. Specificity: images of two digits of MNIST, a network with one output a class. Controls: the
training image's own saliency, random pixels and blobs. With ``--seed`` other networks and other targets are taken.
Results: ``benchmarks/results/regions.json``, ``.md`` and pictures; of another seed ``regions-seed-1.json`` and so on.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor, nn
from torch.optim import Adam

import whence
from benchmarks._machine import machine
from benchmarks._mnist import arguments
from benchmarks._networks import images
from benchmarks._pictures import save_picture
from whence import evaluation
from whence.attribution import GradCos, GradDot, as_trained, attribute
from whence.datasets import load_parquet
from whence.regions import DEFAULT, PAPER, SHARED, Gradient, Integrated, Recipe, own_saliency, region_map, top_pairs

Data = tuple[Tensor, Tensor]
RECIPES = {
    "default": DEFAULT,
    "shared features": SHARED,
    "paper": PAPER,
    "integrated, cosine": Recipe(GradCos("loss"), Integrated()),
}
OWN = Recipe(GradCos("loss"), Gradient(), signed=False)
CONTROL = "own saliency"
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
TRAIN, POOL, TARGETS, EACH = 10_000, 5000, 40, 4
AUTOMOBILE, DOG, SHIP = 1, 5, 8
CLASSES = (AUTOMOBILE, DOG, SHIP)  # of the shortcut; their places are their labels there
FRACTIONS = tuple(part / 16 for part in range(17))
PATCH = 6
KINDS = {
    "silu": "SiLU and average pooling",
    "relu": "ReLU and max-pooling",
    "pooled": "SiLU and average pooling, over all positions at the end",
}
PICTURED = (
    "insertion, cosine",
    "insertion, unit step",
    "deletion, cosine",
    "random weights",
    "shortcut, accuracy",
    "shortcut, patch",
    "specificity",
)


def main() -> None:
    """Measure and write."""
    parser = arguments("Region maps against what is known.")
    folder = os.environ.get("WHENCE_DATA")
    parser.add_argument(
        "--cifar", type=Path, default=Path(folder) / "cifar10" if folder else None, required=folder is None
    )
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--part", choices=("insertion", "shortcut", "specificity"), action="append")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--network", choices=KINDS, default="silu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    parts = options.part or ["insertion", "shortcut", "specificity"]
    data, tests = (cifar(options.cifar / f"{part}.parquet") for part in ("train", "test"))
    tables: dict[str, evaluation.Table] = {}
    if "insertion" in parts:
        tables |= inserted(options, data, tests)
    if "shortcut" in parts:
        tables |= {f"shortcut, {name}": one for name, one in patched(options, data, tests).parts.items()}
    if "specificity" in parts:
        tables["specificity"] = followed(options)
    write(tables, options)


def cifar(file: Path) -> Data:
    """Return CIFAR-10, normalised."""
    examples = whence.as_examples(load_parquet(file, mean=MEAN, std=DEVIATION))
    x, y = examples.batch(range(len(examples)))
    return x, y


def network(seed: int, channels: int = 3, outputs: int = 10, flat: int = 1024, kind: str = "silu") -> nn.Module:
    """Return the light network of a kind, newly initialised."""
    torch.manual_seed(seed)
    bend, pool = (nn.ReLU, nn.MaxPool2d) if kind == "relu" else (nn.SiLU, nn.AvgPool2d)
    last, width = (nn.AdaptiveAvgPool2d(1), 64) if kind == "pooled" else (pool(2), flat)
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1), bend(), pool(2),
        nn.Conv2d(16, 32, 3, padding=1), bend(), pool(2),
        nn.Conv2d(32, 64, 3, padding=1), bend(), last,
        nn.Flatten(), nn.Linear(width, outputs),
    )  # fmt: skip


def fit(model: nn.Module, data: Data, epochs: int, seed: int, loss: Any = F.cross_entropy) -> nn.Module:
    """Train by Adam; the order follows the seed."""
    optimizer = Adam(model.parameters(), 1e-3)
    for epoch in range(epochs):
        order = torch.randperm(len(data[1]), generator=torch.Generator().manual_seed(100 * seed + epoch))
        for rows in order.split(64):
            optimizer.zero_grad()
            loss(model(data[0][rows]), data[1][rows]).backward()
            optimizer.step()
    return model


def inserted(options: argparse.Namespace, data: Data, tests: Data) -> dict[str, Any]:
    """Return the tables of insertion and deletion, and of networks with random weights."""
    rng = np.random.default_rng(options.seed)
    rows = torch.from_numpy(rng.permutation(len(data[1]))[: TRAIN + POOL])
    held = (data[0][rows[TRAIN:]], data[1][rows[TRAIN:]])
    chosen = torch.from_numpy(rng.choice(len(tests[1]), TARGETS, replace=False))
    targets = (tests[0][chosen], tests[1][chosen])
    model = fit(
        network(options.seed, kind=options.network),
        (data[0][rows[:TRAIN]], data[1][rows[:TRAIN]]),
        options.epochs,
        options.seed,
    )
    pool = as_trained(model, held, loss=F.cross_entropy)
    random = as_trained(evaluation.reinitialised(model, seed=options.seed + 1), held, loss=F.cross_entropy)
    pairs = top_pairs(attribute(GradCos(), pool, targets), EACH)
    maps = {name: region_map(pool, targets, pairs, recipe=one) for name, one in RECIPES.items()}
    others = {name: region_map(random, targets, pairs, recipe=one) for name, one in RECIPES.items()}
    maps[CONTROL], others[CONTROL] = (own_saliency(one, [m for _, m in pairs], recipe=OWN) for one in (pool, random))
    found = {f"insertion, {name}": one for name, one in evaluation.insertion(pool, targets, pairs, maps).parts.items()}
    found["deletion, cosine"] = evaluation.deletion(pool, targets, pairs, maps)["cosine"]
    found["random weights"] = evaluation.model_randomisation(maps, others, targets=[one for one, _ in pairs])
    return found


def three(of: Data) -> Data:
    """Return the images of the shortcut's classes."""
    rows = torch.isin(of[1], torch.tensor(CLASSES)).nonzero().flatten()
    return of[0][rows], torch.bucketize(of[1][rows], torch.tensor(CLASSES))


def red_patch() -> evaluation.Patch:
    """Return the red square: on dogs in training, on ships as probes."""
    red = [(one - mean) / deviation for one, mean, deviation in zip((1.0, 0.0, 0.0), MEAN, DEVIATION, strict=True)]
    return evaluation.square_patch(32, 32, PATCH, red, on=CLASSES.index(DOG), probe=CLASSES.index(SHIP))


def patched(options: argparse.Namespace, data: Data, tests: Data) -> evaluation.Tables:
    """Return the tables of the shortcut test on three classes."""
    patch = red_patch()
    return evaluation.shortcut(
        lambda x, y, seed: fit(
            network(seed + options.seed, outputs=len(CLASSES), kind=options.network),
            (x, y),
            options.epochs,
            seed + options.seed,
        ),
        three(data),
        three(tests),
        patch,
        RECIPES,
        loss=F.cross_entropy,
        sizes=evaluation.ShortcutSizes(fractions=FRACTIONS),
    )


def each_digit(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over examples of the losses of all classes, each there or not, summed."""
    return F.binary_cross_entropy_with_logits(outputs, labels, reduction="none").sum(1).mean()


def shown_logit(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the logit of the one digit that a target shows."""
    return (outputs * labels).sum(1)


def followed(options: argparse.Namespace) -> evaluation.Table:
    """Return specificity on images of two digits."""
    made = evaluation.two_digits(*images(options.data_dir, "train", 10_000), 10_000, seed=options.seed)
    fresh = network(options.seed, 1, 10, flat=64 * 3 * 7, kind=options.network)
    model = fit(fresh, (made.inputs, made.labels), options.epochs, options.seed, each_digit)
    few = slice(0, TARGETS)
    trained = as_trained(model, (made.inputs[few], made.labels[few]), loss=each_digit)
    pairs = [(one, one) for one in range(TARGETS)]
    recipes: dict[str, Any] = {
        "default": replace(DEFAULT, score=GradDot(shown_logit, layers="last")),
        "shared features": replace(SHARED, score=GradDot(shown_logit, layers="last")),
        "paper": PAPER,
        "integrated, cosine": RECIPES["integrated, cosine"],
    }
    sides = ((made.left, made.left_labels), (made.right, made.right_labels))
    left, right = (
        {name: region_map(trained, (x[few], y[few]), pairs, recipe=one) for name, one in recipes.items()}
        for x, y in sides
    )
    left[CONTROL] = right[CONTROL] = own_saliency(trained, range(TARGETS), recipe=OWN)
    return evaluation.specificity(*without_empty(left, right), made.inside)


def without_empty(left: dict[str, Any], right: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the maps of those pairs of which no map is zero everywhere, as with ReLU some are; say how many."""
    kept = np.all([np.asarray(one).any((1, 2)) for side in (left, right) for one in side.values()], axis=0)
    print(f"specificity: {int(kept.sum())} of {len(kept)} pairs; in the others a map is zero everywhere")
    first, second = ({name: np.asarray(one)[kept] for name, one in side.items()} for side in (left, right))
    return first, second


def write(tables: dict[str, evaluation.Table], options: argparse.Namespace) -> None:
    """Write the figures among those of other parts, a page that says them, and pictures."""
    options.results.mkdir(parents=True, exist_ok=True)
    plain = options.seed == 0 and options.network == "silu"
    name = "regions" if plain else f"regions-{options.network}-{options.seed}"
    kept = options.results / f"{name}.json"
    old: dict[str, Any] = json.loads(kept.read_text())["tables"] if kept.exists() else {}
    found = old | {key: table.data.to_dict() | {"references": table.references} for key, table in tables.items()}
    kept.write_text(json.dumps({"tables": found, "machine": machine()}, indent=1) + "\n")
    pages = [
        f"Light convolutional network with {KINDS[options.network]}, seed {options.seed}, see the script.",
        f"Machine: {json.dumps(machine(), sort_keys=True)}",
    ]
    for key, one in found.items():
        references = tuple((str(name), float(value)) for name, value in one.get("references", ()))
        table = evaluation.Table(xr.Dataset.from_dict(one), references)
        pages.append(str(table))
        picture = options.results / f"{name}-{key.replace(', ', '-').replace(' ', '-')}.png"
        if key in PICTURED and plain:
            save_picture(table, picture, key.capitalize())
            pages.append(f"![{key}]({picture.name})")
    (options.results / f"{name}.md").write_text("\n\n".join(pages) + "\n")


if __name__ == "__main__":
    main()
