"""What the applications of provenance networks count: are retrieved examples the right ones, or of the class?"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple, final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from whence._errors import ArgumentError, LabelError, ShapeError
from whence._statistics import Interval, share_interval
from whence.attribution.baselines import class_numbers
from whence.datasets import as_examples
from whence.provenance import CONDITIONS, Distortion, ProvenanceNetwork, embeddings, reading, retrieve
from whence.provenance.modes import evaluating

FIVE = 5  # retrieved examples that the paper looks at
FEW = ("first", "any of five", "majority of five")
_AT_ONCE = 512  # queries whose distances to all are held

Data = tuple[Tensor, Tensor]


@final
class Agreement(NamedTuple):
    """Of which queries the class of retrieved examples is right; any of five comes nearly free, the majority does not.

    Attributes:
        first: The first one's class is.
        anyone: One of them is.
        majority: The most frequent class among them is; of equals the one that comes first.
    """

    first: Bool[np.ndarray, " queries"]
    anyone: Bool[np.ndarray, " queries"]
    majority: Bool[np.ndarray, " queries"]


def agreement(classes: Int[np.ndarray, "queries ranks"], labels: Int[np.ndarray, " queries"]) -> Agreement:
    """Compare the classes of retrieved examples, best first, with the true ones; -1 stands for no example."""
    same = classes == labels[:, None]
    return Agreement(same[:, 0], same.any(1), majority(classes) == labels)


def majority(classes: Int[np.ndarray, "queries ranks"]) -> Int[np.ndarray, " queries"]:
    """Return the most frequent class of each row; of equals the one that comes first."""
    votes = ((classes[:, :, None] == classes[:, None, :]) & (classes >= 0)[:, :, None]).sum(2)
    found: NDArray[np.integer] = classes[np.arange(len(classes)), votes.argmax(1)]
    return found


def exemplars(
    network: ProvenanceNetwork, inputs: Any, k: int = FIVE
) -> tuple[Int[np.ndarray, "queries ranks"], Int[np.ndarray, "queries ranks"]]:
    """Return ids and classes of the training examples behind each answer; both -1 where a class has no more."""
    found = retrieve(network, inputs, k)
    ids = found["exemplar"].values
    return ids, np.where(ids < 0, -1, found["exemplar_class"].values)


def own_index(network: ProvenanceNetwork, inputs: Any) -> Bool[np.ndarray, " examples"]:
    """Return which training examples, all of them in their order, are the first that is retrieved for themselves."""
    found: NDArray[np.bool_] = exemplars(network, inputs, 1)[0][:, 0] == np.arange(len(network.index))
    return found


def class_hits(
    network: ProvenanceNetwork, inputs: Any, labels: Int[Tensor, " queries"]
) -> Bool[np.ndarray, " queries"]:
    """Return of which inputs the class is right: that of the class branch, or of the first example retrieved."""
    found: NDArray[np.bool_] = retrieve(network, inputs, 1)["predicted"].values == labels.numpy()
    return found


def class_logs(network: ProvenanceNetwork, inputs: Any) -> Float[Tensor, "queries classes"]:
    """Return log probabilities of the classes; of a single-branch network those of each class's examples, summed."""
    parts = []
    for read in reading(network, inputs):
        if read.classes is not None:
            parts.append(read.classes.cpu().double())
        else:
            of = F.one_hot(network.index.labels, network.index.classes).bool()
            logs = read.index.cpu().double()
            parts.append(torch.stack([logs[:, one].logsumexp(1) for one in of.T], 1))
    return torch.cat(parts)


def nearest(
    queries: Float[Tensor, "queries *shape"], bank: Float[Tensor, "bank *shape"], k: int
) -> Int[np.ndarray, "queries ranks"]:
    """Return which of a bank are at the smallest Euclidean distance from each query, the nearest first."""
    own, known = (one.detach().cpu().double().flatten(1) for one in (queries, bank))
    parts = [torch.cdist(some, known).topk(k, largest=False).indices for some in own.split(_AT_ONCE)]
    found: NDArray[np.int64] = torch.cat(parts).numpy()
    return found


def neighbours_in_embedding(
    network: ProvenanceNetwork, train: Data, inputs: Tensor, k: int = FIVE
) -> Int[np.ndarray, "queries ranks"]:
    """Return the training examples nearest by cosine in the network's own embedding: what the head has to beat."""
    bank, own = embeddings(network, train[0], network.index.labels), embeddings(network, inputs)
    return nearest(F.normalize(own, dim=1), F.normalize(bank, dim=1), k)


def neighbours_in_features(
    network: ProvenanceNetwork, train: Data, inputs: Tensor, k: int = FIVE
) -> Int[np.ndarray, "queries ranks"]:
    """Return the training examples nearest by cosine in the features of the backbone, which no class enters."""
    bank, own = (F.normalize(features_of(network, one), dim=1) for one in (train[0], inputs))
    return nearest(own, bank, k)


def features_of(network: ProvenanceNetwork, inputs: Tensor) -> Float[Tensor, "queries features"]:
    """Return the pooled features of the backbone."""
    device = next(network.parameters()).device
    with evaluating(network), torch.no_grad():
        return torch.cat([network(some.to(device)).features for some in inputs.split(_AT_ONCE)])


def share_of(hits: Bool[np.ndarray, " queries"]) -> Interval:
    """Return a share of independent examples with its exact 95 % interval."""
    return share_interval(int(hits.sum()), len(hits))


def as_data(data: Any, which: str) -> Data:
    """Return all inputs and class numbers of some data.

    Raises:
        ArgumentError: If labels are not one whole number each.
        ShapeError: If inputs are not one tensor.
    """
    examples = as_examples(data)
    labels = class_numbers(examples, which)
    inputs = examples.batch(range(len(examples)))[0]
    if not isinstance(inputs, Tensor):
        raise ShapeError(f"The {which} inputs must be one tensor, (examples, ...); they are {type(inputs).__name__}.")
    return inputs, labels


def as_conditions(given: Any) -> dict[str, Distortion]:
    """Return distortions by name; names alone are those of `whence.provenance.CONDITIONS`.

    Raises:
        LabelError: If there is no condition of a name.
        ArgumentError: If there is none, or one is no function.
    """
    if not given or isinstance(given, str):
        raise ArgumentError(f"`conditions` are names, or distortions by name, at least one; got {given!r}.")
    if isinstance(given, Mapping):
        for name, one in given.items():
            if not callable(one):
                raise ArgumentError(
                    f"The condition {name!r} is no function of pictures and a generator, such as Rotation(30); got "
                    f"{one!r}."
                )
        return {str(name): one for name, one in given.items()}
    for name in given:
        if name not in CONDITIONS:
            near = " or ".join(get_close_matches(name, CONDITIONS)) or "none is close"
            raise LabelError(
                f"No condition {name!r} among the {len(CONDITIONS)} of whence.provenance.CONDITIONS (similar: {near})."
            )
    return {name: CONDITIONS[name] for name in given}


def distorted(pictures: Tensor, how: Distortion, seed: int) -> Tensor:
    """Return pictures distorted by draws of a seed."""
    return how(pictures, torch.Generator().manual_seed(seed))
