"""Devices that a caller names."""

from __future__ import annotations

import torch

from whence._errors import ArgumentError


def as_device(given: torch.device | str | None) -> torch.device:
    """Return a device; the CPU where none is given.

    Raises:
        ArgumentError: If torch has no such device here.
    """
    if given is not None and not isinstance(given, str | torch.device):
        raise ArgumentError(f"A device is 'cpu', 'cuda' or another that torch names; got {given!r}.")
    try:
        device = torch.device("cpu" if given is None else given)
        torch.zeros(1, device=device).item()  # one without data, such as "meta", has no numbers to give
    except (RuntimeError, ImportError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ArgumentError(
            f"torch has no device {str(given)!r} here: {reason}. Give 'cpu', or 'cuda' where there is a GPU."
        ) from error
    return device
