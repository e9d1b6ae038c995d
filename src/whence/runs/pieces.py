"""The steps of a segment, made again forwards and handed out for a walk backwards, within a budget of memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from torch import Tensor

from whence._numbers import even_parts
from whence.runs.run import Run, Segment
from whence.runs.walker import Around, ReplayedStep

Frozen = TypeVar("Frozen")


def pieces_of(
    run: Run,
    segment: Segment,
    freeze: Callable[[ReplayedStep], Frozen],
    budget: int,
    around: Callable[[], Around | None],
) -> Iterator[list[Frozen]]:
    """Yield the steps of a segment in pieces that fit the budget, the last piece first.

    A segment that fits is replayed once. A longer one is first replayed to keep where the training stood at the
    start of each piece, and then piece by piece: one more training step a step, in bounded memory.

    Args:
        run: The run.
        segment: The segment.
        freeze: What to keep of a step, with nothing in it live any more.
        budget: How many bytes to keep at once (at least one step).
        around: Makes what is entered around forward and backward passes, for each walk over steps that are kept.

    Yields:
        What was kept of the steps, in order.
    """
    steps: list[Frozen] = []
    for made in run.replay(segment.start, segment.stop, around=around()):
        steps.append(freeze(made))
        if len(steps) == 1 and size(steps[0]) * (segment.stop - segment.start) > budget:
            break
    else:
        yield steps
        return
    parts = even_parts(range(segment.start, segment.stop), budget // size(steps[0]))
    steps.clear()
    states = run.states_at([part.start for part in parts])
    for part in reversed(parts):
        again = run.replay(part.start, part.stop, around=around(), state=states.pop(part.start))
        yield [freeze(made) for made in again]


def size(tree: Any) -> int:
    """Return how many bytes the tensors of a nest of dataclasses, mappings and tuples take."""
    if isinstance(tree, Tensor):
        return tree.numel() * tree.itemsize
    if dataclasses.is_dataclass(tree):
        return sum(size(getattr(tree, one.name)) for one in dataclasses.fields(tree))
    if isinstance(tree, Mapping):
        return sum(size(value) for value in tree.values())
    if isinstance(tree, tuple | list):
        return sum(size(value) for value in tree)
    return 0
