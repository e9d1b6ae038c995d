"""What an audit gives: influences, their completeness, and top lists read row by row."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
import xarray as xr
from jaxtyping import Float

from whence._errors import ArgumentError, AuditError, LabelError
from whence._numbers import even_parts, is_whole

_SUM_ERROR = 1e-3  # relative to the sizes of the influences; sums of float32 numbers agree far better
_AT_ONCE = 2**24  # influences in memory at once


@final
@dataclass(frozen=True)
class Completeness:
    """How closely the shares add up to the true change (path-integrated loss-gradient kernels, section 5.3).

    Attributes:
        true_change: What the quantity really changed by over the run, dims ``("target",)``.
        reconstructed: Sum of all influences and residuals, dims ``("target",)``.
        residual: What no example did, dims ``("target", "source")``: what became of the initial parameters (through
            weight decay) and of the initial optimizer state, what normalisation buffers did, and what gradients did
            that were nothing but rounding (of a bias right before a batch normalisation, say).
    """

    true_change: xr.DataArray
    reconstructed: xr.DataArray
    residual: xr.DataArray

    @property
    def error(self) -> xr.DataArray:
        """What is left unexplained of each target's change, dims ``("target",)``: true minus reconstructed."""
        return (self.true_change - self.reconstructed).rename("error")

    @property
    def mean_error(self) -> float:
        """Mean reconstruction error (definition 12): mean over targets of |error|, in the quantity's unit."""
        return float(np.abs(self.error).mean())

    @property
    def correlation(self) -> float:
        """Correlation over targets of true and reconstructed change (definition 13); nan without spread."""
        true, ours = self.true_change.values.astype(np.float64), self.reconstructed.values.astype(np.float64)
        if true.size < 2 or not (np.ptp(true) and np.ptp(ours)):
            return float("nan")
        return float(np.corrcoef(true, ours)[0, 1])

    def __str__(self) -> str:
        """Say in one line how complete the audit is."""
        unit = self.true_change.attrs.get("unit", "")
        change = float(np.abs(self.true_change).mean())
        count = self.true_change.size
        return (
            f"{count} target{'' if count == 1 else 's'}: mean error {self.mean_error:.3g} {unit}, "
            f"mean change {change:.3g}, correlation {self.correlation:.9f}"
        )


@final
@dataclass(frozen=True)
class Audit:
    """The complete decomposition of what a run did to each target's quantity.

    Attributes:
        data: Everything as one ``xarray.Dataset``, in memory or read lazily from Zarr. Variables: ``influence``
            (target, train, and the axes asked for), ``profile`` (target, layer, epoch; summed over training
            examples), ``true_change`` (target), ``residual`` (target, source), ``course`` and ``explained`` (target,
            point: the quantity, and the explained part of its change, at the start and after each epoch),
            ``step_error`` (step: mean over targets of its absolute error). Coordinates besides the ids: ``example``
            and ``class`` of each target, ``target_label``, ``prediction``, ``train_label``.
    """

    data: xr.Dataset

    @property
    def influence(self) -> xr.DataArray:
        """Each example's share of the change of each target's quantity, dims ``("target", "train", *by)``.

        The unit is in ``attrs["unit"]``. Negative on a loss = the example helped. With ``by`` holding ``"label"``
        the second dimension is ``"label"`` in place of ``"train"``.
        """
        return self.data["influence"]

    @property
    def profile(self) -> xr.DataArray:
        """Influence summed over all training examples, dims ``("target", "layer", "epoch")``."""
        return self.data["profile"]

    @property
    def unit(self) -> str:
        """What an influence of 1 means."""
        return str(self.data.attrs["unit"])

    @property
    def helps(self) -> int:
        """Sign of an influence that helped: -1 for a loss, +1 for a logit, a probability or a callable."""
        return int(self.data.attrs["helps"])

    @cached_property
    def completeness(self) -> Completeness:
        """The measured proof: true against reconstructed change per target. Reads the influences once."""
        summed = _sum_all_but_target(self.influence, self.profile)
        residual = self.data["residual"]
        reconstructed = (summed + residual.sum("source")).rename("reconstructed")
        return Completeness(self.data["true_change"], reconstructed, residual)

    def total(self, target: Any) -> xr.DataArray:
        """Influence of every training example on one target, dims ``("train",)``; reads that target's row alone.

        Raises:
            LabelError: If there is no such target.
            AuditError: If the training examples were grouped by label, so that none can be told apart.
        """
        if "train" not in self.influence.dims:
            raise AuditError(
                f"This audit has the dimensions {self.influence.dims}: its training examples were summed by label. "
                "Audit again without 'label' in `by` to rank single examples."
            )
        position = self._position(target)
        row = read(self.influence.isel(target=[position]))
        check(row, self.profile.isel(target=[position]))
        return row[0].sum([dim for dim in row[0].dims if dim != "train"], keep_attrs=True)

    def helpful(self, target: Any, k: int = 25) -> xr.DataArray:
        """Return the ``k`` training examples that helped a target most, best first, dims ``("train",)``.

        Args:
            target: Id of the target, as in ``influence.coords["target"]``.
            k: How many to list; all of them if there are fewer.

        Raises:
            LabelError: If there is no such target.
            ArgumentError: If ``k`` is not positive.
            AuditError: If the training examples were grouped by label.
        """
        return self._top(target, k, self.helps)

    def harmful(self, target: Any, k: int = 25) -> xr.DataArray:
        """Return the ``k`` training examples that harmed a target most, worst first, dims ``("train",)``.

        Args:
            target: Id of the target, as in ``influence.coords["target"]``.
            k: How many to list; all of them if there are fewer.

        Raises:
            LabelError: If there is no such target.
            ArgumentError: If ``k`` is not positive.
            AuditError: If the training examples were grouped by label.
        """
        return self._top(target, k, -self.helps)

    def save(self, path: str | Path) -> None:
        """Write the audit as a Zarr group at ``path``, whole or not at all.

        Raises:
            AuditError: If something stands at ``path`` already.
            DiskError: If the disk is full or refuses to write.
        """
        from whence.audit.storage import save_dataset

        save_dataset(self.data, Path(path))

    def _top(self, target: Any, k: int, sign: int) -> xr.DataArray:
        return strongest(self.total(target), k, sign)

    def _position(self, target: Any) -> int:
        return position(self.influence, target, "audited", "audit.influence")


