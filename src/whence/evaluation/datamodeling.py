"""Linear datamodeling score: do summed scores rank real trainings as their losses do?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray

from whence._errors import ShapeError
from whence._statistics import mean_interval, rank_correlations
from whence.evaluation.inputs import as_help, named
from whence.evaluation.table import Table, table_of
from whence.evaluation.truth import OF_RUN, Truth


def linear_datamodeling_score(truth: Truth, scores: xr.DataArray | Mapping[str, xr.DataArray]) -> Table:
    """Correlate summed scores with the losses of real trainings (Ilyas et al., 2022; TRAK, section 2).

    For each target: Spearman's rank correlation, over sets, of minus the sum of the scores of the examples that took
    part and of the target's loss. A target for which the sums are all alike counts as 0; one whose losses are all
    alike is left out.

    Args:
        truth: Of `subset_losses` (another seed each time) or `removal_losses` (the same run without some).
        scores: Of an attributor, for the targets of the truth in their order; or several, by name.

    Returns:
        A row a method, mean over targets; 1 = ranked as the losses, 0 = no relation. The interval is a bootstrap over
        targets: it does not know of other sets.

    Raises:
        ArgumentError: If these are no scores.
        ShapeError: If they are not of the truth's targets and training examples.

    Examples:
        >>> kept = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1]], dtype=bool)
        >>> effect = np.array([[3.0, 2.0, 1.0]])
        >>> from whence.evaluation.truth import truth_of
        >>> truth = truth_of(kept, -(kept @ effect.T))
        >>> scores = xr.DataArray(effect, dims=("target", "train"), attrs={"helps": 1})
        >>> linear_datamodeling_score(truth, scores).value("scores", "score").estimate
        1.0
    """
    kept, losses = truth.data["kept"].values, truth.data["loss"].values
    found = {}
    for name, one in named(scores, "scores").items():
        help_ = as_help(one)
        if help_.shape != (losses.shape[1], kept.shape[1]):
            raise ShapeError(
                f"Scores {name!r} are of {help_.shape[0]} targets and {help_.shape[1]} training examples; the truth is "
                f"of {losses.shape[1]} and {kept.shape[1]}. Score the targets that it was made with, all of them."
            )
        found[name] = mean_interval(agreements(help_, kept, losses))
    table = table_of(
        [[one] for one in found.values()],
        ("method", list(found)),
        ("measure", ["score"]),
        title=f"Linear datamodeling score, {len(kept)} trainings ({truth.data.attrs['protocol']})",
        measure=f"mean rank correlation over {losses.shape[1]} targets",
        interval="over targets",
    )
    which = {name: truth.data.attrs[name] for name in OF_RUN if name in truth.data.attrs}
    return Table(table.data.assign_attrs(which))


def agreements(
    help_: Float[np.ndarray, "targets train"],
    kept: NDArray[np.bool_],
    losses: Float[np.ndarray, "sets targets"],
) -> Float[np.ndarray, " targets"]:
    """Return each target's rank correlation over sets of predicted and real losses.

    Args:
        help_: Scores, positive = helps.
        kept: Which examples took part, (sets, train).
        losses: Of the targets.
    """
    predicted = -(kept.astype(np.float64) @ help_.T.astype(np.float64))
    found = rank_correlations(predicted, losses)
    idle = (predicted == predicted[0]).all(0) & ~(losses == losses[0]).all(0)
    return np.where(idle, 0.0, found)
