"""The command line of Whence."""

from whence.cli.priors import app

__all__ = ["app"]
