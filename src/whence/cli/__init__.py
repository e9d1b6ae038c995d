"""The command line of Whence."""

from whence.cli.evaluating import app

__all__ = ["app"]
