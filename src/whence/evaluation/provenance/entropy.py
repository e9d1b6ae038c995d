"""Entropy of the index branch as a sign of odd training examples, measured in both directions beside controls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from whence._errors import ArgumentError, ChangedDataError, ShapeError
from whence.datasets import Examples, as_examples
from whence.evaluation.inputs import as_count, as_share
from whence.evaluation.noise import label_noise
from whence.evaluation.provenance.measures import as_data, class_logs, nearest, neighbours_in_embedding
from whence.evaluation.provenance.sheets import Cell, Row, class_name, picture, sheet_of
from whence.evaluation.table import Table
from whence.provenance import ProvenanceNetwork, retrieve
from whence.provenance.network import check_network

_EVEN = 0.5  # area under the ROC curve by chance
SIGNS = ("low entropy", "high entropy")


@final
@dataclass(frozen=True, eq=False)
class Outliers:
    """Inputs of which some were made odd.

    Attributes:
        inputs: The inputs to train on, (examples, ...).
        changed: Which of them are odd, (examples,).
    """

    inputs: Float[Tensor, "examples ..."]
    changed: Bool[Tensor, " examples"]


def add_outliers(inputs: Float[Tensor, "examples ..."], share: float, *, seed: int = 0) -> Outliers:
    """Shuffle the numbers within a random share of the inputs: the same brightness, another thing.

    Args:
        inputs: The inputs, (examples, ...), such as pictures.
        share: Of the examples to change: exactly ``round(share * examples)``, at least one.
        seed: Of the draws.

    Raises:
        ArgumentError: If the share is not between 0 and 1.
    """
    part, generator = as_share(share, "share"), torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(inputs), generator=generator)[: max(1, round(part * len(inputs)))]
    odd, changed = inputs.clone(), torch.zeros(len(inputs), dtype=torch.bool)
    for row in rows.tolist():
        flat = inputs[row].flatten()
        odd[row] = flat[torch.randperm(len(flat), generator=generator)].view_as(inputs[row])
    changed[rows] = True
    return Outliers(odd, changed)


def entropy_ranking(network: ProvenanceNetwork, train_data: Any, *, each: int = 5) -> xr.Dataset:
    """Rank training examples by the entropy of the index branch (Provenance Networks, 5.3 and 7.9, figures 6 and 24).

    The paper contradicts itself on what it means: "normal samples typically exhibit high entropy, while anomalous or
    unusual samples show low entropy", since "typical samples activate only a few neurons", which is low entropy. So
    both ends are given, and `entropy_detection` measures which of them finds what is odd.

    Args:
        network: A trained network.
        train_data: The data that it was made with, inputs one tensor.
        each: How many of each class to name at either end.

    Returns:
        ``entropy`` (nats, of the index, given the predicted class if the network is conditional) and ``label``, dim
        "train"; ``lowest`` and ``highest``, ids, dims ("class", "rank"), the most extreme first; -1 where a class has
        fewer.

    Raises:
        ChangedDataError: If it is other data.
        ArgumentError: If ``each`` is no whole number, at least 1, or this is no provenance network.
    """
    many, (inputs, labels) = as_count(each, "each"), _same(network, train_data)
    values = retrieve(network, inputs, 1)["entropy"].values.astype(np.float64)
    ends = np.full((2, network.index.classes, many), -1)
    for kind in range(network.index.classes):
        own = np.flatnonzero(labels.numpy() == kind)
        for end, sign in enumerate((1, -1)):
            chosen = own[np.argsort(sign * values[own], kind="stable")[:many]]
            ends[end, kind, : len(chosen)] = chosen
    dims = ("class", "rank")
    return xr.Dataset(
        {
            "entropy": ("train", values, {"unit": "nats"}),
            "label": ("train", labels.numpy()),
            "lowest": (dims, ends[0]),
            "highest": (dims, ends[1]),
        },
        {"train": np.arange(len(values)), "class": np.arange(len(ends[0])), "rank": np.arange(1, many + 1)},
        {"fingerprint": network.fingerprint},
    )


def entropy_sheet(ranking: xr.Dataset, train_data: Any, *, size: int = 48) -> Image.Image:
    """Draw the examples at both ends of each class, under each its id and entropy (figures 6 and 24).

    Args:
        ranking: Of `entropy_ranking`.
        train_data: The data it is of, images.
        size: Length of the longer side of each picture, in pixels; at least 40.

    Raises:
        ChangedDataError: If it is other data.
        ArgumentError: If examples are no images, or the size is too small.
    """
    examples = as_examples(train_data)
    if examples.fingerprint != ranking.attrs["fingerprint"]:
        raise ChangedDataError(f"The ranking is of {ranking.attrs['fingerprint']}; this is {examples.fingerprint}.")
    values = ranking["entropy"].values

    def cell(index: int) -> Cell:
        if index < 0:
            return Cell()
        return Cell(picture(examples, index, size), f"{index}: {values[index]:.2g}")

    rows = [
        Row(
            class_name(examples, kind),
            [[cell(int(one)) for one in ranking[end].values[kind]] for end in ("lowest", "highest")],
        )
        for kind in range(ranking.sizes["class"])
        if int(ranking["lowest"].values[kind, 0]) >= 0
    ]
    return sheet_of(rows, ("lowest entropy (id: nats)", "highest entropy (id: nats)"))


def entropy_detection(
    network: ProvenanceNetwork, train_data: Any, changed: Any, *, neighbours: int = 10, seed: int = 0
) -> Table:
    """Measure whether the entropy of the index branch finds wrong labels or outliers, in both directions (5.3).

    Args:
        network: A network trained on the data with what was injected.
        train_data: That data, inputs one tensor.
        changed: Which examples are wrong, (examples,), as `add_label_noise` and `add_outliers` give it.
        neighbours: How many nearest others to ask for the label, in pixels and in the network's embedding.
        seed: Of the bootstrap.

    Returns:
        `label_noise` of: low and high entropy of the index, the loss over the classes, and the share of an example's
        nearest others, itself left out, that have another label. A note says which sign of the entropy finds the odd
        ones: the one whose area under the ROC curve is above 0.5 with its whole interval.

    Raises:
        ChangedDataError: If it is other data.
        ArgumentError: If there are not more examples than neighbours, all or none are wrong, or this is no provenance
            network.
        ShapeError: If there is not one entry of ``changed`` an example.
    """
    inputs, labels = _same(network, train_data)
    asked, wrong = as_count(neighbours, "neighbours"), np.asarray(changed, dtype=bool)
    if asked >= len(labels):
        raise ArgumentError(f"`neighbours`, {asked}, must be fewer than the {len(labels)} examples.")
    if wrong.shape != (len(labels),):
        raise ShapeError(f"`changed` needs one entry for each of {len(labels)} examples; got shape {wrong.shape}.")
    values = retrieve(network, inputs, 1)["entropy"].values.astype(np.float64)
    logs = class_logs(network, inputs)
    near = {
        "pixels": nearest(inputs, inputs, asked + 1),
        "the embedding": neighbours_in_embedding(network, (inputs, labels), inputs, asked + 1),
    }
    scores = {SIGNS[0]: -values, SIGNS[1]: values, "loss": -logs.gather(1, labels[:, None])[:, 0].numpy()}
    scores |= {f"label disagreement in {where}": _disagreement(ids, labels) for where, ids in near.items()}
    table = label_noise(scores, wrong, seed=seed)
    table.data.attrs["title"] = f"Odd examples, {int(wrong.sum())} of {len(labels)}"
    table.data.attrs["measure"] = "of the odd ones"
    table.data.attrs["notes"] = [_which(table)]
    return table


def _which(table: Table) -> str:
    """Say which sign of the entropy finds what is odd."""
    for sign in SIGNS:
        area = table.value(sign, "AUROC")
        if area.low > _EVEN:
            return f"{sign.capitalize()} of the index finds the odd ones better than chance."
    return "Neither sign of the entropy finds the odd ones better than chance."


def _disagreement(near: Int[np.ndarray, "examples ranks"], labels: Int[Tensor, " examples"]) -> NDArray[Any]:
    """Return the share of each example's nearest others that have another label."""
    kinds = labels.numpy()
    others = near != np.arange(len(near))[:, None]
    others[others.all(1), -1] = False  # an equal copy stood in its place: leave the farthest out
    wrong = (kinds[near] != kinds[:, None]) & others
    found: NDArray[Any] = wrong.sum(1) / (near.shape[1] - 1)
    return found


def _same(network: ProvenanceNetwork, train_data: Any) -> tuple[Tensor, Int[Tensor, " examples"]]:
    """Return the network's own training data."""
    check_network(network, "Entropy of the index")
    examples: Examples = as_examples(train_data)
    if examples.fingerprint != network.fingerprint:
        raise ChangedDataError(
            f"The network's index is of {network.fingerprint}; this is {examples.fingerprint}. Give the training data "
            "that the network was made with."
        )
    return as_data(examples, "training")
