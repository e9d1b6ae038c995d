"""The command line of Whence."""

from whence.cli.attacking import app

__all__ = ["app"]
