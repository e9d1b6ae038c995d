"""The command line of Whence."""

from whence.cli.attributing import app

__all__ = ["app"]
