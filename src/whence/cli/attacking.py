"""The command of adversarial inputs; with it, the command line is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from whence.cli.applying import app
from whence.cli.commands import (
    AGAIN,
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
from whence.cli.refusals import refuse_taken

__all__ = ["app"]

EXAMPLES["adversarial"] = (
    "whence adversarial demo/run --model whence.report.demo:small_network --data digits \\",
    "  --targets digits --count 8 --modes 30 --examples 256 --times 4 --out adversarial",
)


@app.command(epilog=example("adversarial"))
def adversarial(
    run: RunFolder,
    model: Model,
    data: TrainData,
    targets: Targets,
    out: Annotated[Path, typer.Option(help="Folder for the audit, the tables, the inputs and the page.")],
    count: Annotated[int, typer.Option(help="Adversarial inputs to find.")] = 32,
    method: Annotated[str, typer.Option(help="linf-pgd, l2-pgd, linf-fgsm, deepfool or carlini-wagner.")] = "linf-pgd",
    epsilon: Annotated[
        float | None, typer.Option(help="Largest change; a tenth of the inputs' range (or diagonal) if left out.")
    ] = None,
    modes: Annotated[int, typer.Option(help="Modes of the training gradients.")] = 125,
    examples: Annotated[int, typer.Option(help="Training examples of which modes are followed along the run.")] = 2048,
    times: Annotated[int, typer.Option(help="States of the run at which they are followed.")] = 11,
    quadrature: Annotated[str, typer.Option(help="Of the audit; see `whence audit`.")] = "trapezoid",
    tolerance: Annotated[float | None, typer.Option(help="Of the audit; see `whence audit`.")] = None,
    harden: Annotated[
        int, typer.Option(help="Epochs to train anew on adversarial and on clean inputs, to compare; 0 for none.")
    ] = 0,
    loss: Loss = CROSS_ENTROPY,
    seed: Annotated[int, typer.Option(help="Of every draw.")] = 0,
    as_json: Json = False,
) -> None:
    """Attack the network, and explain why its training did not teach it the attacked inputs."""
    with expected(AGAIN):
        from whence.adversarial import Hardening, Plan
        from whence.report import study_run
        from whence.report.sources import named_data

        refuse_taken(out / "page.html")
        plan = Plan(
            count=count,
            method=method,
            epsilon=epsilon,
            modes=modes,
            sensitive=min(50, modes),
            examples=examples,
            times=times,
            quadrature=quadrature,
            tolerance=tolerance,
            hardening=Hardening(epochs=harden, modes=modes, examples=examples, seed=seed) if harden else None,
            seed=seed,
        )
        opened = open_named(run, model, data, loss)
        made = study_run(opened, named_data(targets, "test", "--targets"), out, plan=plan)
        show(made, as_json)
