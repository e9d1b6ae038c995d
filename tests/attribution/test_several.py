"""Models of several inputs are scored as models of one that holds the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import whence
from tests.audit.training import blobs
from whence._errors import ArgumentError
from whence.attribution import (
    Attributor,
    Counterfactual,
    GradCos,
    GradDot,
    Influence,
    NearestNeighbours,
    PathAudit,
    PathSimilarity,
    Relative,
    RepresentationCos,
    TracIn,
    attribute,
    self_influence,
)

MEMBERS: list[Attributor] = [
    GradDot("margin"),
    GradCos(layers="last"),
    GradDot(projection=3),
    TracIn(2),
    PathSimilarity(2),
    PathAudit(),
    Counterfactual(),
    Influence(1.0),
    RepresentationCos(),
    NearestNeighbours("hidden"),
    Relative(GradDot()),
]


class Apart(nn.Module):
    """A network of two inputs, or of both in one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.hidden, self.head = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, first: Tensor, second: Tensor | None = None) -> Tensor:
        joined = first if second is None else torch.cat([first, second], 1)
        out: Tensor = self.head(torch.tanh(self.hidden(joined)))
        return out


def in_order(data: tuple[Tensor, Tensor]) -> Any:
    return [((x[:1], x[1:]), y) for x, y in zip(*data, strict=True)]


def by_name(data: tuple[Tensor, Tensor]) -> Any:
    return [{"second": x[1:], "first": x[:1], "label": y} for x, y in zip(*data, strict=True)]


def recorded(path: Path, train: Any) -> whence.Run:
    model = Apart().double()
    optimizer = torch.optim.SGD(model.parameters(), 0.3, momentum=0.5)
    with whence.record(path, model, optimizer, train, loss=F.cross_entropy) as recorder:
        for x, y in recorder.batches(batch_size=6, seed=0):
            optimizer.zero_grad()
            outputs = model(**x) if isinstance(x, dict) else model(*x) if isinstance(x, tuple) else model(x)
            F.cross_entropy(outputs, y).backward()
            optimizer.step()
    return whence.open_run(path, model, train, loss=F.cross_entropy)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, whence.Run]:
    folder, train = tmp_path_factory.mktemp("runs"), blobs()
    return {
        "one": recorded(folder / "one", train),
        "in order": recorded(folder / "order", in_order(train)),
        "by name": recorded(folder / "name", by_name(train)),
    }


@pytest.mark.parametrize("method", MEMBERS, ids=str)
@pytest.mark.parametrize(("kind", "made"), [("in order", in_order), ("by name", by_name)], ids=["tuple", "dict"])
def test_several_inputs_score_as_one_that_holds_them(
    kind: str, made: Any, method: Attributor, runs: dict[str, whence.Run]
) -> None:
    expected = attribute(method, runs["one"], blobs(4, seed=1))
    found = attribute(method, runs[kind], made(blobs(4, seed=1)))
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-9, atol=1e-12)
    assert abs(expected).max() > 1e-3


def test_self_influence_takes_several_inputs(runs: dict[str, whence.Run]) -> None:
    found, expected = self_influence(GradDot(), runs["by name"]), self_influence(GradDot(), runs["one"])
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-9)


def test_several_inputs_have_no_distance_of_their_own(runs: dict[str, whence.Run]) -> None:
    with pytest.raises(
        ArgumentError, match=r"Inputs are a dict, not one tensor, so they have no distance\. Name a `layer`"
    ):
        attribute(NearestNeighbours(), runs["by name"], by_name(blobs(2, seed=1)))
