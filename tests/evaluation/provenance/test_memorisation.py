"""Label mixing trades the index for the class; a training that was cut off goes on to the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.evaluation.provenance.cases import FAST, blobs, single
from whence._errors import ArgumentError, ShapeError
from whence.evaluation import Trainings, memorisation_curve
from whence.evaluation.provenance.measures import agreement, majority
from whence.evaluation.provenance.trainings import Setting, trained
from whence.provenance import Objective, ProvenanceNetwork

PLAIN = Objective(smoothing=0.0)
HOW = Trainings(40, seeds=2, objective=PLAIN, optimization=FAST)


def test_without_mixing_the_index_is_learned_and_with_all_of_it_only_the_class() -> None:
    found = memorisation_curve(single, blobs(), blobs(seed=1), HOW, mixing=[0, 0.5, 1])
    index = [found.value(one, "index, training").estimate for one in (0, 0.5, 1)]
    assert index[0] == 1.0
    assert index[0] >= index[1] > index[2]
    assert index[2] < 0.15  # a target is never the example itself: at most by chance within the class, 1 / 12
    for data in ("training", "test"):
        assert found.value(1, f"class, {data}: first").estimate == 1.0
        assert found.value(1, f"class, {data}: majority of five").estimate == 1.0
    assert found.data["estimate"].shape == (3, 7)
    drawn = found.figure().data
    assert len(drawn) == 7
    assert {one.line.dash for one in drawn} == {"solid", "dash", "dot"}  # lines that lie on each other are seen
    assert "share of mixed labels α" in str(found)


def test_any_of_five_and_majority_of_five_written_by_hand() -> None:
    kinds = np.array([[0, 1, 1, 2, 2], [0, 1, 2, 3, 0], [2, 1, 1, 1, 0], [4, -1, -1, -1, -1]])
    assert majority(kinds).tolist() == [1, 0, 1, 4]
    found = agreement(kinds, np.array([2, 0, 1, 0]))
    assert found.first.tolist() == [False, True, False, False]
    assert found.anyone.tolist() == [True, True, True, False]
    assert found.majority.tolist() == [False, True, True, False]


def test_several_trainings_at_once_give_the_same(tmp_path: Path) -> None:
    def how(processes: int, path: Path | None) -> Trainings:
        return Trainings(2, 2, PLAIN, FAST, processes=processes, path=path)

    one, two = (
        memorisation_curve(single, blobs(), blobs(seed=1), how(processes, path), mixing=[0, 1])
        for processes, path in ((1, None), (2, tmp_path))
    )
    np.testing.assert_array_equal(one.data["estimate"], two.data["estimate"])
    assert len(list(tmp_path.glob("*.npy"))) == 4


def test_intervals_of_shares_are_students_up_to_zero_and_one() -> None:
    shares = {0: [0.9, 0.3, 0.1], 1: [1.0, 0.302, 0.0]}  # of each seed
    seeds = iter(shares)
    setting = Setting("any", single, lambda _: blobs(), str, PLAIN, lambda *_: shares[next(seeds)])
    (found,) = trained([setting], Trainings(1, 2, PLAIN, FAST, processes=1))
    half = 12.7062 * 0.001  # the 97.5 % point of Student's t with one degree of freedom, times the standard error
    assert found[0] == pytest.approx((0.95, 0.95 - 50 * half, 1.0), abs=1e-5)
    assert found[1] == pytest.approx((0.301, 0.301 - half, 0.301 + half), abs=1e-5)
    assert found[2] == pytest.approx((0.05, 0.0, 0.05 + 50 * half), abs=1e-5)


class CutOffError(Exception):
    """Somebody pulled the plug."""


def test_a_call_that_was_cut_off_goes_on_and_gives_the_same(tmp_path: Path) -> None:
    data, test = blobs(each=6), blobs(each=6, seed=1)

    def how(path: Path | None, distort: Any) -> Trainings:
        return Trainings(4, 2, PLAIN, FAST, distort, processes=1, path=path)

    whole = memorisation_curve(single, data, test, how(None, Cut(None)), mixing=[0.5])
    with pytest.raises(CutOffError):
        memorisation_curve(single, data, test, how(tmp_path, Cut(6)), mixing=[0.5])
    assert len(list(tmp_path.glob("*.npy"))) == 1
    assert len(list(tmp_path.glob("unfinished-*"))) == 1
    again = Cut(None)
    found = memorisation_curve(single, data, test, how(tmp_path, again), mixing=[0.5])
    np.testing.assert_array_equal(found.data["estimate"], whole.data["estimate"])
    assert Cut.seen == 3  # of the second training's four epochs one was kept
    assert not list(tmp_path.glob("unfinished-*"))


class Cut:
    """Distorts nothing, and stops after so many batches; one of these is like the other."""

    left: int | None = None
    seen = 0

    def __init__(self, left: int | None) -> None:
        Cut.left, Cut.seen = left, 0

    def __call__(self, inputs: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return the inputs."""
        Cut.seen += 1
        if Cut.left is not None and Cut.seen >= Cut.left:
            raise CutOffError
        return inputs

    def __repr__(self) -> str:
        return "Cut()"


def test_what_cannot_be_trained_is_refused_by_name() -> None:
    with pytest.raises(ArgumentError, match=r"`mixing` must be shares from 0 to 1, at least one; got \[0, 2\]"):
        memorisation_curve(single, blobs(), blobs(), HOW, mixing=[0, 2])
    with pytest.raises(ArgumentError, match="`epochs` must be a whole number, at least 1; got 0"):
        Trainings(0)
    wrong: Any = lambda data: torch.nn.Linear(2, 2)  # noqa: E731
    with pytest.raises(ArgumentError, match="`make_network` must return a ProvenanceNetwork; it gave Linear"):
        memorisation_curve(wrong, blobs(), blobs(), HOW)
    named = [{"x": torch.zeros(2), "label": 0}] * 3
    with pytest.raises(ShapeError, match="The training inputs must be one tensor"):
        memorisation_curve(single, named, blobs(), HOW)
    assert isinstance(single(blobs()), ProvenanceNetwork)
