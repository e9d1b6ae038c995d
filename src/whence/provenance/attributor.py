"""Provenance networks through the protocol of attributors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import xarray as xr

from whence._errors import ArgumentError, ChangedDataError
from whence.attribution import Trained, label
from whence.datasets import Examples
from whence.provenance.network import ProvenanceNetwork
from whence.provenance.retrieval import reading


@final
@dataclass(frozen=True, eq=False)
class Provenance:
    """Scores by a provenance network: the log probability of each training example as the target's index.

    It says which examples the network takes for the target, not which moved its loss: a retrieved example is no cause
    until retraining without it says so (``whence.evaluation``).

    Attributes:
        network: The trained network.
        considered: As in `retrieve`; examples of other classes score minus infinity.
    """

    network: ProvenanceNetwork
    considered: int = 1

    def fit(self, trained: Trained, *, memory_budget: int = 2**29) -> FittedProvenance:
        """Check that the network's index is of the trained model's data.

        Args:
            trained: The trained model and its data.
            memory_budget: Bytes to hold besides model, data and scores.

        Raises:
            ChangedDataError: If it is of other data.
            ArgumentError: If ``considered`` is not from 1 to the number of classes.
        """
        if trained.examples.fingerprint != self.network.fingerprint:
            raise ChangedDataError(
                f"The network's index is of {self.network.fingerprint}, the model's data is "
                f"{trained.examples.fingerprint}. Give the model's data to the network, or the network's to the model."
            )
        if not 1 <= self.considered <= self.network.index.classes:
            raise ArgumentError(f"`considered` is from 1 to {self.network.index.classes}; got {self.considered}.")
        return FittedProvenance(self.network, self.considered, memory_budget)


@final
@dataclass(frozen=True, eq=False)
class FittedProvenance:
    """A provenance network, ready for any targets."""

    network: ProvenanceNetwork
    considered: int
    memory_budget: int

    def scores(self, targets: Examples, ids: list[int]) -> xr.DataArray:
        """Score every training example for some targets, as `whence.attribution.Fitted` does."""
        inputs, _ = targets.batch(ids)
        parts = reading(self.network, inputs, considered=self.considered, memory_budget=self.memory_budget)
        values = np.concatenate([one.index.cpu().numpy() for one in parts])
        train = list(range(len(self.network.index)))
        return label(values, ids, train, attributor="Provenance", unit="nats of log probability of the index", helps=1)
