"""How well a provenance network retrieves, beside what plain nearest neighbours would (Provenance Networks, 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from whence._errors import ArgumentError
from whence._numbers import is_whole
from whence.datasets import Examples, as_examples
from whence.evaluation.provenance.measures import Data, agreement, nearest, share_of
from whence.evaluation.provenance.membership import membership_by_index
from whence.evaluation.table import Table, Tables, table_of
from whence.provenance import (
    Distortion,
    NoDistortion,
    ProvenanceNetwork,
    Translation,
    conditions,
    embeddings,
    retrieve,
)
from whence.provenance.backbones import range_of, some_pictures
from whence.provenance.training import same_data

NETWORK, EMBEDDING, PIXELS = "provenance network", "neighbours in its embedding", "neighbours in pixels"
_CHUNK = 1024  # examples read at once
_EXACT = "Clopper-Pearson, over examples"

Ids = Int[np.ndarray, "queries rank"]


def retrieval_accuracy(
    network: ProvenanceNetwork, train_data: Any, test_data: Any, *, k: int = 5, limit: int | None = 2000
) -> Tables:
    """Measure what a provenance network answers and retrieves, beside nearest neighbours.

    Neighbours are by cosine in the network's embedding, and by Euclidean distance in pixels. A class-conditional
    network retrieves from the class that it predicts only, so the class of what it retrieves is right where its answer
    is.

    Args:
        network: A trained network.
        train_data: The data that it was made with.
        test_data: Other data.
        k: How many examples to retrieve.
        limit: Take so many evenly spaced test examples, and training examples for the index, at most; None for all.

    Returns:
        Two tables. ``answers``: the share of test examples whose class is right, and of training examples for which the
        first retrieved is itself. ``retrieved``: the share of test examples for which the class of the first retrieved
        is right, of any of the k, and of most of them; of classes equally frequent, that of the more probable counts.

    Raises:
        ChangedDataError: If the training data is another.
        ArgumentError: If ``k`` is not from 1 to what can be retrieved, or the limit is no whole number, at least 1.
    """
    train, test = _same(network, train_data), as_examples(test_data)
    asked, own = spaced_ids(len(test), limit), spaced_ids(len(train), limit)
    truth = test.labels[asked].cpu().numpy()
    exemplars, predicted, queries = _retrieved(network, test, asked, k)
    itself = _retrieved(network, train, own, 1)[0][:, 0] == np.array(own)
    found = {
        NETWORK: exemplars,
        EMBEDDING: nearest(F.normalize(queries), F.normalize(_embedded(network, train)), k),
        PIXELS: nearest_examples(_flat(test, asked), train, k),
    }
    labels = network.index.labels.numpy()
    right = {name: agreement(np.where(ids < 0, -1, labels[ids]), truth) for name, ids in found.items()}
    answers = table_of(
        [[share_of(predicted == truth)], [share_of(itself)]],
        ("of", [f"class of {len(asked):,} test examples", f"index of {len(own):,} training examples"]),
        ("measure", ["share right"]),
        title="Answers of the provenance network",
        measure="share",
        interval=_EXACT,
    )
    retrieved = table_of(
        [[share_of(one) for one in each] for each in right.values()],
        ("retrieved by", list(right)),
        ("right", ["class of the first", f"of any of {k}", f"of most of {k}"]),
        title=f"Class of what is retrieved for {len(asked):,} test examples",
        measure="share right",
        interval=_EXACT,
        notes=[_CONDITIONAL] if network.conditional else [],
    )
    return Tables({"answers": answers, "retrieved": retrieved})


def distorted_retrieval(
    network: ProvenanceNetwork,
    train_data: Any,
    distortions: Mapping[str, Distortion] | None = None,
    *,
    limit: int | None = 2000,
    seed: int = 0,
) -> Table:
    """Measure whether the first example retrieved for a distorted training picture is that picture.

    Args:
        network: A trained network.
        train_data: The pictures that it was made with.
        distortions: By name; by default the paper's 15 conditions for the size and range of the pictures.
        limit: Take so many evenly spaced training pictures, at most; None for all.
        seed: Of the distortions; each begins with it anew.

    Returns:
        The share found exactly, a row a distortion: by the network, and by its nearest neighbours in the network's
        embedding and in pixels, among all training pictures.

    Raises:
        ChangedDataError: If the training data is another.
        ArgumentError: If the data is not of pictures, or the limit is no whole number, at least 1.
    """
    train = _same(network, train_data)
    seen, ids = some_pictures(train), spaced_ids(len(train), limit)
    side = min(seen.shape[2:])
    kinds = conditions(*range_of(seen), side=side) if distortions is None else distortions
    scaled = distortions is None and side != 28
    bank = F.normalize(_embedded(network, train))
    pictures, truth = torch.cat([train.batch(part)[0] for part in _parts(ids)]), np.array(ids)
    rows = []
    for distort in kinds.values():
        views = distort(pictures, torch.Generator().manual_seed(seed))
        answers = [retrieve(network, part, 1)["exemplar"].values for part in views.split(_CHUNK)]
        near = nearest(F.normalize(embeddings(network, views).cpu().double()), bank, 1)
        found = (np.concatenate(answers), near, nearest_examples(views.flatten(1).double(), train, 1))
        rows.append([share_of(one[:, 0] == truth) for one in found])
    return table_of(
        rows,
        ("distortion", list(kinds)),
        ("found by", [NETWORK, EMBEDDING, PIXELS]),
        title=f"Distorted training pictures found exactly, of {len(ids):,}",
        measure="share for which the first retrieved is the picture itself",
        interval=_EXACT,
        notes=[f"Strengths in pixels are the paper's, for a side of 28, times {side} / 28."] if scaled else [],
    )


def evaluate_provenance(
    network: ProvenanceNetwork,
    train_data: Any,
    test_data: Any,
    *,
    k: int = 5,
    limit: int | None = 2000,
    seed: int = 0,
) -> Tables:
    """Measure all of it: `retrieval_accuracy`, `distorted_retrieval` and `membership_by_index`.

    Args:
        network, train_data, test_data, k, limit: As in `retrieval_accuracy`.
        seed: Of distortions, bootstrap and blind control.

    Returns:
        Tables ``answers``, ``retrieved``, ``distorted``, ``membership`` and ``shifted membership``: the same of shifted
        pictures.

    Raises:
        ChangedDataError: If the training data is another.
        ArgumentError: As in each of these.
    """
    accuracy = retrieval_accuracy(network, train_data, test_data, k=k, limit=limit)
    distorted = distorted_retrieval(network, train_data, limit=limit, seed=seed)
    both = [some_of(one, limit) for one in (_same(network, train_data), as_examples(test_data))]
    known = conditions(*range_of(both[0][0]), side=min(both[0][0].shape[2:]))
    shift = next(one for one in known.values() if isinstance(one, Translation))
    kinds: dict[str, Distortion] = {"membership": NoDistortion(), "shifted membership": shift}
    members = membership_by_index(network, *both, conditions=kinds, seed=seed)
    return Tables({**accuracy.parts, "distorted": distorted, **members.parts})


def some_of(examples: Examples, limit: int | None) -> Data:
    """Return evenly spaced examples, all of them where there are no more than the limit.

    Raises:
        ArgumentError: If the limit is no whole number, at least 1.
    """
    ids = spaced_ids(len(examples), limit)
    return torch.cat([examples.batch(part)[0] for part in _parts(ids)]), examples.labels[ids]


def nearest_examples(queries: Float[Tensor, "queries numbers"], examples: Examples, k: int) -> Ids:
    """Return the examples whose inputs are at the smallest Euclidean distance from each query, nearest first.

    They are read a part at a time, so that no more of them is held.
    """
    values, ids = queries.new_empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64)
    for part in _parts(range(len(examples))):
        rows = _flat(examples, part)
        values = torch.cat([values, (rows**2).sum(1) - 2 * queries @ rows.T], 1)
        ids = torch.cat([ids, torch.tensor(part).expand(len(queries), -1)], 1)
        values, order = values.topk(min(k, values.shape[1]), dim=1, largest=False)
        ids = ids.gather(1, order)
    return ids.numpy()


def spaced_ids(count: int, limit: int | None) -> list[int]:
    """Return evenly spaced ids, all of them where there are no more than the limit.

    Raises:
        ArgumentError: If the limit is no whole number, at least 1.
    """
    if limit is not None and (not is_whole(limit) or limit < 1):
        raise ArgumentError(f"`limit` is a whole number, at least 1, or None for all; got {limit!r}.")
    if limit is None or limit >= count:
        return list(range(count))
    return [place * count // limit for place in range(limit)]


_CONDITIONAL = (
    "The network is class-conditional: it retrieves from the class that it predicts, so the class of what it retrieves "
    "says nothing beyond its answer."
)


def _same(network: ProvenanceNetwork, train_data: Any) -> Examples:
    """Return the training data as examples.

    Raises:
        ChangedDataError: If it is not what the network was made with.
    """
    examples = as_examples(train_data)
    same_data(network, examples)
    return examples


def _parts(ids: Sequence[int]) -> list[Sequence[int]]:
    return [ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK)]


def _retrieved(
    network: ProvenanceNetwork, examples: Examples, ids: Sequence[int], k: int
) -> tuple[Ids, NDArray[np.int64], Float[Tensor, "queries width"]]:
    """Return exemplars, predicted classes and embeddings of some examples."""
    exemplars, predicted, embedded = [], [], []
    for part in _parts(ids):
        inputs = examples.batch(part)[0]
        found = retrieve(network, inputs, k)
        exemplars.append(found["exemplar"].values)
        predicted.append(found["predicted"].values)
        embedded.append(embeddings(network, inputs).cpu().double())
    return np.concatenate(exemplars), np.concatenate(predicted), torch.cat(embedded)


def _embedded(network: ProvenanceNetwork, examples: Examples) -> Float[Tensor, "examples width"]:
    parts = _parts(range(len(examples)))
    return torch.cat([embeddings(network, examples.batch(part)[0]).cpu().double() for part in parts])


def _flat(examples: Examples, ids: Sequence[int]) -> Float[Tensor, "examples numbers"]:
    return torch.cat([examples.batch(part)[0].flatten(1).double() for part in _parts(ids)])
