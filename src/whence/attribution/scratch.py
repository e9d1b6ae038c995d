"""A temporary folder for libraries that keep their work on disk."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path
from typing import final


@final
class Scratch:
    """A folder that is there as long as this object is.

    Attributes:
        path: Where it is.
    """

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="whence-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
