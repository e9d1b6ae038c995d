"""Devices that a caller names."""

from __future__ import annotations

import torch

from whence._errors import ArgumentError


def as_device(given: torch.device | str | None) -> torch.device:
    """Return a device; the CPU where none is given.

    Raises:
        ArgumentError: If torch has no such device here.
    """
    try:
        device = torch.device("cpu" if given is None else given)
        torch.empty(0, device=device)
    except (RuntimeError, TypeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ArgumentError(
            f"torch has no device {given!r} here: {reason}. Give 'cpu', or 'cuda' where there is a GPU."
        ) from error
    return device
