"""Every error Whence raises, under one root.

WhenceError
├── DataError               training or target data of a kind Whence cannot read
│   ├── RandomDataError     the same index gives a different example each time
│   └── ChangedDataError    the data is not the data of the recorded run
├── RecordingError          the training loop did something that cannot be recorded
│   ├── UnsupportedOptimizerError
│   ├── UnsupportedLossError
│   ├── UnsupportedLoaderError
│   ├── RunExistsError      something stands at the path already
│   └── DiskError           the disk is full or refuses to write
├── RunError                a run on disk that cannot be used as asked
│   ├── RunNotFoundError
│   ├── RunFormatError      a file of the run is not what its format says
│   ├── ModelMismatchError  the run was recorded with another model
│   ├── SnapshotError       a snapshot is truncated, altered or missing
│   └── ReplayError         walking the run again did not give what was recorded
├── GradientError           per-example gradients of this model cannot be formed
├── HeadMemoryError         the memory does not hold an index head over so many examples
├── AuditError              an audit cannot be made, saved, resumed or read as asked
├── AttackError             an attack found fewer adversarial inputs than asked for
├── UnreachedError          no sample of a prior took the value asked for
├── ArgumentError           an argument is outside what a function accepts (also a ValueError)
├── LabelError              no such id along an axis (also a KeyError)
├── ShapeError              an array has the wrong shape (also a ValueError)
└── MissingExtraError       an optional dependency is not installed (also an ImportError)

Each message says what is wrong, what was given, and what to do next.
"""

from typing import Any


class WhenceError(Exception):
    """Root of every error that Whence raises on purpose."""


class DataError(WhenceError):
    """Training or target data is of a kind that Whence cannot read."""


class RandomDataError(DataError):
    """The same index of a dataset gives a different example each time."""


class ChangedDataError(DataError):
    """The data is not the data with which the run was recorded."""


class RecordingError(WhenceError):
    """The training loop did something that cannot be recorded."""


class UnsupportedOptimizerError(RecordingError):
    """The optimizer, or an option of it, is not one that Whence can walk again."""


class UnsupportedLossError(RecordingError):
    """The loss is not a mean or a sum of one loss per example."""


class UnsupportedLoaderError(RecordingError):
    """The loader does not say which examples form a batch."""


class RunExistsError(RecordingError):
    """Something stands at the path of the run already."""


class DiskError(RecordingError):
    """The disk is full, or refuses to write."""


class RunError(WhenceError):
    """A run on disk cannot be used as asked."""


class RunNotFoundError(RunError):
    """There is no run at the path."""


class RunFormatError(RunError):
    """A file of the run is not what its format says."""


class ModelMismatchError(RunError):
    """The run was recorded with another model."""


class SnapshotError(RunError):
    """A snapshot is truncated, altered or missing."""


class ReplayError(RunError):
    """Walking the run again did not give what was recorded."""


class GradientError(WhenceError):
    """Per-example gradients of this model cannot be formed."""


class HeadMemoryError(WhenceError):
    """The device's memory does not hold what an index head needs over so many examples."""


class AuditError(WhenceError):
    """An audit cannot be made, saved, resumed or read as asked."""


class AttackError(WhenceError):
    """An attack found fewer adversarial inputs than asked for."""


class UnreachedError(WhenceError):
    """No sample of a prior reached the value that it was to take.

    Attributes:
        found: The `InvariantSet` with all of them, as near as they came.
    """

    def __init__(self, message: str, found: Any) -> None:
        super().__init__(message)
        self.found = found


class ArgumentError(WhenceError, ValueError):
    """An argument is outside what a function accepts."""


class LabelError(WhenceError, KeyError):
    """No such id along an axis."""

    def __str__(self) -> str:
        """Return the message itself (``KeyError`` would quote it)."""
        return str(self.args[0]) if self.args else ""


class ShapeError(WhenceError, ValueError):
    """An array has the wrong shape."""


class MissingExtraError(WhenceError, ImportError):
    """An optional dependency is not installed."""
