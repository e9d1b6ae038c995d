"""The commands of provenance networks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from whence.cli.commands import AGAIN, EXAMPLES, Json, example
from whence.cli.ending import Commands, expected, show, tell
from whence.cli.evaluating import app
from whence.cli.refusals import refuse_taken

__all__ = ["app"]

EXAMPLES["provenance train"] = ("whence provenance train digits digits-network --epochs 12 --head cosine",)
EXAMPLES["provenance retrieve"] = (
    "whence provenance retrieve digits-network digits --ids 0 1 2 -k 5 --picture retrieved.png",
)
EXAMPLES["provenance evaluate"] = ("whence provenance evaluate digits-network --test digits --limit 200",)

provenance = typer.Typer(
    name="provenance",
    cls=Commands,
    help="Networks that name training examples along with their answer: train one, ask it, measure it.",
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(provenance)

NAMED = "digits, mnist[:FOLDER], a .parquet file, an image folder, or package.module:factory."
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="What whence provenance train wrote.")]
Trained = Annotated[
    str | None, typer.Option("--data", help="The training data, where it is no longer called what it was in training.")
]


@provenance.command(epilog=example("provenance train"))
def train(
    data: Annotated[str, typer.Argument(metavar="DATA", help=f"Training pictures: {NAMED}")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for settings, checkpoint and network.")],
    epochs: Annotated[int, typer.Option(help="Passes over the training data.")] = 12,
    head: Annotated[str, typer.Option(help="cosine, bank, codes, shared or neighbours.")] = "cosine",
    conditional: Annotated[bool, typer.Option("--conditional", help="Number examples within their class.")] = False,
    distort: Annotated[bool, typer.Option(help="Train on distorted pictures too, which keep their index.")] = True,
    width: Annotated[int, typer.Option(help="Numbers of the embedding.")] = 128,
    seed: Annotated[int, typer.Option(help="Of initial weights, order and distortions.")] = 0,
    as_json: Json = False,
) -> None:
    """Train a small provenance network on pictures; one that was stopped goes on."""
    with expected(AGAIN):
        from whence.provenance import FolderSettings, train_folder
        from whence.report.sources import lasting_name, named_data

        settings = FolderSettings(head, conditional, distort, width, epochs, seed)
        made = train_folder(named_data(data, "train", "DATA"), out, settings, source=lasting_name(data))
        last = {str(one.measure.item()): float(one) for one in made.history[-1]} if made.history is not None else {}
        facts = {"network": out.resolve(), "head": head, "training_examples": len(made.network.index), "epochs": epochs}
        show({**facts, **{name.replace(" ", "_"): last[name] for name in ("class accuracy", "index loss")}}, as_json)


@provenance.command(epilog=example("provenance retrieve"))
def retrieve(
    folder: Folder,
    data: Annotated[str, typer.Argument(metavar="DATA", help=f"What to ask about (their test part): {NAMED}")],
    ids: Annotated[list[int], typer.Option(help="Ids of inputs, as in --ids 0 1 2.")],
    more: Annotated[list[int] | None, typer.Argument(metavar="ID", hidden=True)] = None,
    k: Annotated[int, typer.Option("-k", "--k", help="Training examples to name for each.")] = 5,
    picture: Annotated[Path | None, typer.Option(help="File for a sheet of each input beside its exemplars.")] = None,
    train_data: Trained = None,
    as_json: Json = False,
) -> None:
    """Answer some inputs, and name the training examples that the network takes each for."""
    with expected("nothing was kept"):
        from whence.provenance import retrieval_rows, retrieve_examples
        from whence.report.sources import named_data

        if picture is not None:
            refuse_taken(picture)
        (opened, known), asked = open_named_folder(folder, train_data), named_data(data, "test", "DATA")
        found = retrieve_examples(opened.network, asked, [*ids, *(more or ())], known, k, picture=picture)
        rows = retrieval_rows(found, known.class_names)
        kept = {} if picture is None else {"picture": picture.resolve()}
        if as_json:
            show({**kept, "results": rows}, as_json)
            return
        typer.echo(_table(rows))
        typer.echo("\nAn exemplar is what the network takes the input for; it is not what caused the answer.")
        if kept:
            show(kept, as_json)


@provenance.command(epilog=example("provenance evaluate"))
def evaluate(
    folder: Folder,
    test: Annotated[str, typer.Option(help=f"Data that it was not trained on (test part): {NAMED}")],
    k: Annotated[int, typer.Option("-k", "--k", help="Training examples to retrieve.")] = 5,
    limit: Annotated[int, typer.Option(help="Take so many evenly spaced examples at most.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of distortions and intervals.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for a JSON file of each table.")] = None,
    train_data: Trained = None,
    as_json: Json = False,
) -> None:
    """Measure what a network retrieves, beside nearest neighbours, under distortions, and as a test of membership."""
    with expected("nothing was kept"):
        from whence.evaluation import evaluate_provenance
        from whence.report.sources import named_data

        if out is not None:
            refuse_taken(out)
        opened, known = open_named_folder(folder, train_data)
        tables = evaluate_provenance(
            opened.network, known, named_data(test, "test", "--test"), k=k, limit=limit, seed=seed
        )
        kept = {} if out is None else {"evaluation": out.resolve()}
        if out is not None:
            tables.save(out)
        tell(tables, kept, as_json)


def open_named_folder(folder: Path, data: str | None) -> Any:
    """Open the network of a folder, and its training data."""
    from whence.provenance import folder_settings, open_folder
    from whence.report.sources import named_data

    known = named_data(data or folder_settings(folder)[1], "train", "--data")
    return open_folder(folder, known), known


def _table(rows: list[dict[str, Any]]) -> str:
    """Return what was retrieved as a table in Markdown."""
    count = max(len(one["exemplars"]) for one in rows)
    lines = [f"| id | predicted | {' | '.join(f'exemplar {place}' for place in range(1, count + 1))} |"]
    lines.append("|" + "---|" * (count + 2))
    for one in rows:
        sure = "" if one["confidence"] is None else f" ({one['confidence']:.3f})"
        cells = [f"#{each['id']}, {each['class']} ({math.exp(each['score']):.3f})" for each in one["exemplars"]]
        cells += [""] * (count - len(cells))
        lines.append(f"| {one['id']} | {one['predicted']}{sure} | {' | '.join(cells)} |")
    return "\n".join(lines)
