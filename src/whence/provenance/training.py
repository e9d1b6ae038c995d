"""Train a provenance network: a small loop with progress, checkpoints and exact resume."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer, SparseAdam

from whence._errors import ArgumentError, ChangedDataError
from whence._numbers import check_seed, is_number, is_whole
from whence._progress import Advance, progress
from whence.datasets import Examples, as_examples
from whence.provenance.checkpoints import Checkpoint, head_settings, parts_of, same_everywhere
from whence.provenance.codes import CodeHead
from whence.provenance.cosine import CosineHead, MemoryBank, Neighbours
from whence.provenance.loss import provenance_loss
from whence.provenance.network import ProvenanceNetwork, check_network, device_of
from whence.provenance.objective import Objective
from whence.provenance.retrieval import embeddings
from whence.runs.randomness import kept_randomness
from whence.runs.trees import to_device

MEASURES = ("loss", "class loss", "index loss", "neighbourhood loss", "task loss", "class accuracy")
_CHUNK = 1024  # examples at a time, to embed all
Distort = Callable[[Any, torch.Generator], Any]


def warm_up_and_decay(epoch: float, epochs: int) -> float:
    """Return the paper's factor of the rate (7.1.2): up to 1 within 3 epochs, then 0.6 of it each 8 epochs."""
    del epochs
    return epoch / 3 if epoch < 3 else 0.6 ** math.floor((epoch - 3) / 8)


def one_cycle(epoch: float, epochs: int) -> float:
    """Return a factor that goes up to 1 for 15 % of the training and down to 0 as a cosine: for short trainings."""
    share = epoch / epochs
    return share / 0.15 if share < 0.15 else (1 + math.cos(math.pi * (share - 0.15) / 0.85)) / 2


@final
@dataclass(frozen=True)
class Optimization:
    """How the loop steps; the defaults are the paper's (7.1.2): AdamW, its rate, weight decay, batches and schedule.

    Attributes:
        rate: Learning rate.
        weight_decay: Of AdamW.
        batch_size: Examples a step.
        schedule: Factor of the rate by epoch so far (a fraction counts) and epochs in all.
        warm_up: Epochs without index losses; a head that starts from embeddings does so after them.
        mixed_precision: Compute in bfloat16 where torch sees fit (the paper: float16); on CUDA only.

    Raises:
        ArgumentError: If a number is not what it should be, or the schedule no function.
    """

    rate: float = 2e-3
    weight_decay: float = 2e-5
    batch_size: int = 128
    schedule: Callable[[float, int], float] = warm_up_and_decay
    warm_up: int = 0
    mixed_precision: bool = True

    def __post_init__(self) -> None:
        """Check the values."""
        if not is_number(self.rate) or self.rate <= 0 or not is_number(self.weight_decay) or self.weight_decay < 0:
            raise ArgumentError(
                f"`rate` must be above 0 and `weight_decay` at least 0; got {self.rate!r} and {self.weight_decay!r}."
            )
        if not is_whole(self.batch_size) or self.batch_size < 2:
            raise ArgumentError(f"`batch_size` is a whole number, at least 2; got {self.batch_size!r}.")
        if not is_whole(self.warm_up) or self.warm_up < 0:
            raise ArgumentError(f"`warm_up` is a whole number of epochs, at least 0; got {self.warm_up!r}.")
        if not callable(self.schedule):
            raise ArgumentError(
                f"`schedule` is a function of epoch and epochs, such as one_cycle; got {self.schedule!r}."
            )


