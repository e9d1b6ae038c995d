"""The commands of priors: distributions of images that invariants are sought in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from whence.cli.commands import AGAIN, EXAMPLES, Json, example
from whence.cli.ending import Commands, expected, show
from whence.cli.inverting import app
from whence.cli.tracing import NAMED

__all__ = ["app"]

EXAMPLES["prior train"] = ("whence prior train digits digits-prior --seed 1",)

prior = typer.Typer(
    name="prior",
    cls=Commands,
    help="Priors: distributions of images, from which invariants of a network are drawn.",
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(prior)


@prior.callback()
def _group() -> None:
    """Keep ``train`` a word of its own, though it is the only command."""


@prior.command(epilog=example("prior train"))
def train(
    data: Annotated[str, typer.Argument(metavar="DATA", help=f"Training images: {NAMED}")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the prior.")],
    epochs: Annotated[
        int | None, typer.Option(help="Passes of the autoencoder; suited to the data if left out.")
    ] = None,
    latent: Annotated[int | None, typer.Option(help="Numbers of a latent; suited if left out.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the flow's training; suited if left out.")] = None,
    seed: Annotated[int, typer.Option(help="Of initial weights, order, noise, and which images are held out.")] = 0,
    as_json: Json = False,
) -> None:
    """Train a small latent flow on images, and say how real its draws are; one that was stopped goes on."""
    with expected(AGAIN):
        from whence.invariants.priors import PriorSettings, prior_facts, train_prior
        from whence.report.sources import lasting_name, named_data

        settings = PriorSettings(latent=latent, epochs=epochs, flow_steps=steps, seed=seed)
        train_prior(named_data(data, "train", "DATA"), out, settings, source=lasting_name(data))
        facts = prior_facts(out)
        told = {"prior": out.resolve(), "latent": facts["latent"], "shape": tuple(facts["shape"])}
        figures = {name: round(one, 3) for name, one in facts["realism"].items()}
        seconds = round(sum(row[-1] for row in facts["history"]), 1)
        show({**told, "steps": facts["steps"], **figures, "cpu_seconds": seconds}, as_json)
