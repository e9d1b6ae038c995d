"""Scores of training examples for targets: labelled, with unit and sign, on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from whence._errors import ArgumentError, ShapeError
from whence.audit.result import position, strongest
from whence.audit.storage import load_array, save_array

FORMAT = 1
_VARIABLE = "score"


def label(
    values: Float[Tensor, "targets train"] | Float[np.ndarray, "targets train"],
    targets: Sequence[Any] | NDArray[Any],
    train: Sequence[Any] | NDArray[Any],
    *,
    attributor: str,
    unit: str,
    helps: int,
    extra: Mapping[str, Any] | None = None,
) -> xr.DataArray:
    """Label scores.

    Args:
        values: One score per (target, training example).
        targets, train: Ids along each axis.
        attributor: What gave the scores.
        unit: What a score of 1 means.
        helps: Sign of a score that speaks for the example as a help to the target: 1 or -1.
        extra: More that the result should say of itself.

    Raises:
        ArgumentError: If ``helps`` is neither 1 nor -1.
        ShapeError: If there is not one id per row and column.
    """
    if helps not in {1, -1}:
        raise ArgumentError(f"`helps` is the sign of a score that helps, 1 or -1; got {helps!r}.")
    found = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    expected = (len(targets), len(train))
    if found.shape != expected:
        raise ShapeError(f"Scores need shape {expected}, one row a target; got {found.shape}.")
    sign = "positive" if helps > 0 else "negative"
    attrs = {
        "attributor": attributor,
        "unit": unit,
        "helps": helps,
        "sign": f"{sign} = the example helped the target",
        **(extra or {}),
    }
    return xr.DataArray(
        found, {"target": np.asarray(targets), "train": np.asarray(train)}, ("target", "train"), _VARIABLE, attrs
    )


def save_scores(scores: xr.DataArray, path: str | Path) -> None:
    """Write scores as a Zarr group at ``path``, whole or not at all.

    Raises:
        ArgumentError: If these are no scores, or a file stands where the folder of ``path`` would be.
        AuditError: If something stands at ``path`` already.
        DiskError: If the disk is full or refuses to write.
    """
    save_array(scores, _VARIABLE, Path(path), format=FORMAT)


def load_scores(path: str | Path) -> xr.DataArray:
    """Open saved scores; they stay on disk until they are read.

    Raises:
        AuditError: If there are no scores at ``path``, or some of another format.
    """
    return load_array(Path(path), _VARIABLE, format=FORMAT, what="scores", writer="save_scores")


def helpful(scores: xr.DataArray, target: Any, k: int = 25) -> xr.DataArray:
    """Return the scores of the ``k`` training examples that helped a target most, best first, dims ``("train",)``.

    Args:
        scores: As `whence.attribution.attribute` gives them.
        target: Id of the target.
        k: How many to list; all of them if there are fewer.

    Raises:
        LabelError: If there is no such target.
        ArgumentError: If ``k`` is not positive, or these are no scores that say which sign helps.

    Examples:
        >>> scores = label(np.array([[3.0, -1.0, 2.0]]), [7], [0, 1, 2], attributor="mine", unit="points", helps=1)
        >>> helpful(scores, 7, k=2).train.values.tolist()
        [0, 2]
    """
    return _ranked(scores, target, k, 1)


def harmful(scores: xr.DataArray, target: Any, k: int = 25) -> xr.DataArray:
    """Return the scores of the ``k`` training examples that harmed a target most, worst first, dims ``("train",)``.

    Args:
        scores: As `whence.attribution.attribute` gives them.
        target: Id of the target.
        k: How many to list; all of them if there are fewer.

    Raises:
        LabelError: If there is no such target.
        ArgumentError: If ``k`` is not positive, or these are no scores that say which sign helps.
    """
    return _ranked(scores, target, k, -1)


def check_scores(scores: Any) -> None:
    """Refuse what are no scores, or scores that do not say which sign helps.

    Raises:
        ArgumentError: If they are none.
    """
    labelled = isinstance(scores, xr.DataArray)
    if labelled and scores.dims == ("target", "train") and scores.attrs.get("helps") in {1, -1}:
        return
    given = f"dims {scores.dims} and {scores.attrs.get('helps')!r}" if labelled else type(scores).__name__
    raise ArgumentError(
        "These are no scores of an attributor: they need the dims ('target', 'train') and attrs['helps'], the sign "
        f"of a help, 1 or -1; got {given}. Take them from whence.attribution.attribute, or label them with "
        "whence.attribution.label, and keep attributes in arithmetic (xarray.set_options(keep_attrs=True))."
    )


def _ranked(scores: xr.DataArray, target: Any, k: int, sign: int) -> xr.DataArray:
    check_scores(scores)
    row = scores.isel(target=position(scores, target, "scored", "scores")).load()
    return strongest(row, k, sign * int(scores.attrs["helps"]))
