"""The command that scores training examples by any method."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from whence.cli.commands import (
    CROSS_ENTROPY,
    EXAMPLES,
    Json,
    Loss,
    Model,
    RunFolder,
    Targets,
    TrainData,
    app,
    example,
    open_named,
)
from whence.cli.ending import expected, show
from whence.cli.refusals import refuse_k, refuse_limit

__all__ = ["app"]

EXAMPLES["attribute"] = (
    "whence attribute demo/run --model whence.report.demo:small_network --data digits \\",
    "  --targets digits --limit 3 --method grad-cos --k 5",
)


METHODS_SAID = (
    "grad-dot, grad-cos, tracin, path-similarity, audit, counterfactual, influence, ekfac, trak, "
    "representation-cos, representation-dot, neighbours, same-class or random."
)


@app.command(epilog=example("attribute"))
def attribute(
    run: RunFolder,
    model: Model,
    data: TrainData,
    targets: Targets,
    method: Annotated[str, typer.Option(help=METHODS_SAID)] = "grad-dot",
    loss: Loss = CROSS_ENTROPY,
    quantity: Annotated[
        str | None, typer.Option(help="loss, logit, margin, probability, or package.module:function.")
    ] = None,
    layers: Annotated[str | None, typer.Option(help="all, last, or names such as conv1,dense2.")] = None,
    checkpoints: Annotated[
        int | None, typer.Option(help="States of the run to look at (tracin, path-similarity).")
    ] = None,
    damping: Annotated[
        float | None, typer.Option(help="Added to the curvature (influence, which needs one; ekfac).")
    ] = None,
    dimensions: Annotated[
        int | None, typer.Option(help="Of the projection (trak: fewer than training examples).")
    ] = None,
    regularization: Annotated[float | None, typer.Option(help="Of the regression on projections (trak).")] = None,
    limit: Annotated[int | None, typer.Option(help="Score for the first so many targets only.")] = None,
    k: Annotated[int, typer.Option(help="Training examples to list at each end.")] = 10,
    out: Annotated[Path | None, typer.Option(help="Where to keep all scores.")] = None,
    as_json: Json = False,
) -> None:
    """Score every training example for each target, by a method of choice."""
    with expected("nothing was kept"):
        from whence.attribution import attribute as score
        from whence.report.methods import named_method
        from whence.report.sources import named_data, named_quantity

        refuse_limit(limit)
        refuse_k(k)
        kind = None if quantity is None else named_quantity(quantity)
        settings = {
            "layers": _layers(layers),
            "checkpoints": checkpoints,
            "damping": damping,
            "dimensions": dimensions,
            "regularization": regularization,
        }
        chosen = named_method(method, quantity=kind, **settings)
        examples = named_data(targets, "test", "--targets")
        ids = list(range(len(examples) if limit is None else min(limit, len(examples))))
        scores = score(chosen, open_named(run, model, data, loss), examples, ids=ids, path=out)
        kept = {"scores": out.resolve()} if out else {}
        said = {name: scores.attrs[name] for name in ("attributor", "unit", "sign")}
        show({**kept, **said, **_lists(scores, k, as_json)}, as_json)


def _layers(text: str | None) -> Any:
    if text is None or text in {"all", "last"}:
        return text
    return [one.strip() for one in text.split(",") if one.strip()]


def _lists(scores: Any, k: int, plain: bool) -> dict[str, Any]:
    """Return the top lists of every target: a line a list, or as JSON's types if ``plain``."""
    from whence.attribution import harmful, helpful

    found: dict[str, Any] = {}
    for target in scores.coords["target"].values.tolist():
        ends = {"helpful": helpful(scores, target, k), "harmful": harmful(scores, target, k)}
        pairs = {
            name: list(zip(row.coords["train"].values.tolist(), row.values.tolist(), strict=True))
            for name, row in ends.items()
        }
        if plain:
            found.setdefault("targets", []).append({"target": target, **pairs})
            continue
        for name, listed in pairs.items():
            found[f"target {target} {name}"] = ", ".join(f"#{one} ({value:+.3g})" for one, value in listed)
    return found
