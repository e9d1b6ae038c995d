"""The command line of Whence."""

from whence.cli.inverting import app

__all__ = ["app"]
