"""Training of the generative network (Provenance Networks, 7.14 and 7.15)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch.optim import Adam

from whence._errors import ArgumentError
from whence._progress import Advance, progress
from whence.datasets import Examples, as_examples
from whence.provenance.generative.checkpoints import Rows, held, shapes_of
from whence.provenance.generative.checks import as_weights, check_kind, check_labels, check_pictures, positive, whole
from whence.provenance.generative.losses import WEIGHTS, GenerativeLoss, generative_loss
from whence.provenance.generative.networks import GenerativeNetwork

MEASURES = (*GenerativeLoss._fields, "class accuracy", "index accuracy")


def train_generative(
    network: GenerativeNetwork,
    data: Any,
    epochs: int = 70,
    *,
    path: str | Path | None = None,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    weights: Sequence[float] = WEIGHTS,
    seed: int = 0,
) -> xr.DataArray:
    """Train a generative network in place with Adam, as the paper (70 epochs; 150 for faces).

    With a path, the state is kept after each epoch: the same call goes on from there, also after a kill, and gives
    what a training without a stop gives; with more epochs it trains on. The network then takes the state that was
    kept. It ends in evaluation mode.

    Args:
        network: The network, on any device.
        data: The training data, whose labels the network's index numbers: anything `as_examples` takes, with pictures
            from 0 to 1. `Augmented` data is drawn anew each epoch.
        epochs: How many in all, with those that are over.
        path: A folder to keep the training in.
        batch_size: Examples a step.
        learning_rate: Of Adam.
        weights: lambda_gen and lambda_cls.
        seed: Of order and noise; torch's own generator stays as it is.

    Returns:
        Dims ("epoch", "measure"), epochs from 1. The total loss and its parts as in `GenerativeLoss`; ``class
        accuracy``; ``index accuracy``: how often the head of the true class names the example itself (7.2.6, stage 2).
        All are means over the epoch's batches as they were trained on (with noise, weights still moving), as the paper
        logs them (7.15).

    Raises:
        ArgumentError: If a number is none, this is no generative network, the data's labels are not those of the
            network's index, the loss is no number any more, or the path holds something else or more epochs.
        ChangedDataError: If the training at the path was begun with other data.
        DataError: If the data cannot be read, or pixels are not from 0 to 1.
        DiskError: If the disk is full or refuses to write.
        ModelMismatchError: If the training at the path was begun with another network.
        RunExistsError: If another process trains at the path.
        RunFormatError: If a file at the path is not what it should be.
        ShapeError: If pictures are of another shape than the network's.
        SnapshotError: If the state at the path is truncated or altered.
    """
    check_kind(network, GenerativeNetwork, "train_generative")
    examples, many, size = as_examples(data), whole("epochs", epochs, 1), whole("batch_size", batch_size, 1)
    check_labels(examples, network.index)
    generator = torch.Generator().manual_seed(whole("seed", seed, 0))
    settings = {
        "data": examples.fingerprint,
        "network": shapes_of(network),
        "batch_size": size,
        "learning_rate": positive("learning_rate", learning_rate),
        "weights": as_weights(weights),
        "seed": int(seed),
    }
    optimizer = Adam(network.parameters(), learning_rate)
    with held(path, settings) as checkpoint:
        rows = checkpoint.resume(network, optimizer, generator)
        if len(rows) > many:
            raise ArgumentError(
                f"The training at {path} has {len(rows)} epochs already; got epochs={many}. Ask for more."
            )
        try:
            network.train()
            with progress("training the generative network", (many - len(rows)) * -(-len(examples) // size)) as advance:
                while len(rows) < many:
                    epoch = _Epoch(network, examples, optimizer, generator, as_weights(weights), size, advance)
                    rows.append(epoch.walk(len(rows)))
                    checkpoint.keep(rows, network, optimizer, generator)
        finally:
            network.eval()
    return _history(rows)


class _Epoch:
    """One pass over the data."""

    def __init__(
        self,
        network: GenerativeNetwork,
        examples: Examples,
        optimizer: Adam,
        generator: torch.Generator,
        weights: tuple[float, float],
        batch_size: int,
        advance: Advance,
    ) -> None:
        self._network, self._examples, self._optimizer = network, examples, optimizer
        self._generator, self._weights, self._batch_size, self._advance = generator, weights, batch_size, advance

    def walk(self, number: int) -> list[float]:
        """Take the steps of an epoch, and return its measures.

        Raises:
            ArgumentError: If the loss is no number any more.
        """
        count = len(self._examples)
        order = torch.randperm(count, generator=self._generator)
        parts = [self._step(ids, number) * len(ids) for ids in order.split(self._batch_size)]
        found: list[float] = (torch.stack(parts).sum(0) / count).tolist()
        if not np.isfinite(found).all():
            raise ArgumentError(
                f"The loss is no finite number any more in epoch {number + 1}. Lower `learning_rate`; with a "
                "path, what is kept there is the epoch before."
            )
        return found

    def _step(self, ids: Tensor, number: int) -> Tensor:
        """Take a step, and return the measures of its batch, (measures,) in float64."""
        network, weight = self._network, self._network.class_head.weight
        given, labels = self._examples.batch(ids, epoch=number)
        inputs = check_pictures(given, network.shape, ids).to(weight)
        noise = torch.randn(len(ids), network.latent, generator=self._generator).to(weight)
        there, own = labels.to(weight.device, torch.int64), ids.to(weight.device)
        made = network(inputs, noise)
        index_logits = network.index_logits(made.feature, there)
        loss = generative_loss(made, inputs, there, index_logits, own, weights=self._weights)
        self._optimizer.zero_grad()
        loss.total.backward()
        self._optimizer.step()
        self._advance(1)
        right = [
            (one.argmax(1) == true).double().mean() for one, true in ((made.class_logits, there), (index_logits, own))
        ]
        return torch.stack([*(one.detach().double() for one in loss), *right])


def _history(rows: Rows) -> xr.DataArray:
    return xr.DataArray(
        np.array(rows, dtype=np.float64).reshape(len(rows), len(MEASURES)),
        {"epoch": np.arange(1, len(rows) + 1), "measure": list(MEASURES)},
        ("epoch", "measure"),
        "history",
        {"unit": "nats an example; of accuracies, a share of examples"},
    )
