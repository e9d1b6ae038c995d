"""`path_kernel`: inner products of loss gradients, summed over the states of a run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from whence._errors import ArgumentError
from whence._progress import Advance, progress
from whence.audit.quantities import as_quantity
from whence.audit.storage import refuse_existing
from whence.kernel.blocks import Found, Pair, close
from whence.kernel.parameters import Layers
from whence.kernel.question import Asked, Times, Work, prepare
from whence.kernel.storage import FORMAT, Partial, Sheet, empty
from whence.runs import Run


def path_kernel(  # noqa: PLR0913 - each is a question of its own
    run: Run,
    targets: Any,
    others: Any = None,
    *,
    times: Times = "epoch",
    by: str | Sequence[str] = (),
    preconditioner: bool = True,
    layers: Layers = "all",
    labels: str = "given",
    ids: Sequence[int] | None = None,
    other_ids: Sequence[int] | None = None,
    precision: str | None = None,
    memory_budget: int = 2**29,
    path: str | Path | None = None,
) -> xr.Dataset:
    """Compare examples by the gradients of their losses, over the states of a run.

    The kernel is K_mn = Σ_t g_m(t)ᵀ A_t g_n(t), with g the gradient of an example's loss and A_t a diagonal: the
    path-integrated loss-gradient kernel (PLGK, section 3.6 and A.2.3). With a single time it is the loss-gradient
    kernel there. It is symmetric and positive semi-definite, up to rounding. `similarity` makes a cosine of it.

    Times: a state stands after a number of steps. ``"epoch"`` takes the end of every epoch, so the untrained network is
    not among them, and the end of the training is. The sum of the paper runs over the states before each step; over
    epochs, both are sums of the same path, at the right or left end of each part. The start is left out because
    there Adam and its kin have seen a single batch: entries that this batch hardly touched weigh up to lr / ε, and
    the start alone outweighs the rest of the path. It can be had as ``times=[0, ...]``.

    Weights: A_t is what the optimizer's step that led to a state made of an entry of the gradient, the learning rate
    included (the paper leaves it out; a constant rate is one factor), and of momentum the part that enters at once. At
    the start, it is that of the first step. A parameter that this step did not update counts 0.

    Gradients are those of the network in evaluation mode.

    Args:
        run: The recorded run.
        targets: The examples to compare: anything `as_examples` takes.
        others: What to compare them with, such as ``run.examples``, the training data. None compares the targets among
            themselves: half the work, and the result is exactly symmetric.
        times: ``"epoch"``; a number of states, evenly spaced, the end among them; or after which steps, 0 to
            ``run.steps``.
        by: ``"time"`` and ``"layer"``: axes to keep apart. Sums over them by name are partial kernels.
        preconditioner: Whether A_t is the optimizer's; False takes the identity.
        layers: Which parameters count: ``"all"``, ``"last"``, or names of layers.
        labels: Where the targets' labels come from: ``"given"``, or ``"predicted"`` for the class that the model ranks
            first at the end of the run, which also does for inputs without labels. The others bring theirs.
        ids, other_ids: Which of the examples; all by default.
        precision: ``"float32"``, ``"mixed"`` (factors of the large matrix products rounded to bfloat16) or
            ``"float64"``; None takes the run's own.
        memory_budget: Bytes that may be held besides model and data. Targets are walked in chunks that fit.
        path: Where to keep the result. It is then written there as it is found, may be larger than memory, and goes on
            where it stopped when called again after an interruption.

    Returns:
        ``kernel``, dims ("target", "other", and of ``by`` "time", then "layer"), and the squared norms
        ``target_norm`` and ``other_norm``, which have these dims too. ``time`` says after how many steps.

    Raises:
        ArgumentError: If an argument is outside what is listed, examples have no labels, the run has no such state, or
            the result does not fit the budget and there is no ``path``.
        LabelError: If there is no layer of a name.
        DataError: If the data is of a kind that cannot be read.
        AuditError: If something stands at ``path``, or an unfinished kernel there was begun with other arguments.
        DiskError: If the disk is full or refuses to write.
        ReplayError: If the run does not replay.
        GradientError: If per-example gradients of the model cannot be formed.
    """
    asked = Asked(times, by, preconditioner, layers, ids, other_ids, labels, precision, memory_budget)
    if path is not None:
        refuse_existing(Path(path))
    work = prepare(run, targets, others, asked)
    work = dataclasses.replace(work, facts={**work.facts, "unit": _unit(work)})
    if path is None:
        _refuse_too_large(work)
        sheet = Sheet(work, empty(work))
        _walk(work, sheet, None)
        kernel = (("target", "other", *work.by), sheet.kernel, {"unit": work.facts["unit"]})
        return _labelled(work, sheet).assign(kernel=kernel)
    with Partial(Path(path), work) as partial:
        _walk(work, partial.sheet, partial)
        return partial.finish(_labelled(work, partial.sheet))


def _walk(work: Work, sheet: Sheet, partial: Partial | None) -> None:
    pair = Pair(work)
    total = len(work.subject.steps) * sum(len(work.partners(chunk)) for chunk in work.chunks)
    with progress("comparing", total) as advance:
        for number, chunk in enumerate(work.chunks):
            found = Found.nothing(work, chunk)
            first = 0 if partial is None else partial.resume(number, found)
            if first is None:
                advance(len(work.subject.steps) * len(work.partners(chunk)))
                continue
            advance(first * len(work.partners(chunk)))
            _walk_chunk(work, pair, (number, first, found), sheet, partial, advance)


def _walk_chunk(
    work: Work, pair: Pair, begun: tuple[int, int, Found], sheet: Sheet, partial: Partial | None, advance: Advance
) -> None:
    """Add up one chunk of targets over the states from the first that is not in it."""
    number, first, found = begun
    chunk, count = work.chunks[number], len(work.subject.steps)
    apart = "time" in work.by
    for place, moment in enumerate(work.subject.moments(first), start=first):
        if apart:
            found.clear()
        pair.add(found, chunk, moment, advance)
        if apart:
            close(found, chunk, work)
            sheet.write(found, chunk, place)
        if partial is not None and place + 1 < count:
            partial.save(number, place + 1, found)
    if not apart:
        close(found, chunk, work)
        sheet.write(found, chunk, 0)
    if partial is not None:
        partial.save(number + 1, 0, Found.nothing(work, range(chunk.stop, chunk.stop)), now=True)


def _labelled(work: Work, sheet: Sheet) -> xr.Dataset:
    """Return all of the result but the kernel."""
    coordinates: dict[str, Any] = {"target": work.ids, "other": work.other_ids}
    if "time" in work.by:
        coordinates["time"] = list(work.subject.steps)
    if "layer" in work.by:
        coordinates["layer"] = np.array(list(work.layers), dtype=object)
    facts = {**work.facts, "format": FORMAT, "times": list(work.subject.steps), "run": work.subject.run.identity}
    found = xr.Dataset(sheet.variables(), coordinates, facts)
    for name in ("target_norm", "other_norm"):
        found[name].attrs["unit"] = work.facts["unit"]
    return found


def _unit(work: Work) -> str:
    """Return what a kernel of 1 means: with weights, what one step on one example would do to the other."""
    unit = as_quantity("loss", work.subject.run.loss, None, None).unit
    return unit if work.facts["preconditioner"] else f"{unit} per unit of learning rate"


def _refuse_too_large(work: Work) -> None:
    """Refuse a result that memory is not meant to hold.

    Raises:
        ArgumentError: If it is larger than the budget.
    """
    size, budget = work.row_bytes * len(work.ids), work.memory_budget
    if size <= budget:
        return
    apart, item = work.row_bytes // len(work.other_ids), work.subject.dtype.itemsize
    sizes = {"target": len(work.ids), "other": len(work.other_ids), **dict(zip(work.by, work.apart, strict=True))}
    listed = ", ".join(f"{name} {length}" for name, length in sizes.items())
    if work.symmetric:
        rows, width, at_a_time = math.isqrt(budget // apart), budget // (len(work.ids) * item), ""
    else:
        rows, width = budget // work.row_bytes, budget // ((len(work.ids) + len(work.other_ids)) * item)
        at_a_time = " at a time"
    ways = ["Give `path` to keep it on disk"]
    ways += [f"ask for at most {rows} targets{at_a_time} (`ids`)"] if rows else []
    ways += [f"take sketches of width {width} in its place (whence.kernel.path_features)"] if width else []
    raise ArgumentError(
        f"The kernel ({listed}) takes {size:,} bytes, more than the memory budget of {budget:,}. {', '.join(ways)}, or "
        "raise `memory_budget`."
    )
