"""Walk a whole run and compare."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from whence._errors import SnapshotError
from whence._progress import progress
from whence.runs.landing import Landing

if TYPE_CHECKING:
    from whence.runs.run import Run


@final
@dataclass(frozen=True)
class Verification:
    """How a run was walked again.

    Attributes:
        steps: Steps made again.
        snapshots: Snapshots at which the walk arrived.
        exact: How many of these it met bit by bit.
        deviation: The largest miss, as a share of the way between two snapshots.
        repaired: Snapshots that were written anew, by their steps.
    """

    steps: int
    snapshots: int
    exact: int
    deviation: float
    repaired: tuple[int, ...]


def verify(run: "Run", *, repair: bool) -> Verification:
    """Walk a run from its first snapshot to its end; see `Run.verify`.

    Raises:
        SnapshotError: If a snapshot is damaged and ``repair`` is False, or it is the first.
        ReplayError: If the run cannot be walked again.
    """
    repaired: list[int] = []
    landings: list[Landing] = []

    def arrive(start: int, stop: int) -> None:
        try:
            landings.append(run.land(start, stop))
        except SnapshotError:
            if not repair:
                raise
            run.rewrite_snapshot(stop)
            repaired.append(stop)
            landings.append(run.land(start, stop))

    with progress("walking the run again", run.steps) as advance:
        for _ in run.walk(0, run.steps, None, arrive):
            advance(1)
    return Verification(
        steps=run.steps,
        snapshots=len(landings),
        exact=sum(landing.exact for landing in landings),
        deviation=max((landing.deviation for landing in landings), default=0.0),
        repaired=tuple(repaired),
    )
