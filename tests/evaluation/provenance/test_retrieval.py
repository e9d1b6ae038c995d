"""What a network retrieves is measured as a loop over examples would measure it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
import xarray as xr
from torch import Tensor

from whence._errors import ArgumentError, ChangedDataError
from whence._statistics import share_interval
from whence.datasets import Images
from whence.evaluation import (
    distorted_retrieval,
    evaluate_provenance,
    membership_by_index,
    retrieval_accuracy,
)
from whence.evaluation.provenance import retrieval
from whence.provenance import (
    Distortion,
    GaussianNoise,
    NoDistortion,
    Objective,
    Optimization,
    ProvenanceNetwork,
    Translation,
    one_cycle,
    retrieve,
    small_backbone,
    train,
)

NAMES = ("provenance network", "neighbours in its embedding", "neighbours in pixels")


def images(count: int, seed: int, side: int = 8) -> Images:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=draw)
    pixels = torch.randint(0, 200, (count, 1, side, side), generator=draw, dtype=torch.uint8)
    for place, label in enumerate(labels.tolist()):
        pixels[place, 0, 2 * label, ::2] = 255
    return Images(pixels, labels)


def network_of(data: Images, conditional: bool) -> ProvenanceNetwork:
    torch.manual_seed(0)
    network = ProvenanceNetwork(small_backbone(data), data, conditional=conditional)
    steps = Optimization(4e-3, batch_size=32, schedule=one_cycle)
    train(network, data, 6, objective=Objective(smoothing=0.0), optimization=steps)
    return network


@pytest.fixture(scope="module", params=[False, True], ids=["independent", "conditional"])
def case(request: pytest.FixtureRequest) -> tuple[ProvenanceNetwork, Images, Images]:
    data = images(90, 0)
    return network_of(data, request.param), data, images(40, 1)


def slow_neighbours(query: Tensor, bank: Tensor, k: int, cosine: bool) -> list[int]:
    """Rank a bank for one query by a loop, in float64."""
    one, rows = query.double().flatten(), bank.double().flatten(1)
    values = [
        -float(one @ row / (one.norm() * row.norm())) if cosine else float(((one - row) ** 2).sum()) for row in rows
    ]
    return sorted(range(len(rows)), key=values.__getitem__)[:k]


def slow_shares(found: list[list[int]], labels: Tensor, truth: Tensor) -> list[int]:
    """Count by a loop: class of the first, any, most; of classes equally frequent the one met first."""
    counts = [0, 0, 0]
    for ids, right in zip(found, truth.tolist(), strict=True):
        classes = [int(labels[one]) for one in ids]
        many = Counter(classes)
        most = max(many.values())
        winner = next(one for one in classes if many[one] == most)
        counts = [
            had + is_it
            for had, is_it in zip(counts, (classes[0] == right, right in classes, winner == right), strict=True)
        ]
    return counts


def embedded(network: ProvenanceNetwork, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = network.eval()(inputs).embedding
    return found


def test_accuracies_are_those_of_a_loop_over_examples(case: tuple[ProvenanceNetwork, Images, Images]) -> None:
    network, data, test = case
    tables = retrieval_accuracy(network, data, test, k=5)
    (known, labels), (asked, truth) = (one.gather(torch.arange(len(one))) for one in (data, test))
    bank = embedded(network, known)
    ways = {
        NAMES[0]: [retrieve(network, one[None], 5)["exemplar"].values[0].tolist() for one in asked],
        NAMES[1]: [slow_neighbours(one, bank, 5, cosine=True) for one in embedded(network, asked)],
        NAMES[2]: [slow_neighbours(one, known, 5, cosine=False) for one in asked],
    }
    columns = ("class of the first", "of any of 5", "of most of 5")
    for name, found in ways.items():
        for column, count in zip(columns, slow_shares(found, labels, truth), strict=True):
            assert tables["retrieved"].value(name, column) == pytest.approx(share_interval(count, 40)), (name, column)
    with torch.no_grad():
        right = int((network(asked).classes.argmax(1) == truth).sum())
    own = sum(int(retrieve(network, one[None], 1)["exemplar"][0, 0]) == place for place, one in enumerate(known))
    answers = tables["answers"]
    assert answers.value("class of 40 test examples", "share right") == pytest.approx(share_interval(right, 40))
    assert answers.value("index of 90 training examples", "share right") == pytest.approx(share_interval(own, 90))
    assert ("says nothing beyond its answer" in str(tables)) == network.conditional


def test_distorted_pictures_are_found_as_a_loop_over_them_finds(
    case: tuple[ProvenanceNetwork, Images, Images],
) -> None:
    network, data, _ = case
    kinds: dict[str, Distortion] = {"none": NoDistortion(), "noise": GaussianNoise(0.2), "move": Translation(1)}
    table = distorted_retrieval(network, data, kinds, limit=30, seed=4)
    known, ids = data.gather(torch.arange(90))[0], [place * 3 for place in range(30)]
    bank = embedded(network, known)
    for name, distort in kinds.items():
        views = distort(known[ids], torch.Generator().manual_seed(4))
        counts = [0, 0, 0]
        for one, view, row in zip(ids, views, embedded(network, views), strict=True):
            counts[0] += int(retrieve(network, view[None], 1)["exemplar"][0, 0]) == one
            counts[1] += slow_neighbours(row, bank, 1, cosine=True) == [one]
            counts[2] += slow_neighbours(view, known, 1, cosine=False) == [one]
        found = [table.value(name, column) for column in NAMES]
        assert found == [pytest.approx(share_interval(count, 30)) for count in counts], name
    assert table.value("none", NAMES[2]).estimate == 1
    assert "times 8 / 28" not in str(table)


def test_without_distortions_the_15_conditions_of_the_paper_are_taken_for_the_size_of_the_pictures(
    case: tuple[ProvenanceNetwork, Images, Images],
) -> None:
    table = distorted_retrieval(*case[:2], limit=5)
    names = table.data.coords["distortion"].values.tolist()
    assert len(names) == 15
    assert {"no distortion", "translation ±0.857 px", "rotation ±30°"} <= set(names)
    assert "Strengths in pixels are the paper's, for a side of 28, times 8 / 28." in str(table)


def test_all_of_it_is_the_same_as_each(case: tuple[ProvenanceNetwork, Images, Images]) -> None:
    network, data, test = case
    tables = evaluate_provenance(network, data, test, k=3, limit=12)
    assert list(tables.parts) == ["answers", "retrieved", "distorted", "membership", "shifted membership"]
    assert str(retrieval_accuracy(network, data, test, k=3, limit=12)) in str(tables)
    assert str(distorted_retrieval(network, data, limit=12)) in str(tables)
    ids = [[place * len(one) // 12 for place in range(12)] for one in (data, test)]
    both = [one.gather(torch.tensor(some)) for one, some in zip((data, test), ids, strict=True)]
    members = membership_by_index(network, *both, conditions={"membership": NoDistortion()})
    assert str(members["membership"]) == str(tables["membership"])


def test_exemplars_that_a_small_class_lacks_count_as_wrong() -> None:
    pixels = images(21, 0).pixels
    data = Images(pixels, torch.tensor([0] * 2 + [1] * 19))
    network = network_of(data, conditional=True)
    tables = retrieval_accuracy(network, data, Images(pixels[:2], torch.tensor([0, 0])), k=19)
    predicted = retrieve(network, data.gather(torch.tensor([0, 1]))[0], 19)
    for column in ("class of the first", "of any of 19", "of most of 19"):
        count = int((predicted["predicted"].values == 0).sum())
        assert tables["retrieved"].value(NAMES[0], column).estimate == count / 2


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"limit": 0}, ArgumentError, "`limit` is a whole number, at least 1, or None for all; got 0"),
        ({"k": 91}, ArgumentError, "`k` is a whole number from 1 to "),
        ({"train_data": images(90, 7)}, ChangedDataError, "The network's index is of other data: blake2b:"),
    ],
)
def test_what_it_does_not_take_is_said(
    case: tuple[ProvenanceNetwork, Images, Images], change: dict[str, Any], kind: type[Exception], message: str
) -> None:
    network, data, test = case
    with pytest.raises(kind, match=message):
        retrieval_accuracy(network, **{"train_data": data, "test_data": test, **change})


def test_reading_a_part_at_a_time_changes_nothing(
    case: tuple[ProvenanceNetwork, Images, Images], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, data, test = case
    whole = evaluate_provenance(network, data, test, k=4, limit=24)
    monkeypatch.setattr(retrieval, "_CHUNK", 7)
    parts = evaluate_provenance(network, data, test, k=4, limit=24)
    for name, table in whole.parts.items():
        xr.testing.assert_allclose(parts[name].data, table.data)
