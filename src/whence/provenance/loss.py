"""The loss of a provenance network, for any training loop."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from whence._errors import ArgumentError, HeadMemoryError
from whence.provenance.cosine import MemoryBank
from whence.provenance.network import ProvenanceNetwork
from whence.provenance.objective import Compared, Losses, Objective, candidates, index_loss, neighbourhood_loss


def provenance_loss(
    network: ProvenanceNetwork,
    inputs: Any,
    labels: Any,
    ids: Int[Tensor, " batch"],
    *,
    objective: Objective | None = None,
    views: Any = None,
    generator: torch.Generator | None = None,
) -> Losses:
    """Return the losses of a batch, for any training loop.

    Args:
        network: The network, in training mode.
        inputs: The batch, as the backbone takes it.
        labels: Its labels.
        ids: Which training examples they are.
        objective: The losses and their weights.
        views: Distorted inputs that are to keep their index, in the same order; they count like the inputs.
        generator: Of the draws of negatives and of mixed labels.

    Raises:
        ArgumentError: If an id has another label than it had when the network was made, so that ids have changed;
            or labels are mixed and a class has one example.
        HeadMemoryError: If the device's memory does not hold what the index head needs.
    """
    goal = Objective() if objective is None else objective
    if network.conditional and goal.negatives is not None:
        raise ArgumentError("A class-conditional network compares within classes: leave `negatives` out.")
    groups = _same_labels(network, labels, ids)
    try:
        return _losses(network, (inputs, views), (labels, groups.to(ids.device)), ids, goal, generator)
    except torch.OutOfMemoryError as error:
        raise HeadMemoryError(
            f"The device's memory is too small for this batch and the {type(network.head).__name__} over "
            f"{len(network.index)} examples. Compare with fewer, Objective(negatives=8192) with "
            "CosineHead(sparse=True); or take MemoryBank, or CodeHead, whose size does not grow with the examples; or "
            "smaller batches."
        ) from error


def _losses(
    network: ProvenanceNetwork,
    inputs: tuple[Any, Any],
    labels: tuple[Any, Tensor],
    ids: Tensor,
    goal: Objective,
    generator: torch.Generator | None,
) -> Losses:
    answer = network(inputs[0], labels[1])
    answers = [answer] if inputs[1] is None else [answer, network(inputs[1], labels[1])]
    nothing = answer.embedding.new_zeros(())
    classes = index = near = task = nothing
    for one in answers:
        if one.classes is not None and goal.classes > 0:
            classes = classes + F.cross_entropy(one.classes, labels[1]) / len(answers)
        if one.task is not None and network.task_loss is not None:
            task = task + network.task_loss(one.task, labels[0]) / len(answers)
    if network.head.trained and (goal.index > 0 or goal.neighbourhood > 0):
        embedding = torch.cat([one.embedding for one in answers])
        if isinstance(network.head, MemoryBank):
            network.head.remember(ids, answer.embedding)
        compared = compare(network, embedding, ids.repeat(len(answers)), goal.negatives, generator)
        index = index_loss(compared, network.index, goal, generator)
        near = neighbourhood_loss(compared, network.index) if goal.neighbourhood > 0 else nothing
        if isinstance(network.head, MemoryBank):
            network.head.forget()
    total = goal.classes * classes + goal.index * index + goal.neighbourhood * near + goal.task * task
    right = nothing if answer.classes is None else (answer.classes.argmax(1) == labels[1]).float().mean()
    return Losses(total, classes, index, near, task, right)


def compare(
    network: ProvenanceNetwork,
    embedding: Float[Tensor, "batch width"],
    ids: Int[Tensor, " batch"],
    negatives: int | None = None,
    generator: torch.Generator | None = None,
) -> Compared:
    """Return the logits that the index loss of some training examples is over: of their class if conditional."""
    if network.conditional:
        labels = network.index.labels[ids.cpu()].to(ids.device)
        columns, target = network.index.table[labels.cpu()].to(ids.device), network.index.local[ids.cpu()]
        return Compared(network.head.within(embedding, labels), columns, target.to(ids.device))
    chosen, target = candidates(ids, len(network.index), negatives, generator)
    columns = torch.arange(len(network.index), device=ids.device) if chosen is None else chosen
    return Compared(network.head.logits(embedding, chosen), columns, target)


def _same_labels(network: ProvenanceNetwork, labels: Any, ids: Tensor) -> Tensor:
    """Return the groups of a batch; its labels must be those that the ids had.

    Raises:
        ArgumentError: If they are not.
    """
    known = network.index.labels[ids.cpu()]
    if network.task_branch is None:
        wrong = (known != labels.cpu()).nonzero()[:, 0].tolist()
        if wrong:
            one = wrong[0]
            raise ArgumentError(
                f"Example {int(ids[one])} has the label {int(labels[one])}; it had {int(known[one])} when the network "
                "was made. An example's index must stay the same in all epochs: give ids that come with "
                "the examples (such as from a dataset that returns them), not places in a shuffled batch."
            )
    return known
