"""The command that shows which parts of training inputs mattered for a target."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from whence._errors import ArgumentError
from whence.cli.attributing import METHODS_SAID, app
from whence.cli.commands import (
    CROSS_ENTROPY,
    EXAMPLES,
    Json,
    Loss,
    Model,
    RunFolder,
    Targets,
    TrainData,
    example,
    open_named,
)
from whence.cli.ending import expected, show
from whence.cli.refusals import pairs_of, refuse_choice_beside_pairs, refuse_limit, refuse_taken

__all__ = ["app"]

EXAMPLES["regions"] = (
    "whence regions demo/run --model whence.report.demo:small_network --data digits \\",
    "  --targets digits --limit 2 --k 3 --out regions.zarr --pictures regions",
)


@app.command(epilog=example("regions"))
def regions(
    run: RunFolder,
    model: Model,
    data: TrainData,
    targets: Targets,
    target: Annotated[
        list[int] | None,
        typer.Option(help="Id of a target; may be repeated. Those answered wrongly, worst first, if left out."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many targets.")] = None,
    k: Annotated[int | None, typer.Option(help="Most helpful training examples of each target; 5 if left out.")] = None,
    method: Annotated[str | None, typer.Option(help=f"What ranks them; grad-cos if left out: {METHODS_SAID}")] = None,
    pair: Annotated[
        list[str] | None, typer.Option(help="TARGET:TRAIN, a pair of ids to map instead; may be repeated.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="default, shared, paper or integrated-cos.")] = "default",
    loss: Loss = CROSS_ENTROPY,
    out: Annotated[Path | None, typer.Option(help="Where to keep the maps.")] = None,
    pictures: Annotated[Path | None, typer.Option(help="Folder for a picture of each pair.")] = None,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            help="Drawn over the target in the pictures: grad-cam (of the last convolution), grad-cam:LAYER or "
            "integrated-gradients; may be repeated. Extra baselines."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Map which parts of training examples mattered for a target, beside a control that never saw it."""
    with expected("no map was kept"):
        from whence.report import helpful_pairs, map_pairs
        from whence.report.methods import named_method, named_recipe
        from whence.report.sources import named_data

        refuse_limit(limit)
        if pair:
            refuse_choice_beside_pairs({"--target": target, "--limit": limit, "--k": k, "--method": method})
        if beside and pictures is None:
            raise ArgumentError("--beside is drawn in pictures. Name a folder for them with --pictures.")
        if out is not None:
            refuse_taken(out)
        chosen, way = pairs_of(pair or ()), named_method(method or "grad-cos")
        kind = named_recipe(recipe)
        opened, examples = open_named(run, model, data, loss), named_data(targets, "test", "--targets")
        if not chosen:
            most = 5 if k is None else k
            chosen = helpful_pairs(opened, examples, chosen=target or None, k=most, method=way, limit=limit)
        found = map_pairs(opened, examples, chosen, recipe=kind, path=out, pictures=pictures, beside=beside or ())
        places = {name: one.resolve() for name, one in (("maps", out), ("pictures", pictures)) if one is not None}
        said = {"recipe": recipe, **{name: found.maps.attrs[name] for name in ("unit", "sign")}}
        show({**places, **said, **_pairs(found.rows(), as_json)}, as_json)


def _pairs(rows: list[dict[str, Any]], plain: bool) -> dict[str, Any]:
    """Return what is told of the pairs: a line each, or as JSON's types if ``plain``."""
    if plain:
        return {"pairs": rows}
    lines = {}
    for row in rows:
        numbers = [f"score {row['score']:+.3g}"]
        if "remainder" in row:
            numbers.append(f"remainder {row['remainder']:+.1e}")
        if row["control"] is not None:
            numbers.append(f"correlation with the control {row['control']:.2f}")
        lines[f"target {row['target']} train {row['train']}"] = ", ".join(numbers)
    return lines
