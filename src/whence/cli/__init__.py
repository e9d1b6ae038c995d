"""The command line of Whence."""

from whence.cli.commands import app

__all__ = ["app"]
