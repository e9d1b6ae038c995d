"""An index head tells members from others; the table says what a look-up tells, and refuses what it cannot compare."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from tests.evaluation.provenance.cases import digits, learned
from whence._errors import ArgumentError, LabelError, ShapeError
from whence.evaluation import load_table, membership_by_index, membership_figure, membership_table
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
    with pytest.raises(ArgumentError, match=r"The condition 'odd' is no function .*; got 3"):
        inspect.unwrap(membership_by_index)(network, data, OTHERS, conditions={"odd": 3})
    with pytest.raises(ArgumentError, match="membership_by_index takes a ProvenanceNetwork; got Linear"):
        inspect.unwrap(membership_by_index)(torch.nn.Linear(3, 3), data, OTHERS)
    with pytest.raises(ShapeError, match="must agree after the first axis"):
        membership_by_index(network, data, (OTHERS[0][..., :4], OTHERS[1]), conditions=["no distortion"])


def test_the_curves_of_the_figure_have_the_areas_and_rates_of_the_table() -> None:
    network, data = learned()
    table = membership_by_index(network, data, OTHERS, conditions={"moved": Translation(1)}, fpr=[0.05])["moved"]
    figure = membership_figure(table)
    names = table.data["score"].values.tolist()
    curves = {one.name: one for one in figure.data if one.xaxis == "x" and one.name != "chance"}
    assert list(curves) == names
    for name, one in curves.items():
        assert (one.x[0], one.y[0], one.x[-1], one.y[-1]) == (0, 0, 1, 1)
        assert float(np.diff(one.x) @ (one.y[1:] + one.y[:-1]) / 2) == pytest.approx(table.value(name, "AUC").estimate)
        rate = max(one.y[one.x <= 0.05 + 1e-9])
        assert rate == pytest.approx(table.value(name, "TPR at 5 % FPR").estimate)
    logarithmic = [one for one in figure.data if one.xaxis == "x2" and one.name in names]
    assert len(logarithmic) == len(names)
    assert all(min(one.x) > 0 and min(one.y) > 0 for one in logarithmic)
    assert figure.layout.xaxis2.type == figure.layout.yaxis2.type == "log"


def test_the_histograms_are_of_members_and_others_with_the_entropy_as_it_is() -> None:
    network, data = learned()
    table = membership_by_index(network, data, OTHERS, conditions=["no distortion"])["no distortion"]
    shown = [one for one in membership_figure(table).data if one.type == "histogram"]
    assert [one.name for one in shown] == ["members", "others"] * 4
    entropies = [retrieve(network, inputs, 1)["entropy"].values for inputs, _ in (data, OTHERS)]
    for one, expected in zip(shown[2:4], entropies, strict=True):
        np.testing.assert_allclose(one.x, expected, atol=1e-5)
    np.testing.assert_allclose(shown[0].x, table.data["members"].sel(score="index confidence"))


def test_a_table_without_scores_is_no_figure(tmp_path: Path) -> None:
    network, data = learned()
    table = membership_by_index(network, data, OTHERS, conditions=["no distortion"])["no distortion"]
    table.save(tmp_path / "table.json")
    with pytest.raises(
        ArgumentError, match=r"100 non-members, no distortion holds none\. Give the table as it was made"
    ):
        membership_figure(load_table(tmp_path / "table.json"))
    with pytest.raises(ArgumentError, match="scores in a table of membership_by_index"):
        membership_figure(membership_table({"mine": ([1.0, 2.0], [0.0, 1.0])}))


def test_a_table_keeps_scores_of_any_number_of_examples() -> None:
    table = membership_table({"a": ([1.0, 2.0, 3.0], [0.0, 1.0]), "b": ([1.0, 2.0], [0.0, 1.0, 5.0])})
    np.testing.assert_array_equal(table.data["members"], [[1, 2, 3], [1, 2, np.nan]])
    np.testing.assert_array_equal(table.data["others"], [[0, 1, np.nan], [0, 1, 5]])
    assert "members" not in table.plain()
