"""One way to show how far a long work is: on a terminal only, with the time left."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Advance = Callable[[float], None]

_shown: list[Progress] = []  # the display that is live now; nested work adds a line to it


@contextmanager
def progress(description: str, total: float | None = None) -> Iterator[Advance]:
    """Show a progress bar on standard error while the block runs.

    Args:
        description: What is being done, such as ``"replaying"``.
        total: How many units the work has; None when it is not known.

    Yields:
        A function to call with the number of units done since its last call. When standard error is not a terminal,
        or ``WHENCE_PROGRESS=0``, it does nothing.
    """
    if not _wanted():
        yield _nothing
        return
    outermost = not _shown
    if outermost:
        _shown.append(_display())
        _shown[0].start()
    display = _shown[0]
    task = display.add_task(description, total=total)
    try:
        yield lambda steps: display.advance(task, steps)
    finally:
        if outermost:
            _shown.clear()
            display.stop()
        else:
            display.remove_task(task)


def _wanted() -> bool:
    return os.environ.get("WHENCE_PROGRESS", "1") != "0" and sys.stderr.isatty()


def _nothing(_steps: float) -> None:
    """Advance nothing: nobody is looking."""


def _display() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("elapsed"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
