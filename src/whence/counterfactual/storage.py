"""Effects on disk."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from whence._errors import AuditError
from whence.audit.storage import open_group

FORMAT = 1


def load_effects(path: str | Path) -> xr.DataArray:
    """Open what `whence.counterfactual` kept at ``path``.

    Raises:
        AuditError: If there is nothing of the kind.
    """
    place = Path(path)
    found = open_group(place, "effects", "Give the path that they were kept at.")
    if "counterfactual" not in found or found["counterfactual"].attrs.get("format") != FORMAT:
        raise AuditError(
            f"{place} holds no effects of format {FORMAT}. Give the path that whence.counterfactual kept them at."
        )
    effects: xr.DataArray = found["counterfactual"]
    return effects
