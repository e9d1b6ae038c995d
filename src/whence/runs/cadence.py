"""When to write a snapshot, and which to give up when the disk budget is reached."""

import time
from typing import Literal, final

from whence._errors import ArgumentError
from whence._numbers import is_whole
from whence.runs.snapshots import Snapshots, TrainingState

_FIRST_SPACING = 16  # steps
_SHARE = 0.04  # of training time that snapshots may take in "auto"; the rest of 10 % is for the steps


@final
class Cadence:
    """Write snapshots every so many steps, within a budget.

    Args:
        snapshots: Where they are written.
        every: The spacing in steps. With ``"auto"`` it begins at 16 and doubles while writing takes more than 4 % of
            the time.
        budget: Bytes that all snapshots may take. When they take more, the spacing doubles and the snapshots between
            are deleted, never the first.

    Raises:
        ArgumentError: If the spacing or budget is not positive.
    """

    def __init__(self, snapshots: Snapshots, every: int | Literal["auto"], budget: int) -> None:
        automatic = every == "auto"
        if not automatic and (not isinstance(every, int) or isinstance(every, bool) or every < 1):
            raise ArgumentError(f'snapshot_every must be "auto" or a number of steps from 1; got {every!r}.')
        if not is_whole(budget) or budget < 1:
            raise ArgumentError(f"disk_budget is a whole number of bytes, at least 1; got {budget!r}.")
        self.spacing = _FIRST_SPACING if every == "auto" else every
        self._snapshots = snapshots
        self._automatic = automatic
        self._budget = budget
        self._since = 0.0
        self._sizes: dict[int, int] = {}

    def begin(self) -> None:
        """Take note of the snapshots there are, and of the time."""
        self._sizes = {step: self._snapshots.path(step).stat().st_size for step in self._snapshots.steps()}
        self._since = time.perf_counter()

    def due(self, step: int) -> bool:
        """Return whether a snapshot belongs before step ``step``."""
        return step % self.spacing == 0

    def has(self, step: int) -> bool:
        """Return whether there is a snapshot before step ``step``."""
        return step in self._sizes

    def write(self, step: int, state: TrainingState) -> None:
        """Write a snapshot; then make the spacing wider if time or disk ask for it.

        Raises:
            DiskError: If it cannot be written.
        """
        began = time.perf_counter()
        self._sizes[step] = self._snapshots.save(step, state)
        ended = time.perf_counter()
        if self._automatic and step and self.due(step):
            training = began - self._since
            while ended - began > _SHARE * training:
                self.spacing *= 2
                training *= 2
        self._since = time.perf_counter()
        self._thin(step)

    def _thin(self, newest: int) -> None:
        while sum(self._sizes.values()) > self._budget and len(self._sizes) > 2:
            self.spacing *= 2
            for step in [kept for kept in self._sizes if kept % self.spacing and kept != newest]:
                self._snapshots.delete(step)
                del self._sizes[step]
