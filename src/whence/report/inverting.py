"""Look for invariants and show them: a set on a page of its own, and a panel for each target of a report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from whence._errors import ArgumentError, UnreachedError
from whence._files import file_place
from whence._numbers import is_whole
from whence.attribution import Attributor, RepresentationCos, Trained, as_trained
from whence.audit.storage import refuse_existing
from whence.datasets import Examples
from whence.invariants import (
    InvariantSet,
    Objective,
    Pool,
    Prior,
    Solver,
    TrainedAutoencoder,
    draw_pool,
    evaluations,
    invariants,
    logits,
)
from whence.invariants.asking import checked_kind, value_on
from whence.invariants.autoencoders.layout import device_of
from whence.invariants.objective import TOLERANCE
from whence.invariants.ranking import most_telling
from whence.invariants.result import said
from whence.invariants.solvers import Status
from whence.report.explain import Explanation
from whence.report.gallery import EXAMPLE, real_inputs, write_gallery
from whence.report.indistinct import answers_of, indistinct
from whence.report.scale import Scale, draw_inputs, refuse_no_picture, scale_of
from whence.runs import Run, to_device

_DRAWS = 256  # of the prior, whose spectrum a page shows


@final
@dataclass(frozen=True, eq=False)
class InvariantSettings:
    """How invariants are looked for.

    Attributes:
        prior: Where samples come from.
        samples: How many for each query.
        limit: In a report: for how many targets, from the first on the page.
        solver: Moves latents to their goal; `GaussNewton` if left out.
        cutoff: Demand also that low-pass filtered samples take the filtered query's value.
        tolerance: Up to which distance a sample counts as solved, in the objective's unit.
        pool: How many draws of the prior to start from.
        seed: Of all draws.

    Raises:
        ArgumentError: If ``samples`` or ``limit`` is no whole number above 0, or ``prior`` is none.
    """

    prior: Prior
    samples: int = 8
    limit: int = 24
    solver: Solver | None = None
    cutoff: float | None = None
    tolerance: float = TOLERANCE
    pool: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        checked_kind("prior", self.prior, Prior)
        for name in ("samples", "limit"):
            value = getattr(self, name)
            if not is_whole(value) or value < 1:
                raise ArgumentError(f"`{name}` of invariants is a whole number, at least 1; got {value!r}.")

    def search(self, objective: Objective, query: Tensor, pool: Pool | int, data: Any = None) -> InvariantSet:
        """Look for the invariants of a query; see `whence.invariants.invariants`.

        Args:
            objective: What is kept; it gets the tolerance.
            query: One input.
            pool: Draws to start from.
            data: Over which the objective's spread is measured.

        Raises:
            UnreachedError: If no sample is solved.
        """
        kept = objective.within(self.tolerance)
        return invariants(
            kept,
            query,
            self.prior,
            self.samples,
            solver=self.solver,
            pool=pool,
            cutoff=self.cutoff,
            data=data,
            seed=self.seed,
        )


def study_invariants(  # noqa: PLR0913 - each is a choice of its own
    source: Run | Trained | nn.Module,
    objective: Objective,
    query: Tensor,
    settings: InvariantSettings,
    *,
    out: str | Path | None = None,
    pictures: str | Path | None = None,
    page: str | Path | None = None,
    attributor: Attributor | None = None,
    autoencoder: TrainedAutoencoder | None = None,
) -> dict[str, Any]:
    """Look for the invariants of one query, keep them, draw them, and write a page about them.

    Where no sample reaches the value, all of this is done with the failures before the error is raised.

    Args:
        source: The network, as `gallery` takes it.
        objective: What is kept.
        query: One input, without a batch axis.
        settings: How they are looked for.
        out: Where to keep the set, for `whence.invariants.load_invariants`.
        pictures: A new folder for a picture of the query and of each sample.
        page: Where to write the page; one that is there is replaced.
        attributor, autoencoder: As `gallery` takes them.

    Returns:
        Where things are, and what was found, by name; ``"samples"`` has a row for each.

    Raises:
        ArgumentError: If the network cannot be called with the query, it does not go with the prior or is no picture
            that could be drawn, ``page`` is a folder, or the attributor needs a run and there is none.
        ShapeError: If the query's shape is not the prior's.
        GradientError: If the objective has no gradient by its input.
        AuditError: If something stands at ``out`` or ``pictures``; nothing is searched for then.
        DiskError: If the disk is full or refuses to write.
        UnreachedError: If no sample is solved.
    """
    places = {"set": out, "pictures": pictures, "page": page}
    _refuse(out, pictures, page, query)
    trained = None if isinstance(source, nn.Module) else as_trained(source)
    query = query.to(device_of(source if isinstance(source, nn.Module) else as_trained(source).model))
    value_on(objective, query)
    near = None  # looks at the training data first: a method that cannot be used is known before the search
    if page is not None and trained is not None:
        near = (attributor or RepresentationCos()).fit(trained)
    pool = draw_pool(settings.prior, settings.pool, seed=settings.seed, device=query.device, dtype=query.dtype)
    unreached = None
    try:
        found = settings.search(objective, query, pool, None if trained is None else trained.examples)
    except UnreachedError as error:
        found, unreached = error.found, error
    found.certificate.attrs["pool_evaluations"] = len(pool) * evaluations(settings.prior)  # drawn for this set
    scale = _scale(None if trained is None else trained.examples, found, settings.prior)
    if out is not None:
        found.save(out)
    if pictures is not None:
        names = ["query", *(f"sample-{row:03d}" for row in range(len(found)))]
        draw_inputs(torch.cat([found.query[None], found.inputs]), names, pictures, scale)
    if page is not None:
        parts: dict[str, Any] = {"attributor": near, "autoencoder": autoencoder, "scale": scale}
        write_gallery(found, objective, source, page, draws=pool.inputs[:_DRAWS], **parts)
    if unreached is not None:
        raise unreached
    model = source if isinstance(source, nn.Module) else as_trained(source).model
    kept = {name: Path(one).resolve() for name, one in places.items() if one is not None}
    real = real_inputs(None if trained is None else trained.examples, found)
    return {**kept, **_facts(found, model, real)}


def _refuse(out: str | Path | None, pictures: str | Path | None, page: str | Path | None, query: Any) -> None:
    """Refuse, before the search, places where nothing could be written after it, and what is no query.

    Raises:
        ArgumentError: If the query is no tensor.
    """
    if not isinstance(query, Tensor):
        raise ArgumentError(f"The query is one input, a tensor without a batch axis; got a {type(query).__name__}.")
    for place in (out, pictures):
        if place is not None:
            refuse_existing(Path(place))
    if pictures is not None:
        refuse_no_picture(query)
    if page is not None:
        file_place(page, EXAMPLE)


def with_invariants(
    run: Run, targets: Examples, explanations: tuple[Explanation, ...], settings: InvariantSettings
) -> tuple[Explanation, ...]:
    """Return explanations with inputs that the network answers as it does the target: of the predicted class's logit.

    An interrupt from the keyboard ends all searches; what was found so far is shown.

    Args:
        run: The run, at its end.
        targets: Where the targets are.
        explanations: Of the targets.
        settings: How invariants are looked for; for the first ``limit`` targets.

    Raises:
        ArgumentError: If targets are no single tensors, or do not go with the prior.
        ShapeError: If their shape is not the prior's.
    """
    if not explanations:
        return explanations
    model, names = as_trained(run).model, targets.class_names or run.examples.class_names
    few = explanations[: settings.limit]
    inputs = to_device(targets.batch([one.index for one in few])[0], as_trained(run).device)
    if not isinstance(inputs, Tensor):
        raise ArgumentError(
            f"A prior makes one tensor, and a target's input is a {type(inputs).__name__}. Leave `invariants` out."
        )
    pool = draw_pool(settings.prior, settings.pool, seed=settings.seed, device=inputs.device, dtype=inputs.dtype)
    predicted, shown = answers_of(model, inputs), []
    for place, one in enumerate(few):
        objective = logits(model, None if predicted is None else [predicted[place]])
        try:
            found = settings.search(objective, inputs[place], pool, run.examples)
        except UnreachedError as error:
            found = error.found
        stopped = bool((found.certificate.status == said(Status.INTERRUPTED)).any())
        scale = _scale(run.examples, found, settings.prior)
        panel = indistinct(
            found, model, names=names, scale=scale, telling=settings.samples, key=f"{one.key}-indistinct"
        )
        shown.append(replace(one, indistinct=panel))
        if stopped:
            break
    return (*shown, *explanations[len(shown) :])


def _scale(examples: Examples | None, found: InvariantSet, prior: Prior) -> Scale:
    inputs = torch.cat([found.query[None], found.inputs])
    return scale_of(examples, inputs, getattr(prior, "bounds", None))


def _facts(found: InvariantSet, model: nn.Module, real: Tensor | None) -> dict[str, Any]:
    """Return what was found, as JSON's types; the most telling in the order of the page."""
    told, certificate = found.summary(), found.certificate
    answers = answers_of(model, torch.cat([found.query[None], found.inputs]))
    rows = []
    for row in range(len(found)):
        one = certificate.isel(sample=row)
        rows.append(
            {
                "sample": row,
                "solved": bool(one.solved),
                "values": one["value"].values.tolist(),
                "residual": float(one.residual),
                "quantile": float(one["latent_quantile"]),
                "status": str(one.status.values),
                "answer": None if answers is None else answers[row + 1],
            }
        )
    value = certificate.attrs["goal"]
    told["value"] = value[0] if len(value) == 1 else value
    return {**told, "most_telling": most_telling(found, real=real).tolist(), "samples": rows}
