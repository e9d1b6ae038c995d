"""Nearest neighbours: exact, also of copies, and without the matrix of all distances."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import whence
from tests.attribution.networks import data, network
from whence._errors import ArgumentError, MissingExtraError
from whence.attribution import (
    FlatIndex,
    HNSWIndex,
    NearestNeighbours,
    RepresentationCos,
    RepresentationDot,
    as_trained,
    attribute,
    vectors,
)
from whence.attribution.indexes import as_index


def found(train: torch.Tensor, targets: torch.Tensor, metric: str = "euclidean", **options: Any) -> np.ndarray:
    labels = torch.zeros(len(train), dtype=torch.long)
    given = {"train_data": (train, labels), "loss": F.cross_entropy, **options}
    model = network("linear").to(train.dtype)
    return attribute(NearestNeighbours(metric=metric), model, (targets, labels[: len(targets)]), **given).values


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_distances_are_exact_far_from_the_origin_and_between_near_copies(dtype: torch.dtype, offset: float) -> None:
    targets = (torch.randn(7, 6, dtype=torch.float64) + offset).to(dtype)
    close = targets + (1e-4 * torch.randn(7, 6, dtype=torch.float64)).to(dtype)
    train = torch.cat([targets, close, (torch.randn(9, 6, dtype=torch.float64) + offset).to(dtype)])
    expected = -(targets.double()[:, None] - train.double()[None]).square().sum(2).sqrt()
    error = 1e-10 if dtype == torch.float64 else 1e-5
    rounding = abs(offset) * torch.finfo(dtype).eps  # of a difference of neighbours
    values = found(train, targets)
    np.testing.assert_allclose(values, expected.numpy(), rtol=error, atol=rounding)
    assert (np.diagonal(values) == 0).all()
    np.testing.assert_allclose(found(train, targets, memory_budget=500), values, rtol=error, atol=rounding)


def test_the_cosine_metric_is_minus_one_and_the_cosine() -> None:
    targets, train = (data("linear", *one)[0] for one in ((5, 1), (11, 0)))
    expected = F.cosine_similarity(targets[:, None], train[None], dim=2) - 1
    np.testing.assert_allclose(found(train, targets, "cosine"), expected.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("budget", [2**20, 500])
def test_the_nearest_are_the_ends_of_all_scores_the_first_of_equals_first(metric: str, budget: int) -> None:
    x, y = data("linear", 30)
    x[20] = x[3]
    trained = as_trained(network("linear"), (x, y), loss=F.cross_entropy)
    fitted = NearestNeighbours(metric=metric).fit(trained, memory_budget=budget)
    targets = whence.as_examples((torch.cat([x[3:4], data("linear", 5, 1)[0]]), y[:6]))
    whole, near = fitted.scores(targets, [4, 0, 2]).values, fitted.nearest(targets, [4, 0, 2], 6)
    order = np.argsort(-whole, 1, kind="stable")[:, :6]
    np.testing.assert_array_equal(near["train"].values, order)
    np.testing.assert_allclose(near["score"].values, np.take_along_axis(whole, order, 1), rtol=1e-12, atol=1e-15)
    assert near["train"].sel(target=0).values[:2].tolist() == [3, 20]
    assert near.attrs["unit"].startswith("minus distance")
    assert fitted.nearest(targets, [0], 99).sizes == {"target": 1, "rank": 30}


@pytest.mark.parametrize("method", [NearestNeighbours(), RepresentationCos()])
def test_targets_of_another_shape_are_refused_in_words(method: Any) -> None:
    trained = as_trained(network("perceptron"), data("perceptron", 5), loss=F.cross_entropy)
    fitted, (x, y) = method.fit(trained), data("perceptron", 3)
    narrow = whence.as_examples((x[:, :4], y))
    words = r"target's inputs, of shape \(1, 4\), cannot be compared .* Give targets of the shape and type of"
    with pytest.raises(ArgumentError, match=words):
        fitted.scores(narrow, [0])
    with pytest.raises(ArgumentError, match=words):
        fitted.nearest(narrow, [0], 2)
    with pytest.raises(ArgumentError, match=r"at least one"):
        fitted.nearest(trained.examples, [], 2)


def test_neighbours_of_inputs_need_no_parameters() -> None:
    x, y = data("perceptron", 5)
    given: dict[str, Any] = {"train_data": (x, y), "loss": lambda outputs, _: outputs.sum(1)}
    found = attribute(NearestNeighbours(), nn.Identity(), (x[:2], y[:2]), **given)
    assert found.argmax("train").values.tolist() == [0, 1]


def test_what_is_no_metric_and_no_number_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"`metric` is 'euclidean' or 'cosine'; got 'l1'"):
        found(data("linear", 5)[0], data("linear", 2)[0], "l1")
    trained = as_trained(network("linear"), data("linear", 5), loss=F.cross_entropy)
    with pytest.raises(ArgumentError, match=r"`k` is a whole number of examples, at least 1; got 0"):
        NearestNeighbours().fit(trained).nearest(trained.examples, [0], 0)


def crowded(dtype: torch.dtype, offset: float = 0.0) -> tuple[Any, Any]:
    """Return a trained model and targets: vectors in tight clusters, with copies, so that float32 cannot order them."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    x = centres.repeat_interleave(60, 0) + 1e-4 * torch.randn(240, 6, generator=generator, dtype=torch.float64)
    x[20:50] = x[3]
    y = torch.zeros(240, dtype=torch.long)
    train, targets = ((x + offset).to(dtype), y), ((x[[3, 70, 130, 200]] + 1e-5 + offset).to(dtype), y[:4])
    return as_trained(network("linear").to(dtype), train, loss=F.cross_entropy), whence.as_examples(targets)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("budget", [2**20, 30_000])
