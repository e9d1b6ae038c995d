"""Walk a whole run and compare."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from whence._errors import SnapshotError
from whence._progress import progress
from whence.runs.landing import check_landing

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
    """Walk a run from its first snapshot to its end; see :meth:`Run.verify`.

    Raises:
        SnapshotError: If a snapshot is damaged and ``repair`` is False, or it is the first.
        ReplayError: If the run cannot be walked again.
    """
    kept = run.snapshots.steps()
    repaired: list[int] = []
    landings = []
    walker = run.walker_at(0, run.snapshots.load(0))
    last = 0
    with progress("walking the run again", run.steps) as advance:
        for step in range(run.steps):
            record = run.record_of(step)
            walker.step(record)
            advance(1)
            if step + 1 not in kept:
                continue
            try:
                landing = run.land(walker, last, step + 1)
            except SnapshotError:
                if not repair:
                    raise
                run.snapshots.save(step + 1, walker.state())
                repaired.append(step + 1)
                landing = run.land(walker, last, step + 1)
            check_landing(landing, last, step + 1, {step: record.touched} if record.touched else {})
            landings.append(landing)
            last = step + 1
            walker = run.walker_at(last, run.snapshots.load(last))
    return Verification(
        steps=run.steps,
        snapshots=len(landings),
        exact=sum(landing.exact for landing in landings),
        deviation=max((landing.deviation for landing in landings), default=0.0),
        repaired=tuple(repaired),
    )
