"""How good a sparse autoencoder is: reconstruction, sparsity, dead features, and what the model makes of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from whence._errors import ArgumentError
from whence._progress import progress
from whence.datasets import as_examples, call_model
from whence.invariants.autoencoders.layout import axis_of, laid_back, replaced, rows_of
from whence.invariants.autoencoders.network import SparseAutoencoder
from whence.invariants.autoencoders.source import Reader
from whence.kernel.answers import read_examples
from whence.provenance.modes import evaluating
from whence.runs import TrainingLoss, to_device, training_loss

_INSTEAD = ("nothing", "reconstruction", "mean")


def autoencoder_figures(
    model: nn.Module,
    layer: str,
    autoencoder: SparseAutoencoder,
    data: Any,
    *,
    loss: Any = None,
    memory_budget: int = 2**29,
) -> xr.Dataset:
    """Measure a sparse autoencoder on data, at all positions.

    Args:
        model: The model, read in evaluation mode and left as it was.
        layer: Name of the module that the autoencoder is of.
        autoencoder: The autoencoder.
        data: Anything `as_examples` takes; without a loss also inputs alone.
        loss: A loss of the model's outputs and labels.
        memory_budget: Bytes that activations and codes may take.

    Returns:
        ``explained_variance``: 1 - Σ‖x - x̂‖² / Σ‖x - mean‖². ``l0``: features active at a position, on average.
        ``density`` by "feature": share of the positions at which it is active. ``dead``: share of the features that
        are active at none. By "instead", what the layer's output is replaced by (nothing, the reconstruction, the mean
        over all positions): ``same_class``, the share of examples with the same first class as the model's, of models
        whose outputs are classes, else nan; and given a loss ``loss``, per example. ``loss_recovered``: of the
        loss that the mean adds, the share that the reconstruction does not add: 1 if it adds none (as in Bricken et
        al., 2023, who put zeros where here is the mean); nan if the mean adds none.

    Raises:
        LabelError: If there is no such layer.
        ArgumentError: If the model cannot be called with the data, the layer's output cannot be replaced, the budget is
            no whole number above 0, or the autoencoder is none.
        ShapeError: If the layer is not as wide as the autoencoder.
        DataError: If the data cannot be read.
        UnsupportedLossError: If the loss is neither a mean nor a sum over examples.
    """
    examples = read_examples(data, "predicted") if loss is None else as_examples(data)
    reader = Reader(model, layer, examples)
    measured = None if loss is None else training_loss(loss, model, examples)
    sums = _Sums(autoencoder)
    with torch.no_grad(), progress("figures of the autoencoder", 2 * len(examples)) as advance:
        for ids in reader.batches(bytes_of(reader, autoencoder), memory_budget):
            sums.add(reader(ids))
            advance(len(ids))
        changes = (_unchanged, partial(_reconstructed, autoencoder), partial(_at_mean, autoencoder, sums.mean))
        total = np.zeros((len(_INSTEAD), 2))
        for ids in reader.batches(bytes_of(reader, autoencoder), memory_budget):
            total += _compared(reader, ids, changes, measured)
            advance(len(ids))
    return _labelled(sums, total / len(examples), reader, measured)


def bytes_of(reader: Reader, autoencoder: SparseAutoencoder) -> int:
    """Return how many bytes activations, pre-activations and codes of one example take.

    Raises:
        ShapeError: If the layer is not as wide as the autoencoder.
        ArgumentError: If it is no `SparseAutoencoder`.
    """
    known: Any = autoencoder
    if not isinstance(known, SparseAutoencoder):
        raise ArgumentError(
            f"An autoencoder is a SparseAutoencoder, of a trained one its `.autoencoder`; got a {type(known).__name__}."
        )
    axis_of(reader.sample, autoencoder.channel_axis, autoencoder.width)
    positions = reader.sample[0].numel() // autoencoder.width
    return positions * (2 * autoencoder.width + 2 * autoencoder.features) * autoencoder.decoder.dtype.itemsize


class _Sums:
    """Sums over positions, of activations less the pre-bias, so that a large mean costs no digits."""

    def __init__(self, autoencoder: SparseAutoencoder) -> None:
        self._autoencoder = autoencoder
        self._centre = (autoencoder.scale * autoencoder.pre_bias).detach().double()
        self._first = torch.zeros_like(self._centre)
        self._second = self._error = torch.zeros_like(self._centre[0])
        self._active = torch.zeros(autoencoder.features, dtype=torch.float64, device=self._centre.device)
        self.rows = 0

    def add(self, output: Tensor) -> None:
        """Add a batch of a layer's output."""
        autoencoder = self._autoencoder
        rows = rows_of(output, axis_of(output, autoencoder.channel_axis, autoencoder.width)).flatten(0, 1)
        codes, found = autoencoder(rows)
        exact = rows.double()
        self._first = self._first + (exact - self._centre).sum(0)
        self._second = self._second + (exact - self._centre).square().sum()
        self._error = self._error + (exact - found.double()).square().sum()
        self._active += (codes > 0).sum(0)
        self.rows += len(rows)

    @property
    def mean(self) -> Tensor:
        """The mean activation (width,)."""
        return self._centre + self._first / self.rows

    @property
    def explained(self) -> float:
        """Share of the variance that is reconstructed; nan if there is none."""
        variance = float(self._second - self._first.square().sum() / self.rows)
        return 1 - float(self._error) / variance if variance > 0 else float("nan")

    @property
    def density(self) -> np.ndarray:
        """Share of the positions at which each feature is active."""
        return (self._active / self.rows).cpu().numpy()


