"""The command of invariants: which other inputs a network answers the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from whence.cli.attacking import app
from whence.cli.attributing import METHODS_SAID
from whence.cli.commands import CROSS_ENTROPY, EXAMPLES, Json, Loss, example
from whence.cli.ending import expected, show
from whence.cli.refusals import refuse_taken

__all__ = ["app"]

EXAMPLES["invariants"] = (
    "whence invariants demo/run --model whence.report.demo:small_network --data digits \\",
    "  --targets digits --query 17 --unit logit.9 --prior demo/prior --samples 32 --page invariants.html",
)


@app.command(epilog=example("invariants"))
def invariants(
    source: Annotated[
        str, typer.Argument(metavar="RUN_OR_MODEL", help="Folder of a recorded run, or package.module:factory.")
    ],
    unit: Annotated[
        str,
        typer.Option(
            help="LAYER.NUMBER, LAYER, logit.NUMBER, logits, probability.NUMBER, probabilities or feature.NUMBER."
        ),
    ],
    query: Annotated[str, typer.Option(help="An image file, or the id of one of --targets.")],
    model: Annotated[str | None, typer.Option(help="With a run: package.module:factory of its model.")] = None,
    data: Annotated[str | None, typer.Option(help="Training data; a run needs it, a model need not have it.")] = None,
    targets: Annotated[str | None, typer.Option(help="What the query's id is of (--data if left out).")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="With a model: its weights, safetensors or a state dict.")
    ] = None,
    loss: Loss = CROSS_ENTROPY,
    prior: Annotated[
        str, typer.Option(help="What whence prior train wrote, a model folder of diffusers, fourier or pixels.")
    ] = "fourier",
    autoencoder: Annotated[
        Path | None, typer.Option(help="File of a sparse autoencoder: for --unit feature.NUMBER, and what is shared.")
    ] = None,
    pooled: Annotated[
        bool, typer.Option("--pooled", help="Keep the mean of a unit's map instead of all of it.")
    ] = False,
    samples: Annotated[int, typer.Option(help="How many inputs to look for.")] = 32,
    tolerance: Annotated[float, typer.Option(help="How far values may be off, in the unit's own numbers.")] = 0.01,
    cutoff: Annotated[
        float | None,
        typer.Option(help="Keep also the value of low-pass filtered inputs, at this share of frequencies."),
    ] = None,
    solver: Annotated[str, typer.Option(help="gauss-newton, metropolis, first-order or published.")] = "gauss-newton",
    pool: Annotated[int, typer.Option(help="Draws of the prior to start from.")] = 1024,
    method: Annotated[
        str, typer.Option(help=f"What says which training examples are near: {METHODS_SAID}")
    ] = "representation-cos",
    seed: Annotated[int, typer.Option(help="Of every draw.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Where to keep the samples, as a Zarr group.")] = None,
    pictures: Annotated[Path | None, typer.Option(help="A new folder for a picture of each sample.")] = None,
    page: Annotated[Path, typer.Option(help="The gallery; one that is there is replaced.")] = Path("invariants.html"),
    as_json: Json = False,
) -> None:
    """Find other inputs on which a unit of a network takes the value that it takes on a query."""
    with expected("only what was written by then is kept"):
        from whence.invariants import load_autoencoder
        from whence.report import InvariantSettings, study_invariants
        from whence.report.asked import named_network, named_objective, named_prior, named_query, named_solver
        from whence.report.methods import named_method
        from whence.report.sources import named_data

        for place in (out, pictures):
            if place is not None:
                refuse_taken(place)
        way, near = named_solver(solver), named_method(method)
        features = None if autoencoder is None else load_autoencoder(autoencoder)
        network = named_network(source, model=model, data=data, loss=loss, weights=weights)
        known = None if data is None else named_data(data, "train")
        asked = named_query(query, known if targets is None else named_data(targets, "test", "--targets"))
        kept = named_objective(network, unit, features, pooled=pooled)
        settings = InvariantSettings(
            named_prior(prior, asked, known),
            samples,
            solver=way,
            cutoff=cutoff,
            tolerance=tolerance,
            pool=pool,
            seed=seed,
        )
        places: dict[str, Any] = {"out": out, "pictures": pictures, "page": page}
        found = study_invariants(network, kept, asked, settings, attributor=near, autoencoder=features, **places)
        show(found if as_json else _told(found), as_json)


def _told(found: dict[str, Any]) -> dict[str, Any]:
    """Return facts for a reader: the samples in short, the most telling ones named."""
    facts = {name: one for name, one in found.items() if name not in ("samples", "solved", "failures", "most_telling")}
    facts = {name: float(f"{one:.4g}") if isinstance(one, float) else one for name, one in facts.items()}
    facts = {name: one for name, one in facts.items() if one is not None}  # where no sample is solved
    if isinstance(found["value"], list):
        facts["value"] = f"{len(found['value'])} values"
    facts["solved"] = f"{found['solved']} of {len(found['samples'])}"
    if found["failures"]:
        facts["failures"] = found["failures"]
    if found["most_telling"]:
        facts["most_telling"] = ", ".join(f"sample {row}" for row in found["most_telling"])
    answers = [one["answer"] for one in found["samples"] if one["solved"]]
    if answers and answers[0] is not None:
        facts["answers"] = {f"class {one}": answers.count(one) for one in sorted(set(answers))}
    return facts