def train(
    network: ProvenanceNetwork,
    train_data: Any,
    epochs: int,
    *,
    objective: Objective | None = None,
    distort: Distort | None = None,
    optimization: Optimization | None = None,
    seed: int = 0,
    path: str | Path | None = None,
) -> xr.DataArray:
    """Train a provenance network, in place.

    Heads that start from embeddings (`CosineHead`, `CodeHead`) take those of the network as it is after the warm-up;
    `MemoryBank` and `Neighbours` take all embeddings anew at the end. What is frozen stays as it is, batch statistics
    among it (`ProvenanceNetwork.train`). The network ends in evaluation mode.

    Args:
        network: The network, on the device to train on.
        train_data: The data that it was made with.
        epochs: How many.
        objective: Losses and weights.
        distort: Makes distorted inputs that keep their index, from inputs and a generator on their device, such as
            those of `whence.provenance.distortions`; each batch then counts once as it is and once distorted.
        optimization: Optimizer, batches and schedule.
        seed: Of the order, distortions, negatives and dropout. The global generators are left as they were.
        path: A folder for a checkpoint after each epoch. A training that was cut off goes on from there, and gives what
            it would have given; one of a network, a head or settings that differ is refused.

    Returns:
        Means over each epoch, dims ("epoch", "measure"). What the network or the objective lacks is 0, also the class
        accuracy of a single-branch network.

    Raises:
        ChangedDataError: If the data is not the one that the network was made with, or that the checkpoint is of.
        ArgumentError: If the checkpoint is of another network or other settings, a number is not what it should be, no
            loss reaches a parameter that is not frozen, the loss is no finite number any more, network, objective,
            optimization or distort is of another kind, or distort returns nothing.
        DataError: If the embedding of an example, which a head starts from, is no finite number.
        ShapeError: If distorted inputs have not the shapes of the inputs.
        HeadMemoryError: If the device's memory does not hold what the index head needs.
        DiskError: If the disk is full or refuses to write.
    """
    check_network(network, "train")
    examples = as_examples(train_data)
    same_data(network, examples)
    if not is_whole(epochs) or epochs < 1:
        raise ArgumentError(f"`epochs` is a whole number, at least 1; got {epochs!r}.")
    check_seed(seed)
    goal, steps = _how(objective, optimization, distort)
    if steps.warm_up and network.class_branch is None:
        raise ArgumentError("A single-branch network has nothing to learn without the index loss: give warm_up=0.")
    told = {"fingerprint": network.fingerprint, "epochs": epochs, "seed": seed, **head_settings(network)}
    told |= {"objective": asdict(goal), "optimization": {**asdict(steps), "schedule": _named(steps.schedule)}}
    told |= {"distort": None if distort is None else same_everywhere(distort), "the network": parts_of(network)}
    device = device_of(network)
    optimizers = _optimizers(network, steps)
    checkpoint = None if path is None else Checkpoint(Path(path), told)
    history = [] if checkpoint is None else checkpoint.restore(network, optimizers)
    with kept_randomness(device), progress("training", epochs * len(examples)) as advance:
        advance(len(history) * len(examples))
        for epoch in range(len(history), epochs):
            torch.manual_seed(seed * 1_000_003 + epoch)
            if epoch == min(steps.warm_up, epochs - 1):
                start_head(network, examples, (CosineHead, CodeHead))
            history.append(
                _epoch(network, examples, (goal, steps, distort), optimizers, (epoch, epochs, seed), advance)
            )
            if checkpoint is not None:
                checkpoint.keep(network, optimizers, history)
        start_head(network, examples, (MemoryBank, Neighbours))
    network.eval()
    return xr.DataArray(
        np.array(history), {"epoch": np.arange(1, epochs + 1), "measure": list(MEASURES)}, ("epoch", "measure")
    )


def _how(objective: Any, optimization: Any, distort: Any) -> tuple[Objective, Optimization]:
    """Return what to train on and how, by default the paper's.

    Raises:
        ArgumentError: If one of them is of another kind.
    """
    goal = Objective() if objective is None else objective
    steps = Optimization() if optimization is None else optimization
    if not isinstance(goal, Objective):
        raise ArgumentError(f"`objective` is an Objective, such as Objective(mixing=0.5); got {goal!r}.")
    if not isinstance(steps, Optimization):
        raise ArgumentError(f"`optimization` is an Optimization, such as Optimization(rate=1e-3); got {steps!r}.")
    if distort is not None and not callable(distort):
        raise ArgumentError(f"`distort` is a function of inputs and a generator, such as Mixture(); got {distort!r}.")
    return goal, steps


