"""The applications of a trained network, each with its pictures, for data of any size and range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from whence.datasets import as_examples
from whence.evaluation.inputs import as_count
from whence.evaluation.provenance.embedding import (
    Projection,
    embedding_map,
    map_figure,
    styles,
    styles_sheet,
)
from whence.evaluation.provenance.entropy import entropy_ranking, entropy_sheet
from whence.evaluation.provenance.findings import Findings, Listing
from whence.evaluation.provenance.membership import membership_by_index, membership_figure
from whence.evaluation.provenance.naming import chosen_classes, chosen_conditions, undistorted_and_moved
from whence.evaluation.provenance.retrieval import some_of, spaced_ids
from whence.evaluation.provenance.robustness import conditions_sheet, robustness
from whence.evaluation.provenance.sheets import class_name
from whence.provenance import (
    NetworkFolder,
    ProvenanceNetwork,
    retrieval_sheet,
    retrieve,
)
from whence.provenance.folders import conditions_of, isolated_classifier

SHOWN = 8  # pictures of a sheet, and misattributed inputs beside their exemplars


def membership_findings(
    network: ProvenanceNetwork,
    members: Any,
    others: Any,
    *,
    conditions: Sequence[str] = (),
    limit: int | None = 2000,
    seed: int = 0,
) -> Findings:
    """Test membership with and without distortions that suit the pictures; see `membership_by_index`.

    Args:
        network: A trained network.
        members: Its training data, pictures.
        others: Other pictures.
        conditions: Names of the 15, or how they begin; by default none, and the paper's smaller move.
        limit: Take so many evenly spaced ones of either at most; None for all.
        seed: Of distortions, bootstrap and blind control.

    Raises:
        LabelError: If there is no such condition.
        ArgumentError: As in `membership_by_index`, or if the limit is no whole number, at least 1.
        ShapeError: If shapes differ.
    """
    known, own = as_examples(members), as_examples(others)
    every = conditions_of(known)
    chosen = chosen_conditions(every, conditions) if conditions else undistorted_and_moved(every)
    found = membership_by_index(network, some_of(known, limit), some_of(own, limit), conditions=chosen, seed=seed)
    return Findings(found.parts, {name: membership_figure(one) for name, one in found.parts.items()})


def entropy_findings(network: ProvenanceNetwork, train_data: Any, *, each: int = 5) -> Findings:
    """Rank training pictures by the entropy of the index; see `entropy_ranking`.

    Args:
        network, train_data, each: As `entropy_ranking` takes them.

    Raises:
        ChangedDataError: If it is other data than the network was made with.
        ArgumentError: If ``each`` is no whole number, at least 1.
    """
    examples = as_examples(train_data)
    ranking = entropy_ranking(network, examples, each=each)
    values, labels = ranking["entropy"].values, ranking["label"].values
    rows = []
    for kind in np.unique(labels).tolist():
        ends = (ranking[end].values[kind].tolist() for end in ("lowest", "highest"))
        told = [tuple({"id": one, "nats": float(values[one])} for one in end if one >= 0) for end in ends]
        own = values[labels == kind]
        rows.append((class_name(examples, kind), len(own), float(np.median(own)), *told))
    listing = Listing(
        f"Entropy of the index over {len(values):,} training examples, nats",
        ("class", "examples", "median", "lowest", "highest"),
        rows,
        ["Which end is the odd one depends on network and data: whence.evaluation.entropy_detection measures it."],
    )
    return Findings({"entropy": listing}, {"entropy": entropy_sheet(ranking, examples)})


def robustness_findings(
    networks: Mapping[str, ProvenanceNetwork],
    classifier: nn.Module,
    train_data: Any,
    test_data: Any,
    *,
    conditions: Sequence[str] = (),
    limit: int | None = 2000,
    seed: int = 0,
) -> Findings:
    """Measure answers under distortions that suit the pictures, beside a classifier; see `robustness`.

    Args:
        networks, classifier: As `robustness` takes them.
        train_data, test_data: Pictures and labels; of the latter as many as the limit says.
        conditions: Names of the 15, or how they begin; all by default.
        limit: Take so many evenly spaced test pictures at most; None for all.
        seed: Of the distortions.

    Raises:
        LabelError: If there is no such condition.
        ArgumentError: As in `robustness`, or if the limit is no whole number, at least 1.
        ShapeError: As in `robustness`.
    """
    train, test = as_examples(train_data), as_examples(test_data)
    chosen, ids = chosen_conditions(conditions_of(train), conditions), spaced_ids(len(test), limit)
    data = test.batch(ids)
    found = robustness(networks, classifier, train, data, conditions=chosen, seed=seed)
    sheet = conditions_sheet(test, [ids[one] for one in spaced_ids(len(ids), SHOWN)], conditions=chosen, seed=seed)
    return Findings(found.parts, {"conditions": sheet, **{name: table.figure() for name, table in found.parts.items()}})


def robustness_beside_isolated(
    folder: str | Path,
    opened: NetworkFolder,
    train_data: Any,
    test_data: Any,
    *,
    conditions: Sequence[str] = (),
    limit: int | None = 2000,
    seed: int = 0,
) -> Findings:
    """Measure a folder's network as `robustness_findings`, beside a classifier trained as it was, without an index.

    Args:
        folder: Of the network; the classifier is trained there once.
        opened: The network.
        train_data, test_data, conditions, limit, seed: As in `robustness_findings`.

    Raises:
        LabelError: If there is no such condition.
        ArgumentError: As in `robustness_findings`.
        DiskError: If the disk is full or refuses to write.
    """
    examples = as_examples(test_data)
    chosen_conditions(conditions_of(as_examples(train_data)), conditions)  # refused before the training
    spaced_ids(len(examples), limit)
    alone = isolated_classifier(folder, train_data).network
    networks = {"provenance network": opened.network}
    if opened.settings.head != "neighbours":
        networks["neighbours in the classifier"] = alone
    classifier = nn.Sequential(alone.backbone, *([] if alone.class_branch is None else [alone.class_branch]))
    options: dict[str, Any] = {"conditions": conditions, "limit": limit, "seed": seed}
    return robustness_findings(networks, classifier, train_data, examples, **options)


def styles_findings(
    network: ProvenanceNetwork,
    train_data: Any,
    *,
    classes: Sequence[str] = (),
    clusters: int = 6,
    exemplars: int = 5,
    seed: int = 0,
) -> Findings:
    """Cluster the training pictures of classes into styles; see `styles`.

    Args:
        network: A trained network.
        train_data: Its training data, pictures.
        classes: Names or numbers of classes; all by default.
        clusters, exemplars, seed: As in `styles`.

    Returns:
        A list with the ids of the pictures nearest to each centre, and a sheet for each class. A class of fewer
        pictures than clusters has as many styles as pictures.

    Raises:
        LabelError: If there is no such class, or it has no picture.
        ArgumentError: If a number is no whole one, at least 1.
    """
    examples, many = as_examples(train_data), as_count(clusters, "clusters")
    labels = network.index.labels.numpy()
    rows, sheets = [], {}
    for kind in chosen_classes(examples, classes, np.unique(labels).tolist()):
        ids = np.flatnonzero(labels == kind)
        inputs = examples.batch(ids.tolist())[0]
        found = styles(network, inputs, min(many, len(ids)), exemplars=exemplars, seed=seed)
        name = class_name(examples, kind)
        sheets[f"styles of {name}"] = styles_sheet(found.assign_coords(input=ids), inputs)
        for place, near in enumerate(found["exemplar"].values.tolist()):
            named = tuple(int(ids[one]) for one in near if one >= 0)
            rows.append((name, place, int(found["size"].values[place]), named))
    columns = ("class", "style", "training examples", "nearest to its centre")
    return Findings({"styles": Listing("Styles: clusters of the index branch's embedding", columns, rows)}, sheets)


def map_findings(
    network: ProvenanceNetwork,
    train_data: Any,
    data: Any = None,
    *,
    projection: Projection | None = None,
    limit: int | None = 2000,
) -> Findings:
    """Map pictures by the index branch, and list those that are taken for an example of another class.

    Args:
        network: A trained network.
        train_data: Its training data, pictures.
        data: Pictures to map; the training data by default.
        projection: As `embedding_map` takes it.
        limit: Map so many evenly spaced ones at most; None for all.

    Raises:
        ArgumentError: As in `embedding_map`, or if the limit is no whole number, at least 1.
        MissingExtraError: If UMAP is asked for and not installed.
    """
    known, examples = as_examples(train_data), as_examples(train_data if data is None else data)
    ids = spaced_ids(len(examples), limit)
    inputs, labels = examples.batch(ids)
    found = embedding_map(network, inputs, labels, projection=projection).assign_coords(input=ids)
    wrong = found["label"].values != found["exemplar_class"].values
    rows = []
    for kind in np.unique(found["label"].values).tolist():
        own = found["label"].values == kind
        taken = tuple(found["input"].values[own & wrong].tolist())
        rows.append((class_name(known, kind), int(own.sum()), len(taken), taken))
    columns = ("class", "inputs", "taken for another class", "these")
    listing = Listing(
        f"Map of {len(ids):,} inputs, {found.attrs['projection']}",
        columns,
        rows,
        ["Distances between groups, and their sizes, mean nothing in a map."],
    )
    title = "Embedding of the index branch; crossed: the first exemplar is of another class"
    pictures = {"map": map_figure(found).update_layout(title=title)}
    if wrong.any():
        some = np.flatnonzero(wrong)[:SHOWN].tolist()
        shown = [ids[one] for one in some]
        answers = retrieve(network, examples.batch(shown)[0], min(5, _most(network)))
        pictures["taken for another class"] = retrieval_sheet(answers, examples, shown, known)
    return Findings({"map": listing}, pictures)


def _most(network: ProvenanceNetwork) -> int:
    """Return how many examples can be retrieved for each input."""
    return network.index.largest if network.conditional else len(network.index)
