"""All columns see the same distorted pictures, and count what counting by hand counts."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.evaluation.provenance.cases import Data, digits, learned
from whence._errors import ArgumentError, ChangedDataError, LabelError, ShapeError
from whence._statistics import share_interval
from whence.evaluation import conditions_sheet, robustness
from whence.provenance import CONDITIONS, GaussianNoise, retrieve

TEST = digits(60, 100)


class Nearest(nn.Module):
    """A classifier by the nearest training picture."""

    def __init__(self, data: Data) -> None:
        super().__init__()
        self.data = data

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return logits: minus the distance to the nearest of each class."""
        far = torch.cdist(inputs.flatten(1).double(), self.data[0].flatten(1).double())
        return torch.stack([-far[:, self.data[1] == kind].amin(1) for kind in range(10)], 1)


def test_clean_pictures_are_counted_as_by_hand_and_two_ways_to_the_nearest_agree() -> None:
    network, data = learned()
    found = robustness(network, Nearest(data), data, TEST, conditions=["no distortion", "Gaussian noise σ=0.2"])
    kinds = retrieve(network, TEST[0])["exemplar_class"].values
    labels = TEST[1].numpy()
    first, anyone = int((kinds[:, 0] == labels).sum()), int((kinds == labels[:, None]).any(1).sum())
    assert found["first"].value("no distortion", "network") == share_interval(first, 60)
    assert found["any of five"].value("no distortion", "network") == share_interval(anyone, 60)
    votes = [np.bincount(row).max() for row in kinds]
    sure = [row for row in range(60) if votes[row] >= 3]  # no tie among five
    expected = sum(np.bincount(kinds[row]).argmax() == labels[row] for row in sure)
    majority = found["majority of five"].value("no distortion", "network").estimate * 60
    assert expected <= round(majority) <= expected + 60 - len(sure)
    for condition in ("no distortion", "Gaussian noise σ=0.2"):
        one, other = (found["first"].value(condition, of) for of in ("isolated classifier", "nearest in pixels"))
        assert one == other
    assert found["majority of five"].value("no distortion", "isolated classifier") == found["first"].value(
        "no distortion", "isolated classifier"
    )


def test_all_fifteen_conditions_are_rows_and_several_networks_columns() -> None:
    network, data = learned()
    found = robustness({"one": network, "two": network}, Nearest(data), data, (TEST[0][:20], TEST[1][:20]))
    table = found["first"].data["estimate"]
    assert table.coords["condition"].values.tolist() == list(CONDITIONS)
    np.testing.assert_array_equal(table.sel({"answer of": "one"}), table.sel({"answer of": "two"}))
    assert (found["any of five"].data["estimate"].values >= table.values).all()
    assert len(found.figure().data) == 12


def test_the_sheet_has_a_row_a_condition() -> None:
    rows = [conditions_sheet(TEST, [0, 5], conditions=list(CONDITIONS)[:count]).height for count in (1, 2, 15)]
    assert rows[2] - rows[0] == 14 * (rows[1] - rows[0])
    with pytest.raises(ArgumentError, match="`ids` names no picture to draw"):
        conditions_sheet(TEST, [])
    with pytest.raises(ShapeError, match=r"1 or 3 channels, height, width\) are needed; these are \(1, 2, 8, 8\)"):
        conditions_sheet((TEST[0].repeat(1, 2, 1, 1), TEST[1]), [0])


def test_what_cannot_be_compared_is_refused_by_name() -> None:
    network, data = learned()
    with pytest.raises(ArgumentError, match="A network is called 'nearest in pixels', as another column"):
        robustness({"nearest in pixels": network}, Nearest(data), data, TEST)
    with pytest.raises(LabelError, match="No condition 'fog' among the 15"):
        robustness(network, Nearest(data), data, TEST, conditions=["fog"])
    flat: Any = nn.Flatten(0)
    with pytest.raises(ShapeError, match=r"A classifier's outputs must be \(examples, classes\); these are \(3840,\)"):
        robustness(network, flat, data, TEST, conditions={"noise": GaussianNoise(0.1)})
    with pytest.raises(ArgumentError, match=r"cannot be called with these inputs .*shape \(1, 1, 8, 8\)"):
        robustness(network, nn.Linear(3, 10), data, TEST)
    with pytest.raises(ArgumentError, match="`isolated_classifier` is a torch module of class logits; got 'cnn'"):
        inspect.unwrap(robustness)({"ours": network}, "cnn", data, TEST)
    with pytest.raises(ChangedDataError, match=r"The network's index is of other data: .* Give the training data"):
        robustness(network, Nearest(data), (data[0].flip(0), data[1]), TEST)
    with pytest.raises(ArgumentError, match="the mapping is empty"):
        robustness({}, Nearest(data), data, TEST)
