"""Entropies are those of the index; each class ends in its extremes; both signs are measured beside controls."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.evaluation.provenance.cases import FAST, blobs, digits, flat_network, learned
from whence._errors import ArgumentError, ChangedDataError, ShapeError
from whence.evaluation import (
    add_label_noise,
    add_outliers,
    entropy_detection,
    entropy_ranking,
    entropy_sheet,
    label_noise,
)
from whence.provenance import Branches, LinearHead, Objective, ProvenanceNetwork, train


def test_entropy_is_that_of_the_softmax_written_out() -> None:
    inputs = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    network = ProvenanceNetwork(
        nn.Identity(), (inputs, torch.tensor([0, 1, 1])), head=LinearHead, branches=Branches(index=nn.Identity())
    )
    with torch.no_grad():
        network.head.weight.copy_(torch.tensor([[0.0, 0.0], [math.log(2), 0.0], [0.0, 0.0]]))
    found = entropy_ranking(network, (inputs, torch.tensor([0, 1, 1])), each=2)
    expected = [math.log(3), -2 * 0.25 * math.log(0.25) - 0.5 * math.log(0.5), math.log(3)]
    np.testing.assert_allclose(found["entropy"], expected, rtol=1e-6)
    assert found["lowest"].values.tolist() == [[0, -1], [1, 2]]
    assert found["highest"].values.tolist() == [[0, -1], [2, 1]]


@pytest.mark.parametrize("conditional", [False, True])
def test_the_ends_of_each_class_are_its_extremes(conditional: bool) -> None:
    network, data = learned(conditional=conditional)
    found = entropy_ranking(network, data, each=3)
    values = found["entropy"].values
    for kind in range(10):
        own = np.flatnonzero(data[1].numpy() == kind)
        assert set(values[found["lowest"].values[kind]]) == set(np.sort(values[own])[:3])
        assert set(values[found["highest"].values[kind]]) == set(np.sort(values[own])[-3:])
    sheet = entropy_sheet(found, data)
    assert isinstance(sheet, Image.Image)
    assert sheet.height > 10 * 48


def test_detection_is_label_noise_of_both_signs_and_says_which_finds_them() -> None:
    inputs, labels = digits(150)
    noisy = add_label_noise(labels, 0.1, classes=10)
    data = (inputs, noisy.labels)
    network = flat_network(data)
    train(network, data, 15, objective=Objective(smoothing=0.0), optimization=FAST)
    found = entropy_detection(network, data, noisy.changed)
    low, high = (found.value(f"{sign} entropy", "AUROC").estimate for sign in ("low", "high"))
    assert low + high == pytest.approx(1)
    values = entropy_ranking(network, data)["entropy"].values
    assert high == label_noise(values, noisy.changed).value("score", "AUROC").estimate
    assert found.value("label disagreement in pixels", "AUROC").low > 0.9
    note = str(found).splitlines()[-1]
    areas = {sign: found.value(f"{sign} entropy", "AUROC").low for sign in ("low", "high")}
    finds = [sign for sign, area in areas.items() if area > 0.5]
    assert note.startswith(f"{finds[0].capitalize()} entropy" if finds else "Neither sign")


def test_disagreement_is_that_of_the_nearest_others_also_among_copies() -> None:
    inputs = torch.tensor([[0.0], [0.0], [0.0], [1.0], [1.2], [9.0], [9.1]])
    data = (inputs, torch.tensor([0, 0, 1, 1, 1, 1, 0]))
    network = flat_network(data)
    changed = np.arange(7) == 5
    found = entropy_detection(network, data, changed, neighbours=1)
    # by hand: 0 and 1 have a copy of either label at distance 0, 2 differs from each of its, 5 from its one
    by_hand = {5: 1.0, 6: 1.0, 4: 0.0, 3: 0.0, 2: 1.0}
    area = found.value("label disagreement in pixels", "AUROC").estimate
    others = [value for key, value in by_hand.items() if key != 5]
    least = sum((one < 1.0) + (one == 1.0) / 2 for one in [*others, 1.0, 1.0]) / 6
    most = sum((one < 1.0) + (one == 1.0) / 2 for one in [*others, 0.0, 0.0]) / 6
    assert least <= area <= most


def test_outliers_keep_their_brightness_and_lose_their_shape() -> None:
    inputs, _ = digits(40)
    found = add_outliers(inputs, 0.1, seed=1)
    assert int(found.changed.sum()) == 4
    assert torch.equal(found.inputs[~found.changed], inputs[~found.changed])
    for row in found.changed.nonzero()[:, 0].tolist():
        assert not torch.equal(found.inputs[row], inputs[row])
        assert torch.equal(found.inputs[row].flatten().sort().values, inputs[row].flatten().sort().values)
    assert torch.equal(add_outliers(inputs, 0.1, seed=1).inputs, found.inputs)
    with pytest.raises(ArgumentError, match="`share` must be a share between 0 and 1"):
        add_outliers(inputs, 1.5)


def test_what_does_not_fit_is_refused_by_name() -> None:
    network, data = learned()
    with pytest.raises(ChangedDataError, match=r"The network's index is of .* this is .* Give the training data"):
        entropy_ranking(network, digits(100, 5))
    with pytest.raises(ArgumentError, match="`each` must be a whole number, at least 1; got 0"):
        entropy_ranking(network, data, each=0)
    with pytest.raises(ArgumentError, match="`neighbours`, 100, must be fewer than the 100 examples"):
        entropy_detection(network, data, torch.ones(100), neighbours=100)
    with pytest.raises(ShapeError, match=r"`changed` needs one entry for each of 100 examples; got shape \(3,\)"):
        entropy_detection(network, data, [True, False, True])
    found = entropy_ranking(network, data)
    with pytest.raises(ChangedDataError, match="The ranking is of"):
        entropy_sheet(found, digits(100, 5))
    with pytest.raises(ArgumentError, match="`size` is a number of pixels, at least 40"):
        entropy_sheet(found, data, size=10)
    flat = blobs()
    with pytest.raises(ArgumentError, match=r"A sheet shows images, and example .* is none"):
        entropy_sheet(entropy_ranking(flat_network(flat), flat), flat)
