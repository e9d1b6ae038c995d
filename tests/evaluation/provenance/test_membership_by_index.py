"""An index head tells members from others; the table says what a look-up tells, and refuses what it cannot compare."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

from tests.evaluation.provenance.cases import digits, learned
from whence._errors import ArgumentError, LabelError, ShapeError
from whence.evaluation import membership_by_index, membership_table
from whence.provenance import Translation, retrieve

OTHERS = digits(100, 100)


@pytest.mark.parametrize("conditional", [False, True])
def test_clean_members_are_told_by_the_index_and_as_well_by_a_look_up(conditional: bool) -> None:
    network, data = learned(conditional=conditional)
    found = membership_by_index(network, data, OTHERS, conditions=["no distortion"], fpr=[0.05])
    table = found["no distortion"]
    assert table.value("look-up in pixels", "AUC").estimate == 1.0
    assert table.value("index confidence", "AUC").low > 0.8
    assert table.value("index entropy", "AUC").low > 0.8
    assert table.value("blind control", "AUC").low < 0.6
    assert "index confidence" in table.data.attrs["evidence"]
    assert "no distortion" in str(found)


def test_confidence_is_that_of_the_retrieval_in_another_scale() -> None:
    network, data = learned()
    table = membership_by_index(network, data, OTHERS, conditions=["no distortion"])["no distortion"]
    sure = [retrieve(network, one[0], 1)["index_confidence"].values.astype(np.float64) for one in (data, OTHERS)]
    by_retrieval = membership_table({"index": (sure[0], sure[1])}).value("index", "AUC").estimate
    assert table.value("index confidence", "AUC").estimate == pytest.approx(by_retrieval, abs=0.01)  # ties apart
    unsure = [-retrieve(network, one[0], 1)["entropy"].values.astype(np.float64) for one in (data, OTHERS)]
    by_retrieval = membership_table({"index": (unsure[0], unsure[1])}).value("index", "AUC").estimate
    assert table.value("index entropy", "AUC").estimate == pytest.approx(by_retrieval, abs=0.01)


def test_both_sides_are_distorted_so_that_neither_the_blind_control_nor_a_look_up_tells_them() -> None:
    network, data = learned()
    found = membership_by_index(network, data, OTHERS, conditions={"moved": Translation(3)}, fpr=[0.05])
    assert found["moved"].value("look-up in pixels", "AUC").low < 0.6
    assert found["moved"].value("blind control", "AUC").low < 0.6
    same = membership_by_index(network, data, OTHERS, conditions={"moved": Translation(3)}, fpr=[0.05])
    xr.testing.assert_identical(found["moved"].data, same["moved"].data)


def test_what_cannot_be_compared_is_refused_by_name() -> None:
    network, data = learned()
    with pytest.raises(LabelError, match=r"No condition 'translation ±3' among the 15 .*similar: translation ±3 px"):
        membership_by_index(network, data, OTHERS, conditions=["translation ±3"])
    with pytest.raises(ArgumentError, match="`conditions` are names, or distortions by name, at least one; got \\(\\)"):
        membership_by_index(network, data, OTHERS, conditions=())
    with pytest.raises(ArgumentError, match="knows the classes 0 to 9; a label is 12"):
        membership_by_index(network, data, (OTHERS[0], OTHERS[1] + 12 - int(OTHERS[1].max())))
    with pytest.raises(ArgumentError, match="non-members' labels are not one whole number"):
        membership_by_index(network, data, (OTHERS[0], torch.zeros(100)))
    with pytest.raises(ShapeError, match="must agree after the first axis"):
        membership_by_index(network, data, (OTHERS[0][..., :4], OTHERS[1]), conditions=["no distortion"])
