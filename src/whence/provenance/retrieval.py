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

from whence._errors import ArgumentError, DataError, ShapeError
from whence._numbers import check_budget, is_whole
from whence._progress import progress
from whence.provenance.indices import as_classes
from whence.provenance.modes import evaluating
from whence.provenance.network import REFUSALS, Answer, ProvenanceNetwork, check_network, device_of
from whence.runs.trees import leaves, rows, to_device

_FLOATS_A_LOGIT = 4  # logits, their logarithm, and what topk holds
_LOWEST = -1e9
_ROWS = 64  # fewer make a product slow
_AT_ONCE = 2**22  # logits: more do not make it faster, they leave the processor's caches


@final
@dataclass(frozen=True, eq=False)
class Read:
    """What a network says of some inputs, by row.

    Attributes:
        classes: Log probabilities of the classes, (inputs, classes); None of a single-branch network.
        logs: Log probabilities of the examples in ``columns``, (inputs, some).
        columns: Which examples these are, (inputs, some), -1 for none; None for all in order.
        examples: How many training examples there are.
        within: Log probabilities of the index given the class, the most probable one's, (inputs,).
        entropy: Of the index, given the class if the network is conditional, nats, (inputs,).
        logit: The largest logit of the index, given the class if the network is conditional, (inputs,): of heads that
            compare by cosine, how alike the most alike example is, whatever the others are.
    """

    classes: Tensor | None
    logs: Tensor
    columns: Tensor | None
    examples: int
    within: Tensor
    entropy: Tensor
    logit: Tensor

    @property
    def index(self) -> Float[Tensor, "inputs examples"]:
        """Log probabilities of all training examples; minus infinity of those outside the classes considered."""
        if self.columns is None:
            return self.logs
        found = self.logs.new_full((len(self.logs), self.examples + 1), float("-inf"))  # the last for those of no one
        return found.scatter(1, self.columns % (self.examples + 1), self.logs)[:, :-1]

    def best(self, k: int) -> tuple[Float[Tensor, "inputs k"], Int[Tensor, "inputs k"]]:
        """Return log probabilities and ids of the ``k`` most probable examples."""
        values, places = self.logs.topk(k, dim=1)
        return values, places if self.columns is None else self.columns.gather(1, places)


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
        Variables ``exemplar`` (id; -1 where a class has no more), ``score`` (log probability, nats) and
        ``exemplar_class``, dims ("query", "rank");
        and by "query": ``predicted`` (the class; of a single-branch network that of the first exemplar),
        ``class_confidence`` (log probability of it, nan of a single-branch network), ``index_confidence`` (log
        probability of the first exemplar, given the class if the network is conditional), ``entropy`` (of the index,
        nats) and ``index_logit`` (the largest; of heads that compare by cosine, how alike the first exemplar is over
        the temperature: what tells members best).

    Raises:
        ArgumentError: If k or considered is not from 1 to what there is, there is no input, the network does not take
            one, or is none, or the memory budget is no whole number, at least 1.
        DataError: If inputs are not tensors, or the network's answer to one is no number.
        ShapeError: If they have not the axes or the number of tensors of a batch of the training data.
    """
    check_network(network, "retrieve")
    index = network.index
    check_budget(memory_budget)
    _in_range("considered", considered, index.classes)
    _in_range("k", k, considered * index.largest if network.conditional else len(index))
    count, start = count_of(network, inputs), 0
    ids, values = np.empty((count, k), np.int64), np.empty((count, k))
    known, sure, within, entropy, logit = np.empty(count, np.int64), *(np.full(count, np.nan) for _ in range(4))
    # filled in place: small arrays kept from each chunk would stand between the large ones and break up the memory
    for read in reading(network, inputs, considered=considered, memory_budget=memory_budget):
        scores, best = (one.cpu() for one in read.best(k))
        rows = slice(start, start := start + len(best))
        ids[rows], values[rows] = best, scores
        known[rows] = index.labels[best[:, 0]] if read.classes is None else read.classes.argmax(1).cpu()
        if read.classes is not None:
            sure[rows] = read.classes.amax(1).cpu()
        within[rows], entropy[rows], logit[rows] = read.within.cpu(), read.entropy.cpu(), read.logit.cpu()
    if np.isnan(values).any():
        wrong = int(np.isnan(values).any(1).argmax())
        raise DataError(
            f"What the network says of input {wrong} is no number (nan). Look for numbers that are not finite in the "
            "inputs, torch.isfinite(inputs), and in the network's parameters."
        )
    no_more = np.isneginf(values)
    return xr.Dataset(
        {
            "exemplar": (("query", "rank"), np.where(no_more, -1, ids)),
            "score": (("query", "rank"), values, {"unit": "nats, log probability"}),
            "exemplar_class": (("query", "rank"), np.where(no_more, -1, index.labels.numpy()[ids])),
            "predicted": ("query", known),
            "class_confidence": ("query", sure, {"unit": "nats, log probability"}),
            "index_confidence": ("query", within, {"unit": "nats, log probability"}),
            "entropy": ("query", entropy, {"unit": "nats"}),
            "index_logit": ("query", logit),
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
    count = count_of(network, inputs)
    columns = considered * network.index.largest if network.conditional else len(network.index)
    fits = memory_budget // (4 * _FLOATS_A_LOGIT * columns)
    chunk = max(1, min(1024, fits, max(_ROWS, _AT_ONCE // columns)))
    device = device_of(network)
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

    Raises:
        ArgumentError: If there is no input, the network does not take one, or is none, or chunk is no whole number, at
            least 1.
        LabelError: If a label is none of the classes.
        DataError: If inputs are not tensors.
        ShapeError: If they have not the axes or the number of tensors of a batch of the training data, or there is not
            one label an input.
    """
    check_network(network, "embeddings")
    if not is_whole(chunk) or chunk < 1:
        raise ArgumentError(f"`chunk` is a whole number of inputs, at least 1; got {chunk!r}.")
    count, device = count_of(network, inputs), device_of(network)
    known = None if labels is None else as_classes(network.index, labels, count).to(device)
    with evaluating(network), torch.no_grad():
        found = [
            answered(
                network,
                to_device(rows(inputs, start, start + chunk), device),
                None if known is None else known[start : start + chunk],
            ).embedding
            for start in range(0, count, chunk)
        ]
    return torch.cat(found)


