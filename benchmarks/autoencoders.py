"""Sparse autoencoders of two layers of a small classifier of MNIST: reconstruction, sparsity, loss recovered, seconds.

    WHENCE_DATA=DATA python -m benchmarks.autoencoders --threads 1

A convolutional network is trained for three epochs; then for its second convolution and its hidden layer, each with
`Relu` at several weights and `TopK` at several k, an autoencoder with eight times as many features as the layer has
channels. All figures are of the test images, at all positions. Results: ``benchmarks/results/autoencoders.*``.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor, nn

from benchmarks._machine import machine
from benchmarks._mnist import arguments
from whence import as_examples
from whence.datasets import Images, load_mnist
from whence.invariants import AutoencoderTraining, Relu, TopK, top_activating, train_autoencoder

Data = tuple[Tensor, Tensor]
EPOCHS, BATCH, TIMES = 3, 128, 8
ACTIVATIONS: tuple[Relu | TopK, ...] = (Relu(0.05), Relu(0.2), TopK(4), TopK(16))
LAYERS = {  # name: what it is, and how its autoencoders are trained
    "3": (
        "convolution, 16 channels at 14 × 14",
        AutoencoderTraining(epochs=5, batch_size=1024, rate=2e-3, positions=4),
    ),
    "7": ("hidden layer, 64 units", AutoencoderTraining(epochs=15, batch_size=1024, rate=2e-3)),
}
SHOWN = 9  # top examples of a feature, whose labels are compared


def main() -> None:
    """Measure and write."""
    parser = arguments(__doc__.splitlines()[0] if __doc__ else "")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    train, test = data(load_mnist(options.data_dir, "train")), data(load_mnist(options.data_dir, "test"))
    start = time.process_time()
    model = classifier(train)
    seconds = time.process_time() - start
    with torch.no_grad():
        accuracy = float((model(test[0]).argmax(1) == test[1]).double().mean())
    print(f"classifier: accuracy {accuracy:.4f} in {seconds:.1f} s", flush=True)
    found = [measured(model, layer, activation, train, test) for layer in LAYERS for activation in ACTIVATIONS]
    write({"accuracy": accuracy, "seconds": seconds, "found": found, "machine": machine()}, options)


def data(source: Images) -> Data:
    """Return images in float32 and labels."""
    examples = as_examples(source)
    inputs, labels = examples.batch(range(len(examples)))
    return inputs.float(), labels


def classifier(train: Data) -> nn.Sequential:
    """Return a trained convolutional network."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for epoch in range(EPOCHS):
        for ids in torch.randperm(len(train[1]), generator=torch.Generator().manual_seed(epoch)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(train[0][ids]), train[1][ids]).backward()
            optimizer.step()
    return model.eval()


def measured(model: nn.Module, layer: str, activation: Relu | TopK, train: Data, test: Data) -> dict[str, Any]:
    """Train one autoencoder and return its figures on the test images."""
    width, steps = (16 if layer == "3" else 64), LAYERS[layer][1]
    start = time.process_time()
    trained = train_autoencoder(
        model, layer, train, features=TIMES * width, activation=activation, training=steps, held_out=test,
        loss=F.cross_entropy,
    )  # fmt: skip
    seconds = time.process_time() - start
    figures = trained.figures
    row = {"layer": layer, "activation": repr(activation), "features": TIMES * width, "seconds": seconds}
    row |= {name: float(figures[name]) for name in ("explained_variance", "l0", "dead", "loss_recovered")}
    row |= {"loss": figures.loss.values.tolist(), "same_class": figures.same_class.values.tolist()}
    row["revived"] = float(figures.history.sel(measure="revived").sum())
    alive = [int(one) for one in figures.feature[figures.density > 0][:64]]
    row["purity"] = purity(top_activating(model, layer, trained.autoencoder, test, alive, SHOWN), test[1])
    print({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()}, flush=True)
    return row


def purity(top: xr.Dataset, labels: Tensor) -> float:
    """Return the mean over features of the share of their top examples that have their most frequent label."""
    found = []
    for row in torch.from_numpy(top.example.values):
        ids = row[row >= 0]
        found.append(float(labels[ids].bincount().max()) / len(ids))
    return sum(found) / len(found)


def write(found: dict[str, Any], options: argparse.Namespace) -> None:
    """Write the figures as JSON and as a table."""
    (options.results / "autoencoders.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = [
        f"A convolutional classifier of MNIST ({EPOCHS} epochs, test accuracy {found['accuracy']:.4f}); autoencoders "
        f"with {TIMES} features a channel, trained on the training images, figures on all positions of the 10,000 test "
        f"images, 1 seed. Loss recovered: 1 if the model loses nothing with the reconstruction in the layer's place, 0 "
        "if as much as with the mean activation. Purity: share of a feature's nine top test images that have one "
        "label, mean over the first 64 features that are active. Seconds of the processor: training and figures.",
        f"Machine: {json.dumps(found['machine'], sort_keys=True)}",
    ]
    for layer, (told, steps) in LAYERS.items():
        drawn = f", {steps.positions} positions drawn of each image" if steps.positions else ""
        lines += ["", f"Layer {layer}: {told}; {steps.epochs} epochs of batches of {steps.batch_size}{drawn}.", ""]
        lines += [
            "| activation | explained variance | mean L0 | dead | loss recovered | same class | purity | seconds |",
            "|---|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {one['activation']} | {one['explained_variance']:.3f} | {one['l0']:.1f} of {one['features']} | "
            f"{one['dead']:.1%} | {one['loss_recovered']:.3f} | {one['same_class'][1]:.1%} | {one['purity']:.2f} | "
            f"{one['seconds']:.1f} |"
            for one in found["found"]
            if one["layer"] == layer
        ]
    (options.results / "autoencoders.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
