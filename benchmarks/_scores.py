"""The score of what predicts removals, and gradient products, that benchmarks of counterfactuals share.

The score is the linear datamodeling score: the mean over targets of the rank correlation, over sets left out, of the
summed predictions and the loss of a network trained without the set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks._networks import Data
from whence._statistics import mean_interval, rank_correlations
from whence.gradients import capture

_BATCH_OF_GRADIENTS = 250


def gradients_of(model: nn.Module, data: Data) -> Iterator[Tensor]:
    """Return the gradient of each example's loss, (batch, parameters), a batch at a time."""
    names = [name for name, _ in model.named_parameters()]
    for x, y in zip(data[0].split(_BATCH_OF_GRADIENTS), data[1].split(_BATCH_OF_GRADIENTS), strict=True):
        with capture(model, names) as captured:
            F.cross_entropy(model(x), y, reduction="sum").backward()
        found = captured.gradients()
        yield torch.cat([found[name].part(0, found[name].shape[0]) for name in names], 1)


def grad_dot(model: nn.Module, data: Data, targets: Data) -> NDArray[Any]:
    """Return the products of the loss gradients at the end of training, (targets, train)."""
    ours = torch.cat(list(gradients_of(model, targets)))
    return torch.cat([ours @ part.T for part in gradients_of(model, data)], 1).numpy()


def summed(values: NDArray[Any], removals: Sequence[tuple[int, ...]]) -> NDArray[Any]:
    """Return what is predicted for each removal, (removals, targets)."""
    return np.stack([values[:, list(one)].sum(1) for one in removals]).astype(np.float64)


def score(predicted: NDArray[Any], retrained: NDArray[Any]) -> dict[str, float]:
    """Return the mean over targets of the rank correlation over sets, and a 95 % bootstrap interval over targets."""
    found = mean_interval(rank_correlations(predicted, retrained))
    return {"score": found.estimate, "low": found.low, "high": found.high}
