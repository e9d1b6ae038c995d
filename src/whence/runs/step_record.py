"""What is recorded of one optimizer step."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import final

from torch import Tensor

from whence.runs.modes import Modes
from whence.runs.randomness import RandomState
from whence.runs.settings import GroupSettings
from whence.runs.statistics import GradientTable

Place = tuple[int, int]
"""Of a step's last batch: its epoch, and how many batches of that had been handed out with it."""


def comes_after(place: Place, before: Place) -> bool:
    """Return whether a step at a place may follow one at another: a run goes through its batches in order."""
    return place > before


@final
@dataclass(frozen=True)
class StepRecord:
    """What was recorded of one optimizer step.

    Attributes:
        step: Number of the step, from 0.
        epoch: Number of the epoch, from 0: that of the last microbatch.
        position: How many batches of the epoch had been handed out when the step was made.
        batches: Example ids of each microbatch, each int64 (batch,); more than one when gradients were accumulated.
        epochs: Number of the epoch of each microbatch.
        settings: Each parameter group's learning rate and all else it says.
        modes: The model's modes at each microbatch.
        statistics: Norms and sum of the gradient that the optimizer saw, for each parameter that had one.
        random: torch's random state before each microbatch; None where it goes on from the microbatch before.
        after: torch's random state after the step where it does not follow from ``random``; else None.
        buffers: For a microbatch, by name the buffers that something other than the calls with ``batches`` changed
            before it; under ``len(batches)``, those that it changed after the last.
        touched: Parameters that something other than the optimizer changed in place before the step.
    """

    step: int
    epoch: int
    position: int
    batches: tuple[Tensor, ...]
    epochs: tuple[int, ...]
    settings: tuple[GroupSettings, ...]
    modes: tuple[Modes, ...]
    statistics: GradientTable
    random: tuple[RandomState | None, ...]
    after: RandomState | None = None
    buffers: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)
    touched: tuple[str, ...] = ()

    @cached_property
    def updated(self) -> frozenset[str]:
        """Names of the parameters that had a gradient; torch skipped the others."""
        return frozenset(self.statistics.names)
