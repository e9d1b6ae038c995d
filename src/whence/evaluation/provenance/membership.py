"""Membership by the index head, beside the class branch and beside what no network is needed for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from whence._errors import ArgumentError, ShapeError
from whence.evaluation.membership import membership_table
from whence.evaluation.provenance.measures import as_conditions, as_data, class_logs, distorted
from whence.evaluation.table import Tables
from whence.membership import blind_control, entropy, log_margin, nearest_distance
from whence.provenance import Distortion, ProvenanceNetwork, embeddings, reading

Scores = dict[str, Float[Tensor, " examples"]]


def membership_by_index(
    network: ProvenanceNetwork,
    members: Any,
    nonmembers: Any,
    *,
    conditions: Sequence[str] | Mapping[str, Distortion] = ("no distortion", "translation ±3 px"),
    fpr: Sequence[float] = (0.01, 0.001),
    seed: int = 0,
) -> Tables:
    """Measure how well an index head tells members of its training set from others (Provenance Networks, 5.4 and 7.7).

    On clean copies a look-up of the nearest stored picture is perfect and needs no network, so the paper's areas near 1
    there prove little: ask under distortions, which both members and non-members undergo. The fair test is a network
    trained on one random half of some data, with the other half as non-members.

    Confidences are log-odds, which order examples as the largest probability does but do not saturate at 1.

    Args:
        network: A trained network.
        members: Training examples of it, all or a sample: anything `as_examples` takes, inputs one tensor.
        nonmembers: Others, alike.
        conditions: Names out of `whence.provenance.CONDITIONS`, for pictures from 0 to 1; or distortions by name.
        fpr: Shares of false positives to allow, as `membership_table` takes them.
        seed: Of the distortions, the blind control and the bootstrap.

    Returns:
        A table of `membership_table` by condition. Rows: confidence, entropy and largest logit of the index (given the
        predicted class if the network is conditional), confidence and entropy of the classes, the log margin of the
        true class, minus the distance to the nearest of the undistorted members in pixels and in the network's
        embedding, and the blind control, which sees the distorted inputs alone.

    Raises:
        LabelError: If there is no condition of a name.
        ArgumentError: If there are fewer than five examples of a kind, a label is none of the network's classes, or
            the index is one within the class and a predicted class has a single example, which is always sure.
        ShapeError: If inputs are not one tensor, or shapes differ.
    """
    own, others = as_data(members, "members'"), as_data(nonmembers, "non-members'")
    known = max(int(one[1].max()) for one in (own, others))
    if known >= network.index.classes:
        raise ArgumentError(f"The network knows the classes 0 to {network.index.classes - 1}; a label is {known}.")
    if own[0].shape[1:] != others[0].shape[1:]:
        shapes = " and ".join(str(tuple(one[0].shape)) for one in (own, others))
        raise ShapeError(f"Members and non-members must agree after the first axis; got {shapes}.")
    found = {}
    for place, (name, how) in enumerate(as_conditions(conditions).items()):
        pair = [distorted(one[0], how, seed * 7919 + 2 * place + kind) for kind, one in enumerate((own, others))]
        scores = [_scores(network, inputs, kind[1], own[0]) for inputs, kind in zip(pair, (own, others), strict=True)]
        table = membership_table(
            {score: (scores[0][score], scores[1][score]) for score in scores[0]},
            blind=blind_control(*pair, seed=seed),
            fpr=fpr,
            seed=seed,
        )
        table.data.attrs["title"] += f", {name}"
        found[name] = table
    return Tables(found)


def _scores(network: ProvenanceNetwork, inputs: Tensor, labels: Int[Tensor, " examples"], bank: Tensor) -> Scores:
    """Return a number an example by score, higher = more likely a member."""
    index, spread, alike = [], [], []
    for read in reading(network, inputs):
        alike.append(read.logit.cpu().double())
        index.append(log_margin(read.index.cpu()))
        spread.append(entropy(read.index.cpu()))
    classes = class_logs(network, inputs)
    embedded = [embeddings(network, one).cpu() for one in (inputs, bank)]
    return {
        "index confidence": torch.cat(index),
        "index entropy": torch.cat(spread),
        "index logit": torch.cat(alike),
        "class confidence": log_margin(classes),
        "class entropy": entropy(classes),
        "class margin of the label": log_margin(classes, labels),
        "look-up in pixels": nearest_distance(inputs, bank),
        "look-up in the embedding": nearest_distance(*embedded),
    }
