"""Applications suit any pictures: what they list and draw is what the library measures; what words name is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.evaluation.provenance.cases import digits, learned
from whence._errors import AuditError, LabelError, MissingExtraError
from whence._extras import installed
from whence._statistics import Interval
from whence.datasets import Images, as_examples
from whence.evaluation import TSNE, UMAP, entropy_ranking, load_table, membership_by_index, robustness, styles
from whence.evaluation.provenance.applications import (
    entropy_findings,
    map_findings,
    membership_findings,
    robustness_findings,
    styles_findings,
)
from whence.evaluation.provenance.findings import Findings, Listing
from whence.evaluation.provenance.naming import chosen_classes, chosen_conditions, projection_of
from whence.evaluation.table import table_of
from whence.provenance import conditions, retrieve

OTHERS = digits(60, 200)
KNOWN = conditions(side=8)


def listed(found: Findings, name: str) -> Listing:
    table = found.tables[name]
    assert isinstance(table, Listing)
    return table


def test_membership_is_measured_on_some_pictures_under_conditions_of_their_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("whence.evaluation.membership.RESAMPLES", 20)
    network, data = learned()
    found = membership_findings(network, data, OTHERS, limit=20)
    assert list(found.tables) == list(found.pictures) == ["no distortion", "translation ±0.857 px"]
    some = (data[0][::5], data[1][::5]), (OTHERS[0][::3], OTHERS[1][::3])
    expected = membership_by_index(network, *some, conditions={name: KNOWN[name] for name in found.tables})
    assert str(found) == str(expected)
    assert found.pictures["no distortion"].layout.title.text.endswith("no distortion")


def test_the_list_of_entropies_is_the_ranking() -> None:
    network, data = learned()
    found, ranking = entropy_findings(network, data, each=2), entropy_ranking(network, data, each=2)
    rows = listed(found, "entropy").rows
    assert [row[0] for row in rows] == [str(one) for one in range(10)]
    for kind, row in enumerate(rows):
        for place, end in ((3, "lowest"), (4, "highest")):
            assert [one["id"] for one in row[place]] == ranking[end].values[kind].tolist()
            assert [one["nats"] for one in row[place]] == ranking["entropy"].values[ranking[end].values[kind]].tolist()
        assert row[1] == int((data[1] == kind).sum())


def test_styles_are_named_by_the_ids_of_the_training_data() -> None:
    network, data = learned()
    found = styles_findings(network, data, classes=["6", "0"], clusters=2, exemplars=3)
    rows = listed(found, "styles").rows
    assert [row[:2] for row in rows] == [("6", 0), ("6", 1), ("0", 0), ("0", 1)]
    ids = np.flatnonzero(data[1].numpy() == 6)
    expected = styles(network, data[0][data[1] == 6], 2, exemplars=3)["exemplar"].values[0]
    assert rows[0][3] == tuple(int(ids[one]) for one in expected if one >= 0)
    assert list(found.pictures) == ["styles of 6", "styles of 0"]
    assert (
        len(listed(styles_findings(network, data, classes=["1"], clusters=99), "styles").rows) == (data[1] == 1).sum()
    )


def test_a_map_lists_and_draws_what_is_taken_for_another_class() -> None:
    network, data = learned()
    found = map_findings(network, data, OTHERS, limit=30, projection=TSNE(5.0))
    ids = list(range(0, 60, 2))
    exemplar_classes = retrieve(network, OTHERS[0][ids], 1)["exemplar_class"].values[:, 0]
    wrong = [one for one, kind in zip(ids, exemplar_classes, strict=True) if kind != int(OTHERS[1][one])]
    rows = listed(found, "map").rows
    assert sorted(one for row in rows for one in row[3]) == wrong
    assert sum(row[1] for row in rows) == 30
    texts = [text for trace in found.pictures["map"].data for text in trace.text]
    assert {int(text.split(",")[0].removeprefix("input ")) for text in texts} == set(ids)
    assert ("taken for another class" in found.pictures) == bool(wrong)


def test_robustness_is_measured_under_conditions_of_the_pictures_size() -> None:
    network, data = learned()
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    found = robustness_findings({"mine": network}, classifier, data, OTHERS, conditions=["rotation"], limit=20)
    some = (OTHERS[0][::3], OTHERS[1][::3])
    chosen = chosen_conditions(KNOWN, ["rotation"])
    expected = robustness({"mine": network}, classifier, data, some, conditions=chosen)
    assert list(chosen) == ["rotation ±30°", "rotation ±40°"]
    assert str(found) == str(expected)
    assert list(found.pictures) == ["conditions", "first", "any of five", "majority of five"]


def test_conditions_are_named_by_how_they_begin_in_the_papers_order() -> None:
    assert list(chosen_conditions(KNOWN, [])) == list(KNOWN)
    assert list(chosen_conditions(KNOWN, ["motion", "no distortion"])) == ["no distortion", "motion blur 3 px"]
    with pytest.raises(
        LabelError, match=r"No condition 'rotatoin' among the 15 .*similar: rotation.*Give a name or how"
    ):
        chosen_conditions(KNOWN, ["rotatoin"])


def test_classes_are_named_or_numbered() -> None:
    pixels = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    examples = as_examples(Images(pixels, torch.tensor([0, 1, 0, 1]), class_names=("cat", "dog")))
    assert chosen_classes(examples, ["dog", "0"], [0, 1]) == [1, 0]
    assert chosen_classes(examples, [], [0, 1]) == [0, 1]
    with pytest.raises(LabelError, match=r"No class 'dig' among the 2 of the training data \(similar: dog\)"):
        chosen_classes(examples, ["dig"], [0, 1])


def test_a_projection_suits_the_number_of_inputs() -> None:
    assert projection_of(1000) == TSNE(30.0)
    assert projection_of(31, seed=2) == TSNE(10.0, 2)
    assert projection_of(31, 7) == TSNE(7.0)
    assert projection_of(1000, umap=True) == UMAP(15)
    assert projection_of(9, umap=True) == UMAP(8)


@pytest.mark.skipif(installed("umap"), reason="umap-learn is installed")
def test_a_map_by_umap_asks_for_its_extra() -> None:
    network, data = learned()
    with pytest.raises(MissingExtraError, match="umap"):
        map_findings(network, data, projection=projection_of(100, umap=True))


def test_findings_are_kept_whole_in_a_new_folder(tmp_path: Path) -> None:
    table = table_of(
        [[Interval(0.5, 0.4, 0.6)]], ("row", ["a"]), ("column", ["b"]), title="Table", measure="m", interval="i"
    )
    listing = Listing("Title", ("a", "b"), [("x", tuple(range(12))), ("y", ({"id": 3, "nats": 0.5},))], ["A note."])
    pictures: dict[str, Any] = {"sheet/1": Image.new("RGB", (4, 4)), "figure": table.figure()}
    found = Findings({"table": table, "list": listing}, pictures)
    found.save(tmp_path / "out")
    names = {one.name for one in (tmp_path / "out").iterdir()}
    assert names == {"table.json", "list.json", "sheet-1.png", "figure.html"}
    assert str(load_table(tmp_path / "out" / "table.json")) == str(table)
    assert json.loads((tmp_path / "out" / "list.json").read_text()) == found.plain()["list"]
    assert "| x | #0, #1, #2, #3, #4, #5, #6, #7, #8, #9 and 2 more |" in str(found)
    assert "| y | #3 (0.5) |\n\nA note." in str(found)
    with pytest.raises(AuditError, match="Something stands at"):
        found.save(tmp_path / "out")
