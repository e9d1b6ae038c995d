"""The public function: what each target's quantity would change by had a training example not been there."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch.optim import SGD

from whence._errors import ArgumentError, AuditError
from whence._numbers import check_budget, even_parts, is_number, is_whole
from whence._processes import as_processes
from whence._progress import progress
from whence.audit.chunks import labels_of
from whence.audit.identity import identity_of
from whence.audit.quantities import Numbers
from whence.audit.storage import refuse_existing, save_dataset
from whence.counterfactual.averages import refuse_changing_modes
from whence.counterfactual.curvature import Curvature
from whence.counterfactual.held_out import HeldOut
from whence.counterfactual.partial import Partial
from whence.counterfactual.question import Over, Question, remember
from whence.counterfactual.steps import Form, State, frozen_steps
from whence.counterfactual.storage import FORMAT
from whence.counterfactual.trust import measure, not_measured
from whence.counterfactual.walk import begin, walk_segment, walk_step
from whence.runs import Run, check_run
from whence.runs.settings import optimizer_class

SMOOTHING = 0.03
"""Measured best, of 0.01 to 1, on removals of 1 % and 5 % from a convolutional network trained with Adam."""
_DTYPES = {"float32": torch.float32, "float64": torch.float64}
_COPIES = 7  # tensors of the model's size a target: sensitivities to four things, direction, product, a spare
_COPIES_OF_SGD = 5  # which has no second moments: sensitivities to two


def counterfactual(  # noqa: PLR0913 - the public function, all but two by keyword
    run: Run,
    targets: Any,
    *,
    quantity: str | Numbers = "loss",
    over: Over = None,
    precision: str | None = None,
    ids: Sequence[int] | None = None,
    smoothing: float | None = None,
    smoothness: int = 2,
    held_out: int = 0,
    processes: int | None = None,
    memory_budget: int = 2**29,
    path: str | Path | None = None,
) -> xr.DataArray:
    """Return what each target's quantity would change by, to first order, had a training example not been there.

    Every training example has a weight, 1, inside the loss of each batch that it was in; to remove it is to set that to
    0 while the loss is divided by what it was divided by before. The result is minus the derivative of the quantity at
    the end of the run with respect to these weights, by reverse mode through every recorded step: through momentum,
    second moments, both kinds of weight decay, schedules, clipping and accumulation. It is exact (of optimizers that
    divide, with ``smoothing=0``). The prediction for a set of examples is the sum. How far first order reaches is
    measured (``smoothness``), and proved for a set by `whence.check`.

    Args:
        run: The recorded run.
        targets: A map-style dataset of (input, label), or a pair of tensors; may be the training data itself.
        quantity: What to explain of each target: ``"loss"``, ``"logit"``, ``"margin"``, ``"probability"`` (of its own
            label), or a callable ``(outputs, labels)`` that gives one number per example.
        over: What to take the mean over, at the cost of one target each: None explains every target by itself,
            ``"all"`` their mean, ``"label"`` the mean of each class; or one name per target, for the mean of each name.
        precision: ``"float32"`` or ``"float64"``; None takes the run's own.
        ids: Which of ``targets`` to explain; all by default.
        smoothing: Of optimizers that divide by a second moment (RMSprop, Adagrad, Adam, AdamW). The derivative of such
            a step is huge where gradients have been near 0, and holds for tiny changes only. To predict the removal
            of whole examples, it is taken of a step that divides by more: by this share of the root mean square of all
            divisors of the parameter. None takes 0.03; 0 is the exact derivative of the recorded training.
        smoothness: On how many random twentieths of the training data to compare the derivative with the slope of
            really training again, at two steps of their weights: two trainings a set. With ``held_out``, the result
            with training without them: one. 0 leaves it out, and says so.
        held_out: Into how many random parts to split the training data, to train again without each. With the outputs
            from these trainings the result is no longer the derivative at weight 1, where an example pulls the
            parameters back to itself, but follows its removal: weight 0, to first order in what that does to the
            parameters. It predicts removals better where training is not almost linear; 20 is a good number. Parts are
            random, the same each time. 0 is the derivative.
        processes: How many of the trainings without a part to run at once, each forked and on one thread, sharing the
            data until it is changed. None is all usable cores on Linux without a GPU, else one.
        memory_budget: Bytes to hold besides model and data. Targets are walked in chunks that fit.
        path: Where to keep the result, as a Zarr group. A call that was interrupted goes on where it stopped when made
            again.

    Returns:
        Changes with dims ``("target", "train")``, ids as coordinates. Positive on a loss = without the example the loss
        would be higher: it helped. ``attrs["unit"]`` says what a change of 1 means, ``attrs["verdict"]`` how smooth the
        training is, with ``held_out`` how well removals were predicted. An example that was in no batch has exactly 0.

    Raises:
        ArgumentError: If an argument is outside what is listed, the quantity of a target is no number at the end, or
            the run was computed below float32.
        AuditError: If the run has no step, or something stands at ``path``.
        ReplayError: If the run does not replay.
        GradientError: If the model has an operation without second derivative.
        UnsupportedLossError: If a batch's loss turns out to be no mean or sum over its examples.
        DiskError: If the disk is full or refuses to write.

    Examples:
        >>> effects = whence.counterfactual(run, test_data)  # doctest: +SKIP
        >>> effects.sel(target=17).sortby(effects.sel(target=17))[:5]  # doctest: +SKIP
    """
    started = time.monotonic()
    check_run(run, "whence.counterfactual")
    if run.steps == 0:
        raise AuditError(
            f"The run at {run.path} has no step, so nothing could be otherwise. Record some training first."
        )
    _check_numbers(smoothing, smoothness, held_out, processes, memory_budget)
    form = Form(_precision(run, precision), SMOOTHING if smoothing is None else smoothing, memory_budget // 4)
    if path is not None:
        refuse_existing(Path(path))
    refuse_changing_modes(run)
    question = Question.of(run, targets, quantity, over, ids)
    sources = question.gradients(run, form.dtype)
    if held_out:
        _walk_one_step(run, sources, form, memory_budget)
    with nullcontext() if path is None else Partial(Path(path), run, question, form, held_out) as partial:
        outputs = (
            HeldOut(run, held_out, processes, memory_budget // 4, partial and partial.folder) if held_out else None
        )
        effects = _walk_all(run, sources, form, memory_budget, partial, outputs)
        removed = held_out > 0
        trust = (
            measure(run, question, effects, smoothness, form.dtype, removed=removed) if smoothness else not_measured()
        )
        before = 0.0 if partial is None else partial.before
        rest = {
            **trust,
            "over": _named(over),
            "smoothing": form.smoothing,
            "held_out": held_out,
            "seconds": before + time.monotonic() - started,
        }
        found = _labelled(run, question, effects, callable(quantity), rest)
        if partial is not None:
            save_dataset(found.to_dataset(), partial.path)
            partial.remove()
    remember(run, found.attrs["id"], question)
    return found


def _walk_all(
    run: Run, sources: State, form: Form, memory_budget: int, partial: Partial | None, held_out: HeldOut | None
) -> NDArray[Any]:
    dtype, results = form.dtype, len(next(iter(sources.values())))
    copies = _COPIES_OF_SGD if optimizer_class(run.manifest.optimizer) is SGD else _COPIES
    row = sum(one[0].numel() for one in sources.values()) * copies + len(run.examples)
    chunks = even_parts(range(results), memory_budget // 2 // (row * dtype.itemsize))
    effects = np.zeros((results, len(run.examples)), dtype=str(dtype).removeprefix("torch."))
    with progress("walking back", run.steps * len(chunks)) as advance:
        for chunk in chunks:
            part = {name: one[chunk.start : chunk.stop].clone() for name, one in sources.items()}
            walk = begin(run, part, dtype)
            if partial is not None:
                advance(partial.resume(chunk, walk))
            curvature = Curvature(run, dtype, memory_budget // 4, held_out)
            while walk.next_segment >= 0:
                advance(walk_segment(walk, run, curvature, form))
                if partial is not None:
                    partial.save(chunk, walk)
            effects[chunk.start : chunk.stop] = walk.effects.cpu().numpy()
    return effects


def _check_numbers(
    smoothing: float | None, smoothness: int, held_out: int, processes: int | None, memory_budget: int
) -> None:
    check_budget(memory_budget)
    if not is_whole(smoothness) or smoothness < 0:
        raise ArgumentError(f"`smoothness` is a number of random sets, 0 for none; got {smoothness!r}.")
    if not is_whole(held_out) or held_out < 0 or held_out == 1:
        raise ArgumentError(f"`held_out` is a number of parts, at least 2, or 0 for none; got {held_out!r}.")
    as_processes(processes, held_out)
    if smoothing is not None and not (is_number(smoothing) and smoothing >= 0):
        raise ArgumentError(f"`smoothing` is a share of the divisors, 0 or more; got {smoothing!r}.")


def _walk_one_step(run: Run, sources: State, form: Form, memory_budget: int) -> None:
    """Walk over the last step, so that what cannot be walked is refused before any training is made again."""
    walk = begin(run, {name: one[:1] for name, one in sources.items()}, form.dtype)
    curvature = Curvature(run, form.dtype, memory_budget // 4)
    last = next(frozen_steps(run, run.segments()[-1], form))[-1]
    with curvature.at_work():
        walk_step(walk, last, curvature, run)


def _precision(run: Run, precision: str | None) -> torch.dtype:
    if precision not in {None, *_DTYPES}:
        raise ArgumentError(
            f"No precision {precision!r}. Choose 'float32' or 'float64', or leave it out: below float32 a derivative "
            "through a whole training is noise."
        )
    own = next(one.dtype for one in run.model.parameters() if one.is_floating_point())
    return own if precision is None else _DTYPES[precision]


def _named(over: Over) -> str:
    """Return how means were asked for."""
    return over if isinstance(over, str) else "names" if over is not None else ""


def _labelled(
    run: Run, question: Question, effects: NDArray[Any], function: bool, extra: dict[str, Any]
) -> xr.DataArray:
    coordinates: dict[str, Any] = {"target": question.names, "train": np.arange(len(run.examples))}
    labels = labels_of(run.examples)
    if labels is not None:
        coordinates["train_label"] = ("train", labels.cpu().numpy())
    attributes = {
        "unit": f"{question.quantity.unit} if the example is removed",
        "quantity": question.quantity.name,
        "quantity_is_function": function,
        "helps": question.quantity.helps,
        **extra,
        "precision": str(effects.dtype),
        "run": run.path.name,
        "run_identity": run.identity,
        "loss": [run.loss.name, identity_of(run.loss)],
        "steps": run.steps,
        "train_size": len(run.examples),
        "targets_fingerprint": question.examples.fingerprint,
        "targets_are_training_data": question.examples.fingerprint == run.examples.fingerprint,
        "id": uuid.uuid4().hex,
        "ids": question.rows.tolist(),
        "names": question.names.tolist(),
        "members": question.members.tolist(),
        "format": FORMAT,
    }
    return xr.DataArray(effects, coordinates, ("target", "train"), "counterfactual", attributes)
