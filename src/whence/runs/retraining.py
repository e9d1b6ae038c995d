"""The recorded training again, with its examples weighted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from whence import _processes
from whence._errors import ArgumentError
from whence._numbers import is_number, is_several, is_whole
from whence._progress import progress
from whence.runs.loss import TrainingLoss
from whence.runs.private import model_copy
from whence.runs.settings import optimizer_class
from whence.runs.share import check_shared, share_of
from whence.runs.snapshots import ModelState
from whence.runs.walker import Reduction, Walker

if TYPE_CHECKING:
    from whence.runs.run import Run


def as_weights(
    count: int, without: Iterable[SupportsIndex] = (), weights: Mapping[int, float] | Sequence[float] | None = None
) -> Float[Tensor, " train"]:
    """Return one weight a training example, float64.

    Args:
        count: How many examples there are.
        without: Ids of those with weight 0.
        weights: Weights of others by id, or one for each example.

    Raises:
        ArgumentError: If an id or a weight is none, or more examples are left out than there are.
    """
    found = torch.ones(count, dtype=torch.float64)
    given = {} if weights is None else weights
    if isinstance(given, Mapping):
        wrong = [weight for weight in given.values() if not is_number(weight)]
        if wrong:
            raise ArgumentError(f"`weights` must be finite numbers; got {wrong[0]!r}.")
        for one, weight in given.items():
            found[_id(one, count)] = float(weight)
    else:
        found = _one_each(given, count)
    if not is_several(without):
        raise ArgumentError(f"`without` names training examples, such as [3, 17]; got {without!r}.")
    left_out = [_id(one, count) for one in without]
    if isinstance(given, Mapping) and (twice := sorted(set(left_out) & {int(one) for one in given})):
        raise ArgumentError(f"Training example {twice[0]} is in `without` and has a weight. Give it one of the two.")
    if len(set(left_out)) < len(left_out) or len(left_out) > count:
        raise ArgumentError(
            f"`without` names {len(left_out)} examples, some of them twice, of the {count} there are. Name each once."
        )
    found[left_out] = 0.0
    return found


def _one_each(given: Any, count: int) -> Float[Tensor, " train"]:
    try:
        found = torch.as_tensor(given, dtype=torch.float64, device="cpu").detach().clone()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(
            f"`weights` must be numbers by id, or one for each training example; got {given!r:.80}."
        ) from error
    if found.shape != (count,) or not bool(torch.isfinite(found).all()):
        raise ArgumentError(
            f"`weights` must be one finite number for each of the {count} training examples; got {given!r:.80}."
        )
    return found


def _id(one: Any, count: int) -> int:
    if not is_whole(one) or not 0 <= int(one) < count:
        raise ArgumentError(f"No training example {one!r}: the run has examples 0 to {count - 1}.")
    return int(one)


Watch = Callable[[int, int, Any, Any], None]
"""Is shown every microbatch on the way: the step, its place in that, outputs and labels."""


def retrain(run: Run, weights: Float[Tensor, " train"], watch: Watch | None = None) -> ModelState:
    """Train again with every example's loss multiplied by its weight; see `Run.retrain`."""
    clipping = run.clipping()
    walker = Walker(model_copy(run.model), optimizer_class(run.manifest.optimizer), run.examples, run.loss)
    if run.steps == 0:
        return run.state_at(0)
    walker.stand(run.training_state_at(0), run.record_of(0).settings)
    with progress("training again", run.steps) as advance:
        for number in range(run.steps):
            record = run.record_of(number)
            count = len(record.batches)
            plain = clipping.losses[count]
            losses = [_weighted(plain, run.loss, weights[ids], count) for ids in record.batches]
            if watch is not None:
                losses = [partial(_watched, watch, number, place, one) for place, one in enumerate(losses)]
            walker.depart(record, losses, clipping.apply)
            advance(1)
    return ModelState.of(walker.state())


Found = TypeVar("Found")


def in_processes(
    run: Run, make: Callable[[int], Found], count: int, processes: int | None
) -> Iterator[tuple[int, Found]]:
    """Call ``make`` with 0 to ``count - 1``, and yield what it gives, as it is found.

    Args:
        run: The run with which it trains again.
        make: Trains again and gives what is kept of that; with several processes, what can be sent between them.
        count: How many calls.
        processes: How many to run at once, each on one thread; None as `whence._processes.as_processes` says.

    Yields:
        Which call, and what it gave.

    Raises:
        ArgumentError: If several processes are asked for on another device than the CPU, or where processes cannot be
            forked.
    """
    yield from _processes.in_processes(make, count, processes, begin=run.reopen, ready=partial(prepare, run))


def prepare(run: Run) -> None:
    """Make a run ready to be trained again in several processes, before they part.

    Raises:
        ArgumentError: If its model is not on the CPU.
    """
    if next(run.model.parameters()).device.type != "cpu":
        raise ArgumentError("Several trainings at once need the CPU. Move the model there, or give `processes=1`.")
    run.clipping()  # once


def _watched(watch: Watch, number: int, place: int, loss: Reduction, outputs: Any, labels: Any) -> Tensor:
    watch(number, place, outputs, labels)
    return loss(outputs, labels)


def _weighted(plain: Reduction, loss: TrainingLoss, weights: Tensor, microbatches: int) -> Reduction:
    """Return the loss of a microbatch with its examples weighted, at the divisor that it had."""
    if bool((weights == 1.0).all()):
        return plain
    return partial(_loss, plain, loss, weights, microbatches)


def _loss(
    plain: Reduction, loss: TrainingLoss, weights: Tensor, microbatches: int, outputs: Any, labels: Any
) -> Tensor:
    whole, each = plain(outputs, labels), loss.per_example(outputs, labels)
    check_shared(loss, whole, each, outputs)
    share = share_of(whole, each, outputs, microbatches)
    found: Tensor = whole + (share * (weights.to(each) - 1) * each).sum()
    return found