def strongest(row: xr.DataArray, k: int, sign: int) -> xr.DataArray:
    """Return the ``k`` entries of ``row``, dims ``("train",)``, that are largest after multiplication with ``sign``.

    Raises:
        ArgumentError: If ``k`` is no positive whole number.
    """
    if not is_whole(k) or k < 1:
        raise ArgumentError(f"`k` must be a whole number, at least 1, to list training examples; got {k!r}.")
    values: Float[np.ndarray, "train"] = row.values * sign
    k = min(k, values.size)
    found = np.argpartition(-values, k - 1)[:k]
    return row.isel(train=found[np.argsort(-values[found], kind="stable")])


def position(scores: xr.DataArray, target: Any, done: str, name: str) -> int:
    """Return where a target stands along the dimension ``"target"``.

    Args:
        scores: What has that dimension.
        target: The target's id.
        done: What was done with the targets, and
        name: what the array is called, for the message.

    Raises:
        LabelError: If there is no such target.
    """
    known = scores.coords["target"].values
    found = np.flatnonzero(known == target)
    if found.size == 0:  # an id as text, such as "17", also names target 17
        found = np.flatnonzero(known.astype(str) == str(target))
    if found.size == 0:
        near = " or ".join(difflib.get_close_matches(str(target), [str(one) for one in known])) or "none is close"
        raise LabelError(
            f"No target id {target!r} among the {known.size} {done} (similar: {near}). See {name}.coords['target']."
        )
    return int(found[0])


def _sum_all_but_target(influence: xr.DataArray, profile: xr.DataArray) -> xr.DataArray:
    """Sum in float64, some targets in memory at a time, so that an audit larger than memory can be checked."""
    targets = influence.sizes["target"]
    rows = max(1, _AT_ONCE * targets // max(1, influence.size))
    sums = []
    for part in even_parts(range(targets), rows):
        chosen = slice(part.start, part.stop)
        sums.append(check(read(influence.isel(target=chosen)), profile.isel(target=chosen)))
    coords = {"target": influence.coords["target"]}
    return xr.DataArray(np.concatenate(sums), coords, ("target",), attrs=influence.attrs)


def read(array: xr.DataArray) -> xr.DataArray:
    """Read an array that may be on disk.

    Raises:
        AuditError: If its file is damaged.
    """
    try:
        return array.load()
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise AuditError(
            f"Influences on disk cannot be read: {error}. Restore the audit's folder or audit again."
        ) from error


def check(rows: xr.DataArray, profile: xr.DataArray) -> Float[np.ndarray, " targets"]:
    """Compare targets' influences with their sums, which are kept apart, and return the sums.

    Raises:
        AuditError: If they do not agree: a file of the audit is missing or altered.
    """
    ours, theirs = (one.transpose("target", ...).values.reshape(one.sizes["target"], -1) for one in (rows, profile))
    found, kept = ours.sum(1, dtype=np.float64), theirs.sum(1, dtype=np.float64)
    size = np.abs(ours).sum(1, dtype=np.float64) + np.abs(theirs).sum(1, dtype=np.float64)
    wrong = np.flatnonzero(~(np.abs(found - kept) <= _SUM_ERROR * size))  # also where one is not a number
    if wrong.size:
        first = wrong[0]
        raise AuditError(
            f"The influences on target {rows.coords['target'][first].item()} add up to {found[first]:.6g}, but "
            f"{kept[first]:.6g} was kept of them: files of the audit are missing or altered. Restore its folder, or "
            "audit again."
        )
    return np.asarray(found)