def same_data(network: ProvenanceNetwork, examples: Examples) -> None:
    """Refuse data that is not the one the network was made with.

    Raises:
        ChangedDataError: If it is not.
    """
    if examples.fingerprint != network.fingerprint:
        raise ChangedDataError(
            f"The network's index is of other data: {network.fingerprint}, {len(network.index)} examples; this is "
            f"{examples.fingerprint}, {len(examples)} examples. Give the training data that the network was made with."
        )


def start_head(network: ProvenanceNetwork, examples: Examples, kinds: tuple[type, ...]) -> None:
    """Give a head of certain kinds the embeddings of all training examples, in evaluation mode."""
    head: Any = network.head
    if not isinstance(head, kinds):
        return
    device = device_of(network)
    found = [
        embeddings(network, to_device(examples.batch(ids)[0], device), network.index.labels[ids])
        for ids in torch.arange(len(examples)).split(_CHUNK)
    ]
    network.head.initialise(torch.cat(found))


def _epoch(
    network: ProvenanceNetwork,
    examples: Examples,
    how: tuple[Objective, Optimization, Distort | None],
    optimizers: list[Optimizer],
    when: tuple[int, int, int],
    advance: Advance,
) -> list[float]:
    """Train for an epoch and return the means of what `MEASURES` lists.

    Raises:
        ArgumentError: If no loss reaches a parameter, a loss is no finite number, or distort returns nothing.
    """
    (goal, steps, distort), (epoch, epochs, seed) = how, when
    if epoch < steps.warm_up:
        goal = replace(goal, index=0.0, neighbourhood=0.0)
    device = device_of(network)
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed * 7919 + epoch))
    generator = torch.Generator(device).manual_seed(seed * 7919 + epoch)
    network.train()
    sums, batches = torch.zeros(len(MEASURES), device=device), _batches(order, steps.batch_size)
    for place, ids in enumerate(batches):
        factor = steps.schedule(epoch + (place + 0.5) / len(batches), epochs)  # the middle of the step
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = steps.rate * factor
            optimizer.zero_grad()
        inputs, labels = to_device(examples.batch(ids), device)
        views = None if distort is None else distort(inputs, generator)
        if distort is not None and views is None:
            raise ArgumentError("`distort` returned None. It returns the inputs that it is given, changed.")
        with torch.autocast(device.type, torch.bfloat16, enabled=steps.mixed_precision and device.type == "cuda"):
            losses = provenance_loss(
                network, inputs, labels, ids.to(device), objective=goal, views=views, generator=generator
            )
        if not losses.total.requires_grad:
            raise ArgumentError(
                "Nothing would learn: no loss with a weight above 0 reaches a parameter that is not frozen. Weigh the "
                "classes or the index in Objective; to look up Neighbours in a network that is trained already, "
                "network.head.initialise(embeddings(network, inputs, labels)) is enough."
            )
        losses.total.backward()
        for optimizer in optimizers:
            optimizer.step()
        parts = (losses.total, losses.classes, losses.index, losses.neighbourhood, losses.task, losses.right)
        sums += torch.stack([one.detach().float() for one in parts]) * len(ids)
        advance(len(ids))
    means = [float(one) for one in (sums / len(examples)).tolist()]
    if not all(math.isfinite(one) for one in means):
        raise ArgumentError(
            f"The loss is no finite number any more in epoch {epoch + 1}. Look for such numbers in the inputs, or "
            "lower Optimization(rate=...); with a path, what is kept there is the epoch before."
        )
    return means


def _named(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__name__", None) or same_everywhere(function))


def _batches(order: Tensor, size: int) -> list[Tensor]:
    """Return an order in batches; a last one of a single example, which batch normalisation refuses, joins the last."""
    batches = list(order.split(size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def _optimizers(network: ProvenanceNetwork, steps: Optimization) -> list[Optimizer]:
    """Return AdamW, and SparseAdam for what has sparse gradients."""
    rows = [one.weight for one in network.modules() if isinstance(one, nn.Embedding) and one.sparse]
    sparse = {id(one) for one in rows}
    dense = [one for one in network.parameters() if id(one) not in sparse and one.requires_grad]
    found: list[Optimizer] = []
    if dense:
        found.append(AdamW(dense, steps.rate, weight_decay=steps.weight_decay))
    if rows:
        found.append(SparseAdam(rows, steps.rate))
    return found
