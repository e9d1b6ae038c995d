"""The generative provenance network on MNIST, and whether the training pictures it names are where a picture is from.

    python -m benchmarks.generative

The paper's convolutional network (Provenance Networks, 5.5 and 7.10 to 7.15; latent vector of 128, batches of 128, Adam
at 1e-3, weights 0.6 and 0.4) is trained on the first 2,000 training images for 35 epochs. The paper trains on all
60,000 for 70, so figures cannot be compared with its own; ``--train 60000 --epochs 70`` is its setting. Told are the
losses and both accuracies by epoch (means over batches as trained on, with noise), and then, in evaluation mode
and without noise, how often training images are recognised. Of 1,000 generated pictures: whether exemplars are of the
predicted class, by the paper's reading (the head of the predicted class: so by construction) and by all heads; how
often the nearest training picture in pixels is among the five exemplars, beside five random pictures of the predicted
class; and how far, in pixels, exemplars are beside the nearest and random ones of the class. Results:
``benchmarks/results/generative.json``, ``.md``, ``.png``, ``generative-losses.png`` and ``generative-sheet.png``.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from benchmarks._machine import machine
from benchmarks._mnist import arguments
from benchmarks._pictures import save_picture
from whence import as_examples
from whence._statistics import Interval, mean_interval
from whence.datasets import load_mnist
from whence.evaluation import Table
from whence.evaluation.table import table_of
from whence.provenance import (
    GenerativeNetwork,
    across_classes,
    class_index,
    exemplar_sheet,
    generate,
    nearest_in_pixels,
    train_generative,
)

SAMPLES, SHOWN, K = 1000, 8, 5


def main() -> None:
    """Train, measure and write."""
    parser = arguments("Train the generative provenance network and measure what it names.", device=True)
    parser.add_argument("--train", type=int, default=2000, help="first images of MNIST to train on")
    parser.add_argument("--epochs", type=int, default=35)
    parser.add_argument("--cache", type=Path, help="folder to keep the training in, to go on after a stop")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = as_examples(load_mnist(options.data_dir, "train")).batch(range(options.train))
    network = GenerativeNetwork.convolutional(class_index(data[1])).to(options.device)
    begun, start = options.cache is not None and options.cache.exists(), time.process_time()
    history = train_generative(network, data, options.epochs, path=options.cache)
    seconds = None if begun else time.process_time() - start  # of a part of the training they would say nothing
    generated = generate(network, SAMPLES, k=K)
    found = {
        "images": options.train,
        "epochs": options.epochs,
        "seconds": seconds,
        "history": history.to_dict(),
        "training images": recognised(network, data),
        "generated": compared(network, generated, data),
        "machine": machine(),
    }
    write(found, history, options.results)
    exemplar_sheet(generated.isel(sample=slice(SHOWN)), data).save(options.results / "generative-sheet.png")


def recognised(network: GenerativeNetwork, data: tuple[Tensor, Tensor]) -> dict[str, Interval]:
    """Return how often training images are recognised, in evaluation mode and without noise."""
    rows: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for ids in torch.arange(len(data[1])).split(256):
            made = network(data[0][ids].to(network.device))
            labels, own = data[1][ids].to(network.device), ids.to(network.device)[:, None]
            predicted = made.class_logits.argmax(1)
            within = network.index_logits(made.feature, labels).topk(K, 1).indices == own
            ends = network.index_logits(made.feature, predicted).topk(K, 1).indices == own
            for name, one in {
                "class": predicted == labels,
                "index, head of the true class": within[:, 0],
                f"index among {K}, head of the true class": within.any(1),
                "index, head of the predicted class": ends[:, 0],
                f"index among {K}, head of the predicted class": ends.any(1),
            }.items():
                rows.setdefault(name, []).append(one.cpu())
    return {name: mean_interval(torch.cat(parts).double().numpy()) for name, parts in rows.items()}


def compared(network: GenerativeNetwork, generated: xr.Dataset, data: tuple[Tensor, Tensor]) -> dict[str, Interval]:
    """Return how exemplars stand to the predicted class and to the nearest training pictures in pixels."""
    labels, predicted = data[1].numpy(), generated["predicted"].values
    everywhere = generate(network, SAMPLES, k=K, scoring=across_classes)["exemplar"].values
    near = nearest_in_pixels(generated, data, K)
    nearest, exemplars = near["train"].values, generated["exemplar"].values
    draw = np.random.default_rng(0)
    chance = np.stack([draw.choice(network.index.members(int(one)).numpy(), K, replace=False) for one in predicted])
    values = {
        "exemplars of the predicted class, by its head": (labels[exemplars] == predicted[:, None]).mean(1),
        "exemplars of the predicted class, by all heads": (labels[everywhere] == predicted[:, None]).mean(1),
        "nearest in pixels is of the predicted class": labels[nearest[:, 0]] == predicted,
        f"nearest in pixels is among the {K} exemplars": (exemplars == nearest[:, :1]).any(1),
        f"nearest in pixels is among {K} random of the class": (chance == nearest[:, :1]).any(1),
        "distance of the nearest in pixels": near["distance"].values[:, 0],
        "distance of the first exemplar": distance(generated, data, exemplars[:, 0]),
        "distance of a random one of the class": distance(generated, data, chance[:, 0]),
        "probability of the first exemplar in its head": generated["score"].values[:, 0],
    }
    return {name: mean_interval(np.asarray(one, dtype=np.float64)) for name, one in values.items()}


def distance(generated: xr.Dataset, data: tuple[Tensor, Tensor], ids: np.ndarray) -> np.ndarray:
    """Return the distance in pixels of each generated picture from a training picture."""
    apart = torch.from_numpy(generated["picture"].values) - data[0][torch.from_numpy(ids)]
    return np.asarray(apart.double().flatten(1).norm(dim=1).numpy())


def by_epoch(history: xr.DataArray, measures: tuple[str, ...], title: str, measure: str) -> Table:
    """Return measures by epoch as a table; one training has no interval."""
    none = float("nan")
    rows = [[Interval(float(one.sel(measure=name)), none, none) for name in measures] for one in history]
    epochs = history.coords["epoch"].values.tolist()
    return table_of(
        rows,
        ("epoch", epochs),
        ("measure", list(measures)),
        title=title,
        measure=measure,
        interval="none: one training",
    )


def write(found: dict[str, Any], history: xr.DataArray, results: Path) -> None:
    """Write the figures, and a page that says them."""
    results.mkdir(parents=True, exist_ok=True)
    (results / "generative.json").write_text(json.dumps(found, indent=1) + "\n")
    both = ("class accuracy", "index accuracy")
    accuracies = by_epoch(history, both, "Accuracies while training", "share of training images")
    losses = by_epoch(history, ("reconstruction", "divergence"), "Losses while training", "nats an image")
    took = "" if found["seconds"] is None else f", {found['seconds']:.0f} CPU seconds"
    lines = [
        f"Generative provenance network (convolutional) on the first {found['images']:,} training images of MNIST, "
        f"{found['epochs']} epochs{took}; see the script.",
        f"Machine: {json.dumps(found['machine'], sort_keys=True)}",
        "",
        "| epoch | " + " | ".join(history.coords["measure"].values.tolist()) + " |",
        "|---" * (history.sizes["measure"] + 1) + "|",
        *(
            f"| {int(one.coords['epoch'])} | " + " | ".join(f"{value:.3f}" for value in one.values.tolist()) + " |"
            for one in history
        ),
        "",
        "Losses are in nats an image (sums over pixels and over the latent vector), means over an epoch's batches.",
        *table("of training images, without noise", found["training images"]),
        *table(f"of {SAMPLES} generated pictures", found["generated"]),
        "",
        "![Accuracies by epoch](generative.png)",
        "",
        "![Losses by epoch](generative-losses.png)",
        "",
        "![Generated pictures beside their exemplars and the nearest training pictures](generative-sheet.png)",
    ]
    (results / "generative.md").write_text("\n".join(lines) + "\n")
    save_picture(accuracies, results / "generative.png", "Generative provenance network on MNIST: accuracies")
    save_picture(losses, results / "generative-losses.png", "Generative provenance network on MNIST: losses")


def table(title: str, found: dict[str, Interval]) -> list[str]:
    """Return the lines of a table of means."""
    rows = [f"| {name} | {one[0]:.3f} ({one[1]:.3f} to {one[2]:.3f}) |" for name, one in found.items()]
    return ["", f"| {title} | mean (95 % interval) |", "|---|---|", *rows]


if __name__ == "__main__":
    main()
