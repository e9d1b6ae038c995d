"""Train a sparse autoencoder on a layer of a model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from whence._errors import ArgumentError
from whence.datasets import Examples, as_examples
from whence.datasets._fingerprint import fingerprint
from whence.invariants.autoencoders.figures import autoencoder_figures
from whence.invariants.autoencoders.loop import AutoencoderTraining, Loop
from whence.invariants.autoencoders.network import Relu, SparseAutoencoder, TopK
from whence.invariants.autoencoders.result import TrainedAutoencoder
from whence.invariants.autoencoders.source import Activations, Reader
from whence.kernel.answers import read_examples
from whence.provenance.checkpoints import Checkpoint


def train_autoencoder(  # noqa: PLR0913 - each is a question of its own
    model: nn.Module,
    layer: str,
    data: Any,
    *,
    features: int,
    activation: Relu | TopK | None = None,
    channel_axis: int | None = None,
    training: AutoencoderTraining | None = None,
    held_out: Any = None,
    loss: Any = None,
    path: str | Path | None = None,
) -> TrainedAutoencoder:
    """Train a sparse autoencoder on the activations of a layer.

    The model is read in evaluation mode and left as it was. Activations of a convolution count at each position, those
    of a transformer at each token. Features that go silent are brought back (`AutoencoderTraining`).

    Args:
        model: The model.
        layer: Name of a module of it whose output is a tensor.
        data: Anything `as_examples` takes, or inputs without labels.
        features: How many features the dictionary has.
        activation: `Relu` or `TopK`; ``Relu()`` when left out.
        channel_axis: Where the channels stand in the layer's output, as of `SparseAutoencoder`.
        training: Epochs, rate, batches and memory.
        held_out: Data that the figures are of, like ``data``; ``data`` when left out.
        loss: A loss of the model's outputs and labels, to measure how much of it the autoencoder recovers.
        path: A folder for checkpoints, one after each epoch, or each part of one when the activations do not fit the
            budget. A training that was cut off goes on from there, and gives what it would have given.

    Returns:
        The autoencoder with its figures.

    Raises:
        LabelError: If there is no such layer.
        ArgumentError: If a number or another argument is not what it should be, the layer cannot be taken apart, or the
            checkpoint is of other settings.
        ShapeError: If the layer's output has no channels, or another shape from example to example.
        DataError: If the data cannot be read.
        ChangedDataError: If the checkpoint is of other data.
        DiskError: If the disk is full or refuses to write.
    """
    steps: Any = AutoencoderTraining() if training is None else training
    if not isinstance(steps, AutoencoderTraining):
        raise ArgumentError(f"training is AutoencoderTraining(...); got a {type(steps).__name__}.")
    examples = read_examples(data, "predicted")
    seen_on = _seen_on(data if held_out is None else held_out, loss)  # bad data is refused before the training
    reader = Reader(model, layer, examples)
    source = Activations(
        reader,
        positions=steps.positions,
        channel_axis=channel_axis,
        memory_budget=steps.memory_budget,
        seed=steps.seed,
    )
    autoencoder = SparseAutoencoder(
        source.width, features, activation or Relu(), channel_axis=channel_axis, seed=steps.seed
    ).to(device=reader.device, dtype=source.dtype)
    told: dict[str, Any] = {"fingerprint": examples.fingerprint, "layer": layer, "model": _fingerprint(model)}
    told |= {"training": asdict(steps), **autoencoder.told()}
    history = Loop(autoencoder, source, steps).run(None if path is None else Checkpoint(Path(path), told))
    figures = autoencoder_figures(model, layer, autoencoder, seen_on, loss=loss, memory_budget=steps.memory_budget)
    figures["history"] = history
    figures.attrs |= {"training_positions": source.positions, "training_rows": source.rows}
    return TrainedAutoencoder(autoencoder, layer, figures)


def _seen_on(data: Any, loss: Any) -> Examples:
    """Read the data that the figures are of; labels are needed for a loss only."""
    return read_examples(data, "predicted") if loss is None else as_examples(data)


def _fingerprint(model: nn.Module) -> str:
    """Return a fingerprint of a model's parameters and buffers."""
    return fingerprint([dict(model.named_parameters()), dict(model.named_buffers())])
