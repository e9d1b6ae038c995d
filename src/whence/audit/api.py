"""`whence.audit`: from a recorded run and some targets to the complete decomposition of what the run did to them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from whence._errors import ArgumentError, AuditError
from whence._numbers import check_budget, is_whole
from whence._progress import progress
from whence.audit.assemble import assemble
from whence.audit.chunks import Chunk, Question, Work, prepare
from whence.audit.partial import Partial
from whence.audit.quadrature import check_tolerance
from whence.audit.quantities import Numbers
from whence.audit.result import Audit
from whence.audit.storage import MemorySink, refuse_existing
from whence.audit.targets import refuse_infinite
from whence.audit.walk import begin, residuals, walk_segment
from whence.runs import Run, check_run

_SAVE_EVERY = 30.0  # seconds between two savings of an unfinished walk


def audit(  # noqa: PLR0913 - each is a question of its own
    run: Run,
    targets: Any,
    *,
    quantity: str | Numbers = "loss",
    classes: Sequence[int] | Literal["all"] | None = None,
    by: str | Sequence[str] = (),
    quadrature: str = "trapezoid",
    tolerance: float | None = None,
    subsample: int = 1,
    precision: str | None = None,
    ids: Sequence[int] | None = None,
    memory_budget: int = 2**29,
    path: str | Path | None = None,
) -> Audit:
    """Decompose what a run did to each target's quantity into every training example's share.

    The shares add up: over training examples (and residuals that no example caused) they give the change of the
    quantity from the first step to the last, up to the error of the quadrature, which is measured and part of the
    result. Momentum and both kinds of weight decay are attributed exactly (path-integrated loss-gradient kernels,
    sections 5.1-5.3 and A.1-A.2, walked backwards).

    Args:
        run: The recorded run.
        targets: The examples to explain: anything `as_examples` takes.
        quantity: ``"loss"``, ``"logit"``, ``"margin"`` (log p / (1 - p) of a probability p), ``"probability"`` (each of
            the target's own label, or of ``classes``), or a callable (outputs, labels) -> one differentiable number per
            example.
        classes: For a logit, margin or probability: audit these classes of every target, or ``"all"``. The targets' ids
            are then ``"<id>:<class>"``.
        by: Any of ``"layer"``, one of ``"step"`` and ``"epoch"``, and ``"label"``: axes to keep apart. ``"label"`` sums
            training examples of one label and stands in place of the axis ``"train"``. Time is that of the step
            whose gradient the example took part in.
        quadrature: ``"euler"``, ``"trapezoid"`` (no dearer), ``"simpson"``, ``"gauss2"``, ``"gauss3"``.
        tolerance: Mean absolute error, in the quantity's unit, that the audit may have. The error so far is known at
            every step of the walk; where it would pass its part of the tolerance, the step is integrated more finely.
            The error that was reached is in the result.
        subsample: Take the targets' gradients only every so many steps (within an epoch and a segment of the run).
        precision: ``"float32"``, ``"mixed"`` (factors of the large matrix product rounded to bfloat16) or
            ``"float64"``; None takes the run's own.
        ids: Which of ``targets`` to audit; all by default.
        memory_budget: Bytes the audit may hold besides model and data. Targets are walked in chunks that fit.
        path: Where to keep the result. Influences are then written there as they are found, may be larger than
            memory, and an audit that was interrupted goes on where it stopped when called again.

    Returns:
        The audit. Negative influence on a loss = the example helped.

    Raises:
        ArgumentError: If an argument is outside what is listed, or the quantity of a target is no number at the end.
        AuditError: If the run is empty, something stands at ``path``, an unfinished audit there was begun with other
            arguments, or the influences do not fit the budget and there is no ``path``.
        UnsupportedLossError: If a label of the targets is none that the outputs are for.
        ReplayError: If the run does not replay.
        GradientError: If per-example gradients of the model cannot be formed.
    """
    check_run(run, "whence.audit")
    _check(subsample, tolerance, precision, memory_budget)
    started = time.monotonic()
    if path is not None:
        refuse_existing(Path(path))
    question = Question(quantity, classes, by, quadrature, tolerance, subsample, precision, ids)
    work = prepare(run, targets, question, memory_budget)
    refuse_infinite(work.quantity.name, work.final_values())
    sink: MemorySink | Partial
    if path is None:
        _refuse_too_large(work, memory_budget)
        sink = MemorySink(work.grouping, work.rows, work.dtype_name)
        found = _walk_all(work, sink, None)
        influence = sink.array
        return assemble(work, found, influence, time.monotonic() - started)
    with Partial(Path(path), work) as partial:
        found = _walk_all(work, partial.sink, partial)
        return partial.finish(assemble(work, found, None, partial.seconds))


def _walk_all(work: Work, sink: Any, partial: Partial | None) -> list[Chunk]:
    total = work.grouping.steps * len(work.chunks)
    with progress("auditing", total) as advance:
        return [_walk_chunk(work, number, sink, partial, advance) for number in range(len(work.chunks))]


def _walk_chunk(work: Work, number: int, sink: Any, partial: Partial | None, advance: Any) -> Chunk:
    """Walk one chunk of targets from the end of the run to its start, or take up where an earlier walk stopped."""
    run, plan, grouping = work.run, work.plan, work.grouping
    known = None if partial is None else partial.finished(number)
    if known is not None:
        advance(grouping.steps)
        return known
    targets = work.targets_of(number)
    sink.rows = work.rows_of(number)
    walk = None if partial is None else partial.resume(number, targets)
    if walk is None:
        walk = begin(run, targets, plan, grouping)
    else:
        advance(grouping.steps - run.segments()[walk.next_segment].stop)
    saved = time.monotonic()
    while walk.next_segment >= 0:
        advance(walk_segment(walk, run, targets, plan, grouping, sink))
        if partial is not None and walk.next_segment >= 0 and time.monotonic() - saved > _SAVE_EVERY:
            partial.save(number, walk)
            saved = time.monotonic()
    walk.tally.fill(run.epoch_of_steps().tolist())
    chunk = Chunk(
        tally=walk.tally.to("cpu"),
        residuals=residuals(walk, work.initial_buffers()),
        predictions=targets.predictions(*work.final_state()),
    )
    if partial is not None:
        partial.keep(number, chunk)
    return chunk


def _check(subsample: int, tolerance: float | None, precision: str | None, memory_budget: int) -> None:
    if not is_whole(subsample) or subsample < 1:
        raise ArgumentError(f"`subsample` is a whole number of steps, at least 1; got {subsample!r}.")
    check_tolerance(tolerance)
    if precision not in {None, "float32", "mixed", "float64"}:
        raise ArgumentError(f"No precision {precision!r}. Choose 'float32', 'mixed' or 'float64', or leave it out.")
    check_budget(memory_budget)


def _refuse_too_large(work: Work, memory_budget: int) -> None:
    shape = work.grouping.shape(work.rows)
    size = torch.Size(shape).numel() * torch.empty((), dtype=work.plan.form.dtype).itemsize
    if size > memory_budget:
        sizes = ", ".join(f"{dim} {length}" for dim, length in zip(work.grouping.dims, shape, strict=True))
        raise AuditError(
            f"The influences ({sizes}) take {size / 2**20:,.0f} MiB, more than the memory budget of "
            f"{memory_budget / 2**20:,.0f} MiB. Give `path` to keep them on disk, ask for fewer axes in `by`, "
            "audit fewer targets, or raise `memory_budget`."
        )
