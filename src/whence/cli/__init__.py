"""The command line of Whence."""

from whence.cli.tracing import app

__all__ = ["app"]