def _unchanged(output: Tensor) -> Tensor:
    return output


def _reconstructed(autoencoder: SparseAutoencoder, output: Tensor) -> Tensor:
    axis = axis_of(output, autoencoder.channel_axis, autoencoder.width)
    return laid_back(autoencoder(rows_of(output, axis))[1], output, axis)


def _at_mean(autoencoder: SparseAutoencoder, mean: Tensor, output: Tensor) -> Tensor:
    axis = axis_of(output, autoencoder.channel_axis, autoencoder.width)
    return laid_back(mean.expand(*rows_of(output, axis).shape), output, axis)


def _compared(
    reader: Reader, ids: range, changes: tuple[Callable[[Tensor], Tensor], ...], loss: TrainingLoss | None
) -> np.ndarray:
    """Return sums over examples of (loss, whether the first class stays) for each change of the layer's output."""
    inputs, labels = to_device(reader.examples.batch(ids), reader.device)
    found, first = np.full((len(changes), 2), np.nan), None
    for row, change in enumerate(changes):
        with replaced(reader.model, reader.layer, change), evaluating(reader.model):
            outputs = call_model(reader.model, inputs)
        if loss is not None:
            found[row, 0] = float(loss.per_example(outputs, labels).double().sum())
        logits = getattr(outputs, "logits", outputs)
        if isinstance(logits, Tensor) and logits.ndim == 2 and logits.shape[1] > 1:
            first = logits.argmax(1) if first is None else first
            found[row, 1] = int((logits.argmax(1) == first).sum())
    return found


def _labelled(sums: _Sums, means: np.ndarray, reader: Reader, loss: TrainingLoss | None) -> xr.Dataset:
    density = sums.density
    found = xr.Dataset(
        {
            "explained_variance": ((), sums.explained, {"unit": "share of the variance"}),
            "l0": ((), float(density.sum()), {"unit": "active features a position"}),
            "dead": ((), float((density == 0).mean()), {"unit": "share of the features"}),
            "density": ("feature", density, {"unit": "share of the positions"}),
            "same_class": ("instead", means[:, 1], {"unit": "share of the examples"}),
        },
        {"feature": np.arange(len(density)), "instead": list(_INSTEAD)},
        {"layer": reader.layer, "examples": len(reader.examples), "positions": sums.rows},
    )
    if loss is not None:
        plain, kept, lost = means[:, 0]
        recovered = (lost - kept) / (lost - plain) if lost > plain else float("nan")
        found["loss"] = ("instead", means[:, 0], {"unit": f"{loss.name}, per example"})
        found["loss_recovered"] = ((), recovered, {"unit": "share of what the mean loses"})
    return found
