"""Which examples to remove for a result, what that is predicted to change, and what it changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import xarray as xr

from whence._errors import ArgumentError
from whence._numbers import is_whole
from whence.counterfactual.check import Check
from whence.counterfactual.check import check as train_again
from whence.counterfactual.question import in_order


@final
@dataclass(frozen=True)
class Removals:
    """For each result, the examples whose removal would improve it most.

    Attributes:
        data: Variables ``predicted`` and, if it was checked, ``retrained``, dims ``("target",)``; unit in ``attrs``.
        ids: The examples of each result, most improving first.
        check: The trainings again, or None.
    """

    data: xr.Dataset
    ids: tuple[tuple[int, ...], ...]
    check: Check | None

    def facts(self, plain: bool) -> dict[str, Any]:
        """Return what is to be told: one line a result, or everything as JSON's types if ``plain``."""
        names, unit = self.data.coords["target"].values, str(self.data.attrs["unit"])
        rows = []
        for place, name in enumerate(names):
            row = {"target": name.item() if hasattr(name, "item") else name, "removed": list(self.ids[place])}
            row |= {str(kind): float(self.data[kind][place]) for kind in self.data.data_vars}
            rows.append(row)
        told = {} if self.check is None else {"check": str(self.check)}
        if plain:
            return {"unit": unit, "results": rows, **told}
        lines: dict[str, Any] = {}
        for row in rows:
            retrained = f", retrained {row['retrained']:+.3g}" if "retrained" in row else ""
            ids = ", ".join(map(str, row["removed"][:10])) + (", ..." if len(row["removed"]) > 10 else "")
            count = len(row["removed"])
            lines[f"target {row['target']}"] = (
                f"without {count} example{'' if count == 1 else 's'} ({ids}): predicted {row['predicted']:+.3g} "
                f"{unit}{retrained}"
            )
        return {**lines, **told}


def removals(effects: xr.DataArray, k: int, *, seeds: int = 1, check: bool = False, **options: Any) -> Removals:
    """Choose, for each result, the ``k`` examples whose removal is predicted to improve it most.

    Args:
        effects: What `whence.counterfactual` returned.
        k: How many; fewer where fewer would improve it.
        seeds: Random sets to check beside each.
        check: Whether to train again without each set.
        options: Of `whence.check`.

    Raises:
        ArgumentError: If ``k`` is not between 1 and the number of training examples.
    """
    effects = in_order(effects)
    count = effects.sizes["train"]
    if not is_whole(k) or not 1 <= k <= count:
        raise ArgumentError(
            f"Between 1 and {count} training examples can be removed (as many as there are); got {k!r}."
        )
    better = effects.values * effects.attrs["helps"]  # positive where removal improves
    orders = np.argsort(-better, axis=1, kind="stable")[:, :k]
    ids = tuple(
        tuple(int(one) for one in order if row[one] > 0) or (int(order[0]),)
        for order, row in zip(orders, better, strict=True)
    )
    predicted = [float(row[list(one)].sum()) for row, one in zip(effects.values, ids, strict=True)]
    found: dict[str, Any] = {"predicted": ("target", predicted)}
    checked = train_again(effects, ids, seeds=seeds, **options) if check else None
    if checked is not None:
        found["retrained"] = ("target", np.diagonal(checked.data["retrained"].values[: len(ids)]).copy())
    unit = str(effects.attrs["unit"]).removesuffix(" if the example is removed")
    data = xr.Dataset(found, {"target": effects.coords["target"].values}, {"unit": unit})
    return Removals(data, ids, checked)