def _read(network: ProvenanceNetwork, inputs: Any, considered: int) -> Read:
    answer = answered(network, inputs)
    classes = None if answer.classes is None else torch.log_softmax(answer.classes, 1)
    many = len(network.index)
    if not network.conditional:
        logits = network.head.logits(answer.embedding)
        logs = torch.log_softmax(logits, 1)
        return Read(classes, logs, None, many, logs.amax(1), -(logs.exp() * logs).sum(1), logits.amax(1))
    assert classes is not None
    table = network.index.table.to(classes.device)
    chances, order = classes.topk(considered, dim=1)
    whole: list[Tensor] = []
    within: list[Tensor] = []
    joint: list[Tensor] = []
    for place in range(considered):
        embedding = network.embed(answer.features, order[:, place])
        whole.append(network.head.within(embedding, order[:, place]))
        logs = torch.log_softmax(whole[-1], 1)
        within.append(logs.masked_fill(table[order[:, place]] < 0, float("-inf")))  # nan in a class without examples
        joint.append(within[-1] if considered == 1 else within[-1] + chances[:, place : place + 1])
    first = within[0]
    entropy = -(first.exp() * first.clamp(min=_LOWEST)).sum(1)  # so that 0 · log 0 is 0
    columns, largest = table[order].flatten(1), whole[0].amax(1)
    return Read(classes, torch.cat(joint, 1), columns, many, first.amax(1), entropy, largest)


def answered(network: ProvenanceNetwork, inputs: Any, labels: Tensor | None = None) -> Answer:
    """Return what the network says of inputs.

    Raises:
        OutOfMemoryError: Torch's own, if the device's memory does not hold the answer.
        ArgumentError: If it does not take them.
    """
    try:
        found: Answer = network(inputs, labels)
    except torch.OutOfMemoryError:
        raise
    except REFUSALS as error:
        given = "; ".join(f"shape {tuple(one.shape)}, {one.dtype}" for one in leaves(inputs))
        raise ArgumentError(
            f"The network does not take these inputs, {given}: {error}. Give inputs of the sizes and the dtype of the "
            "training data, such as inputs.float()."
        ) from error
    return found


def count_of(network: ProvenanceNetwork, inputs: Any) -> int:
    """Return how many inputs a batch has.

    Raises:
        DataError: If it is not of tensors.
        ShapeError: If its tensors are more or fewer than those of a batch of the training data, such as inputs with
            their labels, or have not as many axes, such as a single input.
        ArgumentError: If it has none.
    """
    found = tuple(leaves(inputs))
    count = next((len(one) for one in found if one.dim()), None)
    if count is None:
        raise DataError(
            f"Inputs must be a batch as the backbone takes it, a tensor or a dict or tuple of tensors; got "
            f"{type(inputs).__name__}. torch.as_tensor makes one of an array."
        )
    axes = tuple(one.dim() for one in found)
    if isinstance(inputs, tuple) and len(axes) != len(network.axes):
        tensors = "1 tensor" if len(network.axes) == 1 else f"{len(network.axes)} tensors"
        raise ShapeError(
            f"A batch of the training data is {tensors}; got {len(axes)}. Give the inputs alone, without labels."
        )
    if len(axes) == len(network.axes) and axes != network.axes:
        which = next(place for place, one in enumerate(axes) if one != network.axes[place])
        single = "Give a single input its batch axis with inputs[None]." if axes[which] < network.axes[which] else ""
        raise ShapeError(
            f"A batch of the training data has {network.axes[which]} axes, the first that of the batch; got shape "
            f"{tuple(found[which].shape)}. {single}".rstrip()
        )
    if count == 0:
        raise ArgumentError("There is no input to answer: the batch has 0 examples.")
    return count


def _in_range(name: str, given: object, most: int) -> None:
    if not is_whole(given) or not 1 <= int(given) <= most:  # type: ignore[call-overload]
        raise ArgumentError(f"`{name}` is a whole number from 1 to {most}; got {given!r}.")
