"""The table of difficulty scores agrees with scikit-learn's and SciPy's measures."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from whence._errors import ArgumentError, ShapeError
from whence.evaluation import difficulty


@pytest.mark.parametrize("ties", [False, True])
def test_the_measures_are_those_of_low_scores_for_the_misclassified(ties: bool) -> None:
    rng = np.random.default_rng(0)
    score, loss, wrong = rng.normal(size=80), rng.normal(size=80), rng.random(80) < 0.2
    score = np.round(score) if ties else score
    table = difficulty({"mine": score}, wrong, loss, resamples=50)
    assert table.value("mine", "AUROC").estimate == pytest.approx(roc_auc_score(wrong, -score))
    assert table.value("mine", "AUPR").estimate == pytest.approx(average_precision_score(wrong, -score))
    assert table.value("mine", "Spearman").estimate == pytest.approx(spearmanr(score, -loss).statistic)
    low, high = table.value("mine", "AUROC")[1:]
    assert low < table.value("mine", "AUROC").estimate < high


def test_a_score_below_0_for_exactly_the_misclassified_is_perfect() -> None:
    loss = np.array([0.1, 3.0, 0.2, 2.0])
    table = difficulty({"margin": -loss + 1}, loss > 1, loss, resamples=50)
    assert [table.value("margin", one).estimate for one in ("AUROC", "AUPR", "Spearman")] == pytest.approx([1, 1, 1])
    assert "share misclassified 0.5" in str(table)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ArgumentError, match="0 of 4 misclassified"):
        difficulty({"one": np.zeros(4)}, np.zeros(4, dtype=bool), np.zeros(4))
    with pytest.raises(ShapeError, match="one number an example"):
        difficulty({"one": np.zeros(3)}, np.ones(4, dtype=bool), np.zeros(4))
