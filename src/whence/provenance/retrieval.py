"""Answers with the training examples behind them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from whence._errors import ArgumentError
from whence._numbers import is_whole
from whence._progress import progress
from whence.provenance.network import ProvenanceNetwork, evaluating
from whence.runs.trees import leaves, rows, to_device

_FLOATS_A_LOGIT = 4  # logits, their logarithm, and what topk holds


@final
@dataclass(frozen=True, eq=False)
class Read:
    """What a network says of some inputs, by row.

    Attributes:
        classes: Log probabilities of the classes, (inputs, classes); None of a single-branch network.
        index: Log probabilities of all training examples, (inputs, examples).
        within: Log probabilities of the index given the class, the most probable one's, (inputs,).
        entropy: Of the index, given the class if the network is conditional, nats, (inputs,).
    """

    classes: Tensor | None
    index: Tensor
    within: Tensor
    entropy: Tensor


def retrieve(
    network: ProvenanceNetwork,
    inputs: Any,
    k: int = 5,
    *,
    considered: int = 1,
    memory_budget: int = 2**29,
) -> xr.Dataset:
    """Answer inputs, and name the training examples behind each answer, most probable first.

    Args:
        network: A trained network; it is read in evaluation mode.
        inputs: A batch of any length, as the backbone takes it.
        k: How many examples to name.
        considered: Of a class-conditional network: the examples of how many classes, the most probable ones, compete,
            each by the probability of its class times its own within it. 1 is the paper's way (3.2): all examples are
            of the predicted class, and a wrong class goes unseen in them.
        memory_budget: Bytes to hold besides network and inputs.

    Returns:
        Variables ``exemplar`` (id), ``score`` (log probability, nats) and ``exemplar_class``, dims ("query", "rank");
        and by "query": ``predicted`` (the class; of a single-branch network that of the first exemplar),
        ``class_confidence`` (log probability of it, nan of a single-branch network), ``index_confidence`` (log
        probability of the first exemplar, given the class if the network is conditional) and ``entropy`` (of the
        index, nats).

    Raises:
        ArgumentError: If k or considered is not from 1 to what there is.
    """
    index = network.index
    _in_range("k", k, int(index.sizes.max()) if network.conditional and considered == 1 else len(index))
    _in_range("considered", considered, index.classes)
    parts = []
    for read in reading(network, inputs, considered=considered, memory_budget=memory_budget):
        scores, best = read.index.topk(k, dim=1)
        first = index.labels[best[:, 0].cpu()]
        predicted = first if read.classes is None else read.classes.argmax(1).cpu()
        sure = torch.full((len(best),), torch.nan) if read.classes is None else read.classes.amax(1).cpu()
        parts.append((best.cpu(), scores.cpu(), predicted, sure, read.within.cpu(), read.entropy.cpu()))
    ids, values, known, confident, within, entropy = (torch.cat(one).numpy() for one in zip(*parts, strict=True))
    return xr.Dataset(
        {
            "exemplar": (("query", "rank"), np.where(np.isneginf(values), -1, ids)),
            "score": (("query", "rank"), values, {"unit": "nats, log probability"}),
            "exemplar_class": (("query", "rank"), index.labels.numpy()[ids]),
            "predicted": ("query", known),
            "class_confidence": ("query", confident, {"unit": "nats, log probability"}),
            "index_confidence": ("query", within, {"unit": "nats, log probability"}),
            "entropy": ("query", entropy, {"unit": "nats"}),
        },
        {"query": np.arange(len(ids)), "rank": np.arange(1, k + 1)},
        {"head": type(network.head).__name__, "fingerprint": network.fingerprint},
    )


def reading(
    network: ProvenanceNetwork, inputs: Any, *, considered: int = 1, memory_budget: int = 2**29
) -> Iterator[Read]:
    """Read inputs a chunk at a time, in evaluation mode, without gradients; the network is left in the mode it had.

    Args:
        network, inputs, considered, memory_budget: As `retrieve` takes them.

    Yields:
        What the network says of each chunk.
    """
    count = len(next(leaves(inputs)))
    chunk = max(1, min(1024, memory_budget // (4 * _FLOATS_A_LOGIT * len(network.index))))
    device = next(network.parameters()).device
    with progress("retrieving", count) as advance:
        for start in range(0, count, chunk):
            part = to_device(rows(inputs, start, start + chunk), device)
            with evaluating(network), torch.no_grad():
                found = _read(network, part, considered)
            yield found
            advance(min(chunk, count - start))


def embeddings(
    network: ProvenanceNetwork, inputs: Any, labels: Int[Tensor, " inputs"] | None = None, *, chunk: int = 512
) -> Float[Tensor, "inputs width"]:
    """Return the embedding of each input, in evaluation mode.

    Args:
        network: The network.
        inputs: A batch of any length.
        labels: The classes that a conditional index branch sees; the predicted ones by default.
        chunk: Inputs at a time.
    """
    device = next(network.parameters()).device
    with evaluating(network), torch.no_grad():
        found = [
            network(
                to_device(rows(inputs, start, start + chunk), device),
                None if labels is None else labels[start : start + chunk].to(device),
            ).embedding
            for start in range(0, len(next(leaves(inputs))), chunk)
        ]
    return torch.cat(found)


def _read(network: ProvenanceNetwork, inputs: Any, considered: int) -> Read:
    answer = network(inputs)
    classes = None if answer.classes is None else torch.log_softmax(answer.classes, 1)
    if not network.conditional:
        index = torch.log_softmax(network.head.logits(answer.embedding), 1)
        return Read(classes, index, index.amax(1), _entropy(index))
    assert classes is not None
    table = network.index.table.to(classes.device)
    found = classes.new_full((len(classes), len(network.index) + 1), float("-inf"))  # the last for numbers of no one
    chances, order = classes.topk(considered, dim=1)
    within: list[Tensor] = []
    for place in range(considered):
        labels = order[:, place]
        embedding = network.embed(answer.features, labels)
        within.append(torch.log_softmax(network.head.within(embedding, labels), 1))
        sure = within[-1] if considered == 1 else within[-1] + chances[:, place : place + 1]
        found = found.scatter(1, table[labels] % (len(network.index) + 1), sure)
    return Read(classes, found[:, :-1], within[0].amax(1), _entropy(within[0]))


def _entropy(logs: Float[Tensor, "batch some"]) -> Float[Tensor, " batch"]:
    """Return the entropy of each row of log probabilities, in nats; 0 · log 0 is 0."""
    return -(logs.exp() * logs.masked_fill(torch.isneginf(logs), 0)).sum(1)


def _in_range(name: str, given: object, most: int) -> None:
    if not is_whole(given) or not 1 <= int(given) <= most:  # type: ignore[call-overload]
        raise ArgumentError(f"`{name}` is a whole number from 1 to {most}; got {given!r}.")
