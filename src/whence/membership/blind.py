"""What inputs alone say about membership: a control that never sees the model."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from whence._errors import ArgumentError, ShapeError
from whence._numbers import is_whole

_COMPONENTS = 50  # of the inputs' principal components

Scores = tuple[Float[np.ndarray, " members"], Float[np.ndarray, " others"]]


def blind_control(members: Any, nonmembers: Any, *, folds: int = 5, seed: int = 0) -> Scores:
    """Score members and non-members by their inputs alone, each by a classifier that was not fitted on it.

    Where this does well, members and non-members differ in kind, and a score of a model may show no more than that:
    published evaluations of membership were beaten so (Das, Zhang and Tramèr, 2024). Give the result to
    `whence.evaluation.membership_table` as ``blind``.

    The classifier is scikit-learn's histogram gradient boosting on the first 50 principal components of the inputs,
    both fitted within each fold. It needs tens of examples of a kind to learn from; with fewer it says nothing.

    Args:
        members: Inputs of the training set, or a sample of them, any shape after the first axis.
        nonmembers: Inputs that were not in it.
        folds: Into how many parts the examples are cut.
        seed: Of the cut and the classifier.

    Returns:
        A score (log-odds; higher = more likely a member) for each member, and for each non-member, in their order.

    Raises:
        ShapeError: If shapes differ after the first axis.
        ArgumentError: If ``folds`` is no whole number, at least 2, there are fewer examples of a kind, or a number is
            not finite.
    """
    if not is_whole(folds) or folds < 2:
        raise ArgumentError(f"`folds` must be a whole number, at least 2; got {folds!r}.")
    kinds = [_flat(one, what, folds) for one, what in ((members, "Members"), (nonmembers, "Non-members"))]
    if kinds[0].shape[1:] != kinds[1].shape[1:]:
        shapes = " and ".join(str(tuple(np.shape(one))) for one in (members, nonmembers))
        raise ShapeError(f"Members and non-members must agree after the first axis; got {shapes}.")
    from sklearn.model_selection import StratifiedKFold  # here, as it takes long to import

    inputs, labels = np.concatenate(kinds), np.repeat([1, 0], [len(one) for one in kinds])
    found = np.empty(len(labels))
    for seen, left_out in StratifiedKFold(folds, shuffle=True, random_state=seed).split(inputs, labels):
        classifier = _classifier(min(_COMPONENTS, inputs.shape[1], len(seen)), seed)
        found[left_out] = classifier.fit(inputs[seen], labels[seen]).decision_function(inputs[left_out])
    return found[: len(kinds[0])], found[len(kinds[0]) :]


def _classifier(components: int, seed: int) -> Any:
    from sklearn.decomposition import PCA
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import make_pipeline

    return make_pipeline(
        PCA(components, random_state=seed), HistGradientBoostingClassifier(early_stopping=False, random_state=seed)
    )


def _flat(given: Any, what: str, least: int) -> NDArray[np.float64]:
    own = np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given, dtype=np.float64)
    if own.ndim == 0 or len(own) < least or own.size == 0:
        count = 0 if own.ndim == 0 or own.size == 0 else len(own)
        raise ArgumentError(f"{what} must be at least as many as `folds`, {least}; got {count}.")
    if not np.isfinite(own).all():
        raise ArgumentError(f"{what} must hold finite numbers; {int((~np.isfinite(own)).sum())} are not.")
    return own.reshape(len(own), -1)
