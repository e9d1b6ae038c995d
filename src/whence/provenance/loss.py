"""The loss of a provenance network, for any training loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from whence._errors import ArgumentError, HeadMemoryError, LabelError, ShapeError
from whence.provenance.cosine import MemoryBank
from whence.provenance.network import ProvenanceNetwork, check_network, device_of
from whence.provenance.objective import Compared, Losses, Objective, candidates, index_loss, neighbourhood_loss
from whence.provenance.retrieval import answered, count_of
from whence.runs.trees import leaves


def provenance_loss(
    network: ProvenanceNetwork,
    inputs: Any,
    labels: Any,
    ids: Any,
    *,
    objective: Objective | None = None,
    views: Any = None,
    generator: torch.Generator | None = None,
) -> Losses:
    """Return the losses of a batch, for any training loop.

    Ids that change from epoch to epoch are told by labels that are not those the ids had. Where they change among
    examples of one label alone, a batch does not show it: inputs may be distorted on purpose. `train`
    holds the data's fingerprint against it too.

    Args:
        network: The network, in training mode.
        inputs: The batch, as the backbone takes it.
        labels: Its labels.
        ids: Which training examples they are, whole numbers, (batch,).
        objective: The losses and their weights.
        views: Distorted inputs that are to keep their index, in the same order; they count like the inputs.
        generator: Of the draws of negatives and of mixed labels.

    Raises:
        ArgumentError: If an id has another label than it had when the network was made, so that ids have changed;
            labels are mixed and a class has one example; there is not one id, label and view an input; the network
            does not take the inputs; network or objective are of another kind; or a class-conditional network is
            asked for the neighbourhood loss.
        DataError: If inputs are not tensors.
        ShapeError: If inputs have not the axes of a batch of the training data, or views not the shapes of inputs.
        LabelError: If an id is none of the training examples.
        HeadMemoryError: If the device's memory does not hold what the index head needs.
    """
    check_network(network, "provenance_loss")
    goal = Objective() if objective is None else objective
    if not isinstance(goal, Objective):
        raise ArgumentError(f"`objective` is an Objective, such as Objective(mixing=0.5); got {goal!r}.")
    if goal.neighbourhood > 0 and network.conditional:
        raise ArgumentError(
            "A class-conditional network compares examples of one class only, of which the neighbourhood loss is 0. "
            "Leave `neighbourhood` out, or take a class-independent network."
        )
    known = _known_ids(network, ids, inputs, views)
    groups = _same_labels(network, labels, known)
    try:
        return _losses(network, (inputs, views), (labels, groups.to(known.device)), known, goal, generator)
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
    times = 1 if inputs[1] is None else 2  # one pass for both, so that batch normalisation sees both
    both = inputs[0] if inputs[1] is None else joined(*inputs)
    classes = labels[1].repeat(times)
    answer = answered(network, both, classes)
    nothing = answer.embedding.new_zeros(())
    of_classes = index = near = task = right = nothing
    if answer.classes is not None:
        right = (answer.classes[: len(ids)].argmax(1) == labels[1]).float().mean()
        if goal.classes > 0:
            of_classes = F.cross_entropy(answer.classes, classes)
    if answer.task is not None and network.task_loss is not None:
        task = network.task_loss(answer.task, labels[0] if times == 1 else joined(labels[0], labels[0]))
    if network.head.trained and (goal.index > 0 or goal.neighbourhood > 0):
        if isinstance(network.head, MemoryBank):
            network.head.remember(ids, answer.embedding[: len(ids)])
        try:
            compared = compare(network, answer.embedding, ids.repeat(times), goal.negatives, generator)
            index = index_loss(compared, network.index, goal, generator)
            near = neighbourhood_loss(compared, network.index) if goal.neighbourhood > 0 else nothing
        finally:  # also after an error that the caller lives on with, such as too little memory
            if isinstance(network.head, MemoryBank):
                network.head.forget()
    total = goal.classes * of_classes + goal.index * index + goal.neighbourhood * near + goal.task * task
    return Losses(total, of_classes, index, near, task, right)


def joined(one: Any, other: Any) -> Any:
    """Return two batches of the same structure as one."""
    if isinstance(one, Tensor):
        return torch.cat((one, other))
    if isinstance(one, Mapping):
        return {name: joined(value, other[name]) for name, value in one.items()}
    return tuple(joined(*pair) for pair in zip(one, other, strict=True))


def compare(
    network: ProvenanceNetwork,
    embedding: Float[Tensor, "batch width"],
    ids: Int[Tensor, " batch"],
    negatives: int | None = None,
    generator: torch.Generator | None = None,
) -> Compared:
    """Return the logits that the index loss of some training examples is over: of their class if conditional."""
    labels = network.index.labels[ids.cpu()].to(ids.device)
    if network.conditional and negatives is None:
        columns, target = network.index.table[labels.cpu()].to(ids.device), network.index.local[ids.cpu()]
        return Compared(network.head.within(embedding, labels), columns, target.to(ids.device))
    chosen, target = candidates(ids, len(network.index), negatives, generator)
    columns = torch.arange(len(network.index), device=ids.device) if chosen is None else chosen
    logits = network.head.logits(embedding, chosen)
    if network.conditional:
        others = network.index.labels.to(ids.device)[columns][None] != labels[:, None]
        logits = logits.masked_fill(others, float("-inf"))
    return Compared(logits, columns, target)


def _known_ids(network: ProvenanceNetwork, given: Any, inputs: Any, views: Any) -> Tensor:
    """Return the ids of a batch as int64 on the network's device, checked.

    Raises:
        ArgumentError: If they are not whole numbers along one axis, one an input and view.
        ShapeError: If views have not the shapes of their inputs.
        LabelError: If one is none of the training examples.
        DataError: If inputs are not tensors.
    """
    try:
        ids = torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError) as error:  # the last of None
        raise ArgumentError(f"ids must be whole numbers; torch makes no tensor of them: {error}.") from error
    if ids.dim() != 1 or len(ids) == 0 or ids.is_floating_point() or ids.dtype == torch.bool:
        raise ArgumentError(
            f"ids must be whole numbers along one axis, at least one; got {ids.dtype}, shape {tuple(ids.shape)}."
        )
    count_of(network, inputs)
    for name, batch in (("inputs", inputs), ("views", views)):
        counts = {len(one) for one in leaves(batch) if one.dim()}
        if counts - {len(ids)}:
            raise ArgumentError(f"There are {len(ids)} ids and {max(counts - {len(ids)})} {name}: give one id each.")
    shapes, seen = ([tuple(one.shape) for one in leaves(batch)] for batch in (inputs, views))
    if views is not None and shapes != seen:
        raise ShapeError(
            f"Views need the shapes of their inputs, {', '.join(map(str, shapes))}; got "
            f"{', '.join(map(str, seen)) or type(views).__name__}. A distortion returns what it is given, changed."
        )
    low, high = (int(extreme) for extreme in ids.aminmax())
    if low < 0 or high >= len(network.index):
        raise LabelError(
            f"No example id {low if low < 0 else high}: the network was made with {len(network.index)} training "
            "examples, and their ids are their places there. Of other data make the network anew."
        )
    return ids.to(device_of(network), torch.int64)


def _same_labels(network: ProvenanceNetwork, labels: Any, ids: Tensor) -> Tensor:
    """Return the groups of a batch; its labels must be those that the ids had.

    Raises:
        ArgumentError: If they are not, or no numbers.
    """
    known = network.index.labels[ids.cpu()]
    if network.task_branch is None:
        try:
            given = torch.as_tensor(labels).cpu()
        except (TypeError, ValueError, RuntimeError) as error:  # the last of None
            raise ArgumentError(f"labels must be class numbers; torch makes no tensor of them: {error}.") from error
        if given.shape != known.shape:
            raise ArgumentError(
                f"A batch needs one label an example, ({len(known)},) as there are {len(known)} ids; got labels of "
                f"shape {tuple(given.shape)}."
            )
        wrong = (known != given).nonzero()[:, 0].tolist()
        if wrong:
            one = wrong[0]
            raise ArgumentError(
                f"Example {int(ids[one])} has the label {given[one].item()}; it had {int(known[one])} when the network "
                "was made. An example's index must stay the same in all epochs: give ids that come with "
                "the examples (such as from a dataset that returns them), not places in a shuffled batch."
            )
    return known
