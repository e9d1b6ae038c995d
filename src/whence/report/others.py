"""What other methods say of the targets on the page: their lists of training examples, beside the audit's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import xarray as xr

from whence.attribution import harmful, helpful
from whence.report.listed import Ranking, entries


@final
@dataclass(frozen=True)
class Ranked:
    """The lists of one method for one target.

    Attributes:
        key: Unique in the page.
        name: What the method is called.
        note: What its scores are, and how far its lists are the audit's.
        rankings: Its lists.
    """

    key: str
    name: str
    note: str
    rankings: tuple[Ranking, ...]


@final
@dataclass(frozen=True)
class Others:
    """Scores of other methods for the targets on the page.

    Attributes:
        scores: Of each method, dims ``("target", "train")``; targets are those shown.
        labels: Label of every training example, or None.
        names: What classes are called, if that is known.
        k: How many training examples to list.
    """

    scores: Sequence[xr.DataArray]
    labels: Any
    names: Sequence[str] | None
    k: int

    def of(self, key: str, index: int, audited: Sequence[Ranking]) -> tuple[Ranked, ...]:
        """Return every method's lists for one target.

        Args:
            key: The target's, unique in the page.
            index: The target's id.
            audited: The audit's lists for it.
        """
        return tuple(
            self._ranked(f"{key}-m{number}", index, scores, audited) for number, scores in enumerate(self.scores)
        )

    def _ranked(self, key: str, index: int, scores: xr.DataArray, audited: Sequence[Ranking]) -> Ranked:
        helps = int(scores.attrs["helps"])
        largest = float(np.abs(scores.sel(target=index)).max())
        found = []
        for kind, sign, ranked in (("helpful", helps, helpful), ("harmful", -helps, harmful)):
            row = ranked(scores, index, self.k)
            row = row[row.values * sign > 0]
            labels = None if self.labels is None else self.labels[row.coords["train"].values]
            listed = entries(row, helps, largest, labels, self.names)
            theirs = next((one.listed for one in audited if one.key.endswith(f"all-{kind}")), ())
            both = len({one.index for one in listed} & {one.index for one in theirs})
            note = f"{both} of {len(listed)} are on the audit's list." if listed else "There are none."
            found.append(Ranking(f"{key}-{kind}", f"Most {kind} examples", note, listed))
        name = str(scores.attrs["attributor"])
        note = f"Scores: {scores.attrs['unit']}; {scores.attrs['sign']}."
        return Ranked(key, name, note, tuple(found))
