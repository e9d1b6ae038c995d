"""The command that measures which attributor to trust."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from whence.cli.attributing import METHODS_SAID
from whence.cli.commands import (
    AGAIN,
    CROSS_ENTROPY,
    EXAMPLES,
    Json,
    Loss,
    Model,
    Processes,
    RunFolder,
    Targets,
    TrainData,
    example,
    open_named,
)
from whence.cli.ending import expected, tell
from whence.cli.mapping import app
from whence.cli.refusals import refuse_limit, refuse_taken

__all__ = ["app"]

EXAMPLES["evaluate"] = (
    "whence evaluate demo/run --model whence.report.demo:small_network --data digits \\",
    "  --targets digits --limit 20 --sets 4 --method grad-cos --method grad-dot --out evaluation.json",
)


@app.command(epilog=example("evaluate"))
def evaluate(
    run: RunFolder,
    model: Model,
    data: TrainData,
    targets: Targets,
    method: Annotated[list[str], typer.Option(help=f"May be repeated: {METHODS_SAID}")],
    loss: Loss = CROSS_ENTROPY,
    limit: Annotated[int | None, typer.Option(help="Evaluate on the first so many targets only.")] = None,
    sets: Annotated[int, typer.Option(help="How many trainings.")] = 30,
    share: Annotated[float, typer.Option(help="Of the training examples that each leaves out.")] = 0.01,
    processes: Processes = None,
    path: Annotated[
        Path | None, typer.Option(help="Folder that keeps each training's result; a stopped command goes on there.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File for the table; whence report --evaluation shows it.")] = None,
    as_json: Json = False,
) -> None:
    """Measure which method to trust: train again without random examples, and ask each what comes of it."""
    with expected(after_trainings(path)):
        from whence.evaluation import compare_attributors
        from whence.report.methods import named_methods
        from whence.report.sources import named_data

        refuse_limit(limit)
        methods = named_methods(method)
        if out is not None:
            refuse_taken(out)
        opened, examples = open_named(run, model, data, loss), named_data(targets, "test", "--targets")
        ids = None if limit is None else list(range(min(limit, len(examples))))
        table = compare_attributors(
            opened, examples, methods, ids=ids, share=share, sets=sets, processes=processes, path=path
        )
        kept = {} if out is None else {"evaluation": out.resolve()}
        if out is not None:
            table.save(out)
        tell(table, kept, as_json)


def after_trainings(path: Path | None) -> str:
    """Say what is there after Ctrl-C amid several trainings."""
    return AGAIN if path else "nothing was kept; with --path, trainings are"
