"""The command line of Whence."""

from whence.cli import attributing  # noqa: F401 - its commands join the others
from whence.cli.commands import app

__all__ = ["app"]
