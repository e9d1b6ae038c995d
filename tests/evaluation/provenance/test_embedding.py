"""Styles are the clusters that are there, exemplars the nearest to their centres; maps keep neighbours together."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.evaluation.provenance.cases import blobs, digits, learned
from whence._errors import ArgumentError, DataError, MissingExtraError, ShapeError
from whence._extras import installed
from whence.evaluation import TSNE, UMAP, embedding_map, map_figure, styles, styles_sheet
from whence.provenance import Branches, ProvenanceNetwork, embeddings, retrieve


def as_it_is(data: Any) -> ProvenanceNetwork:
    """Return a network whose embedding is its input."""
    return ProvenanceNetwork(nn.Flatten(), data, branches=Branches(index=nn.Identity()))


def test_clusters_are_those_that_are_there_and_exemplars_the_nearest_to_their_means() -> None:
    inputs, labels = blobs(3, 12)
    kept = torch.cat([torch.arange(12), torch.arange(12, 22), torch.arange(24, 27)])  # 12, 10 and 3 of a kind
    inputs, labels = inputs[kept], labels[kept]
    found = styles(as_it_is((inputs, labels)), inputs, 3)
    assert found["cluster"].values.tolist() == labels.tolist()
    assert found["size"].values.tolist() == [12, 10, 3]
    points = inputs.double().numpy()
    for kind in range(3):
        own = np.flatnonzero(labels.numpy() == kind)
        np.testing.assert_allclose(found["centre"].values[kind], points[own].mean(0), atol=1e-6)
        far = ((points[own] - points[own].mean(0)) ** 2).sum(1)
        expected = [*own[np.argsort(far)][:4].tolist(), -1][:4]
        assert found["exemplar"].values[kind].tolist() == expected


def test_the_sheet_has_a_row_a_style() -> None:
    network, (inputs, labels) = learned()
    sixes = inputs[labels == 6]
    found = styles(network, sixes, 2)
    heights = [styles_sheet(styles(network, sixes, many), sixes).height for many in (1, 2, 3)]
    assert heights[2] - heights[1] == heights[1] - heights[0] > 48
    with pytest.raises(ArgumentError, match=r"The styles are of .* inputs; these are 100"):
        styles_sheet(found, inputs)
    with pytest.raises(ArgumentError, match="`clusters`, 50, must be at most the"):
        styles(network, sixes, 50)


def test_a_map_keeps_separate_classes_apart_and_knows_the_exemplars() -> None:
    inputs, labels = blobs(3, 12)
    network = as_it_is((inputs, labels))
    found = embedding_map(network, inputs, labels, projection=TSNE(5.0))
    places = found["place"].values
    apart = np.linalg.norm(places[:, None] - places[None], axis=2) + np.diag([np.inf] * 36)
    assert (labels.numpy()[apart.argmin(1)] == labels.numpy()).all()
    np.testing.assert_array_equal(found["exemplar"], retrieve(network, inputs, 1)["exemplar"][:, 0])
    again = embedding_map(network, inputs, labels, projection=TSNE(5.0))
    np.testing.assert_array_equal(again["place"], places)
    figure = map_figure(found)
    assert [one.name for one in figure.data] == ["0", "1", "2"]
    crossed = sum(symbol == "x" for one in figure.data for symbol in one.marker.symbol)
    assert crossed == int((found["exemplar_class"].values != labels.numpy()).sum())


def test_any_projection_gives_a_map() -> None:
    network, (inputs, _) = learned()
    found = embedding_map(network, inputs, projection=lambda points: points[:, :2])
    np.testing.assert_allclose(found["place"], embeddings(network, inputs)[:, :2], rtol=1e-6)
    assert "label" not in found
    assert len(map_figure(found).data) <= 10


@pytest.mark.skipif(installed("umap"), reason="umap-learn is installed")
def test_umap_is_asked_for_by_its_extra() -> None:
    network, (inputs, _) = learned()
    with pytest.raises(MissingExtraError, match=r'This needs umap, .* pip install "whence\[umap\]"'):
        embedding_map(network, inputs, projection=UMAP())


def test_what_is_no_map_is_refused_by_name() -> None:
    network, (inputs, labels) = learned()
    with pytest.raises(ShapeError, match=r"`labels` needs a whole number for each of 100 inputs; got int64 \(3,\)"):
        embedding_map(network, inputs, labels[:3])
    with pytest.raises(ArgumentError, match=r"`perplexity` must be above 0 and below the 20 inputs; got 30\.0"):
        embedding_map(network, digits(20)[0])
    with pytest.raises(ShapeError, match=r"places of shape \(100, 2\); it gave \(100, 32\)"):
        embedding_map(network, inputs, projection=lambda points: points)
    with pytest.raises(ArgumentError, match=r"`projection` is a function .*, such as TSNE\(\) or UMAP\(\); got 'umap'"):
        inspect.unwrap(embedding_map)(network, inputs, projection="umap")
    broken = inputs.clone()
    broken[3, 0, 0, 0] = float("nan")
    for ask in (styles, embedding_map):
        with pytest.raises(DataError, match="The embedding of input 3 is no finite number"):
            ask(network, broken)