@pytest.mark.parametrize(
    "method",
    [NearestNeighbours(), NearestNeighbours(metric="cosine"), RepresentationCos(), RepresentationDot()],
    ids=lambda one: f"{type(one).__name__} {getattr(one, 'metric', '')}",
)
def test_a_flat_index_finds_what_comparing_with_all_finds(dtype: torch.dtype, budget: int, method: Any) -> None:
    pytest.importorskip("faiss")
    trained, targets = crowded(dtype, 5.0)
    fitted = method.fit(trained, memory_budget=budget)
    for k in (1, 7, 240):
        near, exact = fitted.nearest(targets, [2, 0, 3], k, index=FlatIndex()), fitted.nearest(targets, [2, 0, 3], k)
        error = 20 * torch.finfo(dtype).eps
        np.testing.assert_allclose(near["score"].values, exact["score"].values, rtol=error, atol=8 * error)
        if (
            dtype == torch.float64 or method == NearestNeighbours()
        ):  # float32 products of the others order as they round
            np.testing.assert_array_equal(near["train"].values, exact["train"].values)
        assert (near.attrs["index"], exact.attrs["index"]) == ("FlatIndex()", "None")


def test_candidates_do_where_neighbours_are_apart_and_all_are_compared_where_they_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("faiss")
    again: list[int] = []
    best = vectors._best

    def counted(row: Any, k: int) -> Any:
        again.append(k)
        return best(row, k)

    monkeypatch.setattr(vectors, "_best", counted)
    x = 1e4 + torch.arange(100.0, dtype=torch.float64)[:, None] * torch.ones(6, dtype=torch.float64)  # far from 0
    apart = as_trained(network("linear"), (x, torch.zeros(100, dtype=torch.long)), loss=F.cross_entropy)
    near = NearestNeighbours().fit(apart).nearest(apart.examples, [0, 50], 3, index=FlatIndex())
    assert near["train"].values.tolist() == [[0, 1, 2], [50, 49, 51]]
    assert again == []
    trained, targets = crowded(torch.float64)
    NearestNeighbours().fit(trained).nearest(targets, [0], 3, index=FlatIndex())
    assert again == [3]


def test_a_graph_gives_exact_scores_and_most_of_the_nearest() -> None:
    pytest.importorskip("faiss")
    x = torch.randn(800, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    trained = as_trained(network("linear"), (x, torch.zeros(800, dtype=torch.long)), loss=F.cross_entropy)
    targets = whence.as_examples(data("linear", 40, 1))
    for metric in ("euclidean", "cosine"):
        fitted = NearestNeighbours(metric=metric).fit(trained)
        near = fitted.nearest(targets, range(40), 10, index=HNSWIndex())
        exact, whole = fitted.nearest(targets, range(40), 10), fitted.scores(targets, range(40)).values
        found = np.mean([np.isin(one, other).mean() for one, other in zip(exact["train"], near["train"], strict=True)])
        assert found > 0.95
        np.testing.assert_allclose(near["score"], np.take_along_axis(whole, near["train"].values, 1), atol=1e-12)
        assert (np.diff(near["score"].values, axis=1) <= 0).all()
        assert near.attrs["index"] == "HNSWIndex(links=16, breadth=128, building=40)"
        assert fitted.nearest(targets, [0], 900, index=HNSWIndex()).sizes == {"target": 1, "rank": 800}


def test_beyond_many_pairs_a_flat_index_is_taken_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    trained, targets = crowded(torch.float64)
    fitted = NearestNeighbours().fit(trained)
    exact = fitted.nearest(targets, [0, 1], 5)
    monkeypatch.setattr(vectors, "_MANY", 400)
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert fitted.nearest(targets, [0, 1], 5).equals(exact)
    assert fitted.nearest(targets, [0, 1], 5).attrs["index"] == "None"
    monkeypatch.undo()
    pytest.importorskip("faiss")
    monkeypatch.setattr(vectors, "_MANY", 400)
    assert fitted.nearest(targets, [0, 1], 5).attrs["index"] == "FlatIndex()"
    assert fitted.nearest(targets, [0], 5).attrs["index"] == "None"


@pytest.mark.parametrize("index", [FlatIndex(), HNSWIndex()], ids=str)
def test_a_missing_faiss_is_named_with_its_extra(index: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    trained, targets = crowded(torch.float64)
    with pytest.raises(MissingExtraError, match=r'This needs faiss, .* pip install "whence\[index\]"'):
        NearestNeighbours().fit(trained).nearest(targets, [0], 3, index=index)


@pytest.mark.parametrize(("given", "shown"), [("flat", "'flat'"), (FlatIndex, "<class")])
def test_what_is_no_index_is_refused(given: Any, shown: str) -> None:
    with pytest.raises(ArgumentError, match=rf"`index` is None, FlatIndex\(\) or HNSWIndex\(\.\.\.\); got {shown}"):
        as_index(given)


def test_an_index_beyond_the_budget_is_refused() -> None:
    trained, targets = crowded(torch.float64)
    words = r"FlatIndex and the vectors of 240 .* take 0\.0 MiB, more than three quarters .* `memory_budget` of `fit`"
    with pytest.raises(ArgumentError, match=words):
        NearestNeighbours().fit(trained, memory_budget=4_000).nearest(targets, [0], 3, index=FlatIndex())


@pytest.mark.parametrize(("name", "least"), [("links", 2), ("breadth", 1), ("building", 1)])
def test_settings_of_a_graph_out_of_range_are_named(name: str, least: int) -> None:
    with pytest.raises(ArgumentError, match=rf"`{name}` is a whole number, at least {least}; got 0"):
        HNSWIndex(**{name: 0})
