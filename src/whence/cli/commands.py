"""The command line: each command is one library call and one way to print it."""

import ctypes
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from whence._errors import ArgumentError
from whence.cli.ending import Commands, expected, show
from whence.cli.refusals import classes_of, refuse_finished, refuse_limit, refuse_other_effects

EXAMPLES = {
    "demo": ("whence demo", "whence demo --data mnist --data-dir data/mnist --out demo-mnist"),
    "info": ("whence info demo/run",),
    "verify": ("whence verify demo/run --model whence.report.demo:small_network --data digits",),
    "audit": (
        "whence audit demo/run --model whence.report.demo:small_network --data digits \\",
        "  --targets digits --limit 20 --by layer,epoch --out digits-audit.zarr",
    ),
    "counterfactual": (
        "whence counterfactual demo/run --model whence.report.demo:small_network --data digits \\",
        "  --targets digits --limit 3 --remove 20 --check",
    ),
    "report": (
        "whence report demo/run --audit demo/audit.zarr --model whence.report.demo:small_network \\",
        "  --data digits --targets digits --out report.html",
    ),
}


def example(command: str) -> str:
    """Return the example of a command as its help shows it."""
    return "\n".join(("\b", "Example:", *(f"  {line}" for line in EXAMPLES[command])))


app = typer.Typer(
    name="whence",
    cls=Commands,
    help="Trace what a trained PyTorch network does back to the training data.",
    epilog="Begin with: whence demo",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a recorded run.")]
Model = Annotated[str, typer.Option(help="package.module:factory that builds the model as in the training.")]
TrainData = Annotated[
    str,
    typer.Option(
        "--data",
        help="Training data: digits, mnist[:FOLDER], a .parquet file, an image folder, or package.module:factory.",
    ),
]
Targets = Annotated[
    str, typer.Option(help="Examples to explain; named like --data (digits and mnist: their test part).")
]
Loss = Annotated[str, typer.Option(help="package.module:loss of the training.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Processes = Annotated[int | None, typer.Option(help="How many to train at once; all cores if left out, 1 with a GPU.")]
CROSS_ENTROPY = "torch.nn.functional:cross_entropy"
AGAIN = "run the same command again to go on where it stopped"


@app.callback(invoke_without_command=True)
def main(
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Trace what a trained PyTorch network does back to the training data.

    Raises:
        Exit: If only the version is asked for.
    """
    if show_version:
        typer.echo(version("whence"))
        raise typer.Exit
    keep_memory()


@app.command(epilog=example("demo"))
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the run, the audit and the page.")] = Path("demo"),
    data: Annotated[str, typer.Option(help="digits or mnist.")] = "digits",
    data_dir: Annotated[Path | None, typer.Option(help="Folder of MNIST's four files.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training data (digits: 12, mnist: 6).")] = None,
    batches: Annotated[int, typer.Option(help="mnist: training batches of 256 images.")] = 40,
    targets: Annotated[int | None, typer.Option(help="Test images to audit (digits: all, mnist: 256).")] = None,
    as_json: Json = False,
) -> None:
    """Train a small network with recording, audit it, and write a page that explains its mistakes."""
    with expected(AGAIN):
        from whence.report.demo import demonstrate

        made = demonstrate(out, data=data, data_dir=data_dir, epochs=epochs, batches=batches, targets=targets)
        facts = {"page": made.page, "run": made.run, "audit": made.audit_path, "seconds": round(made.seconds, 1)}
        if made.provenance is not None:
            facts |= {"provenance": made.provenance, "recognised": made.recognised}
        if made.prior is not None:
            facts["prior"] = made.prior
        show({**facts, **_completeness(made.audit)}, as_json)


@app.command(epilog=example("info"))
def info(run: RunFolder, as_json: Json = False) -> None:
    """Say what a run is, without its model or data."""
    from whence.runs import run_facts

    with expected("nothing was changed"):
        show(run_facts(run), as_json)


@app.command(epilog=example("verify"))
def verify(
    run: RunFolder,
    model: Model,
    data: TrainData,
    loss: Loss = CROSS_ENTROPY,
    repair: Annotated[bool, typer.Option(help="Write damaged or missing snapshots anew.")] = False,
    as_json: Json = False,
) -> None:
    """Walk a run again from start to end, and compare with every snapshot."""
    with expected("nothing was changed"):
        found = open_named(run, model, data, loss).verify(repair=repair)
        show(dict(vars(found)), as_json)


@app.command(epilog=example("audit"))
def audit(
    run: RunFolder,
    model: Model,
    data: TrainData,
    targets: Targets,
    out: Annotated[Path, typer.Option(help="Where to keep the audit.")],
    loss: Loss = CROSS_ENTROPY,
    quantity: Annotated[str, typer.Option(help="loss, logit, probability, or package.module:function.")] = "loss",
    classes: Annotated[str | None, typer.Option(help="For logit or probability: all, or numbers such as 0,3.")] = None,
    by: Annotated[str, typer.Option(help="Axes to keep apart: layer, step or epoch, label; such as layer,epoch.")] = "",
    quadrature: Annotated[str, typer.Option(help="euler, trapezoid, simpson, gauss2 or gauss3.")] = "trapezoid",
    tolerance: Annotated[float | None, typer.Option(help="Mean error to stay under; refines where needed.")] = None,
    precision: Annotated[str | None, typer.Option(help="float32, mixed or float64; the run's own if left out.")] = None,
    subsample: Annotated[int, typer.Option(help="Take the targets' gradients every so many steps.")] = 1,
    limit: Annotated[int | None, typer.Option(help="Audit only the first so many targets.")] = None,
    as_json: Json = False,
) -> None:
    """Decompose what a run did to each target into every training example's share."""
    with expected(AGAIN):
        from whence.audit import audit as make_audit
        from whence.report.sources import named_data, named_quantity

        refuse_finished(run, out)
        refuse_limit(limit)
        opened, examples = open_named(run, model, data, loss), named_data(targets, "test", "--targets")
        made = make_audit(
            opened,
            examples,
            quantity=named_quantity(quantity),
            classes=classes_of(classes),
            by=tuple(one.strip() for one in by.split(",") if one.strip()),
            quadrature=quadrature,
            tolerance=tolerance,
            precision=precision,
            subsample=subsample,
            ids=None if limit is None else range(min(limit, len(examples))),
            path=out,
        )
        seconds = round(float(made.data.attrs["seconds"]), 1)
        show({"audit": out, "seconds": seconds, **_completeness(made)}, as_json)


@app.command(epilog=example("counterfactual"))
def counterfactual(
    run: RunFolder,
    model: Model,
    data: TrainData,
    targets: Targets,
    loss: Loss = CROSS_ENTROPY,
    quantity: Annotated[str, typer.Option(help="loss, logit, probability, or package.module:function.")] = "loss",
    over: Annotated[str | None, typer.Option(help="all or label: explain means instead of single targets.")] = None,
    limit: Annotated[int | None, typer.Option(help="Explain only the first so many targets.")] = None,
    remove: Annotated[int, typer.Option(help="How many training examples to remove for each.")] = 20,
    held_out: Annotated[int, typer.Option(help="Parts to train without, for better predictions; 20 is good.")] = 0,
    check: Annotated[bool, typer.Option("--check", help="Train again without them, and without random ones.")] = False,
    seeds: Annotated[int, typer.Option(help="Random sets to check beside each.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Where to keep the effects; a stopped walk goes on there.")] = None,
    as_json: Json = False,
) -> None:
    """Say what removing training examples would change, and prove it by training again."""
    with expected(AGAIN if out else "nothing was kept"):
        from whence.audit.identity import identity_of
        from whence.counterfactual import counterfactual as effects_of
        from whence.counterfactual import load_effects, removals
        from whence.report.sources import named_data, named_quantity

        refuse_limit(limit)
        opened, examples = open_named(run, model, data, loss), named_data(targets, "test", "--targets")
        if not 1 <= remove <= len(opened.examples):
            raise ArgumentError(f"--remove must be from 1 to {len(opened.examples)}, got {remove}.")
        ids = None if limit is None else range(min(limit, len(examples)))
        if out is not None and (out / "zarr.json").exists():
            effects = load_effects(out)
            asked = {
                "quantity": quantity.rpartition(":")[2],
                "over": over or "",
                "held_out": held_out,
                "ids": list(ids or range(len(examples))),
                "run_identity": opened.identity,
                "loss": [opened.loss.name, identity_of(opened.loss)],
                "targets_fingerprint": examples.fingerprint,
            }
            refuse_other_effects(effects, out, asked)
        else:
            kind = named_quantity(quantity)
            effects = effects_of(opened, examples, quantity=kind, over=over, ids=ids, held_out=held_out, path=out)
        found = removals(effects, remove, seeds=seeds, check=check, run=opened, targets=examples)
        facts = {"effects": out} if out else {}
        show({**facts, "verdict": effects.attrs["verdict"], **found.facts(as_json)}, as_json)


@app.command(epilog=example("report"))
def report(
    run: RunFolder,
    audit_path: Annotated[Path, typer.Option("--audit", help="A saved audit of the run.")],
    model: Model,
    data: TrainData,
    targets: Targets,
    out: Annotated[Path, typer.Option(help="Where to write the page; one that is there is replaced.")] = Path(
        "report.html"
    ),
    loss: Loss = CROSS_ENTROPY,
    target: Annotated[list[str] | None, typer.Option(help="Id of a target to explain; may be repeated.")] = None,
    k: Annotated[int, typer.Option(help="Training examples to list each time.")] = 25,
    remove: Annotated[int, typer.Option(help="Examples to propose for removal, for each wrong answer.")] = 0,
    retrain: Annotated[int, typer.Option(help="For how many of these to train again without them.")] = 0,
    method: Annotated[list[str] | None, typer.Option(help="Another method to show; may be repeated.")] = None,
    regions: Annotated[int, typer.Option(help="Images at each end to show with the parts that mattered.")] = 0,
    evaluation: Annotated[
        Path | None, typer.Option(help="What whence evaluate --out kept: which method to trust on this run.")
    ] = None,
    provenance: Annotated[
        Path | None, typer.Option(help="What whence provenance train wrote on the same data: what it takes each for.")
    ] = None,
    prior: Annotated[
        str | None, typer.Option(help="What whence prior train wrote on the same data, fourier or pixels.")
    ] = None,
    invariants: Annotated[
        int, typer.Option(help="With --prior: inputs that the network cannot tell from each target.")
    ] = 8,
    on_map: Annotated[int, typer.Option("--map", help="Targets to map by what the network takes for alike.")] = 0,
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML page about an audit."""
    with expected("an earlier page is as it was"):
        from whence.audit import load_audit
        from whence.evaluation import load_table
        from whence.provenance import open_folder
        from whence.report import MapSettings, write_report
        from whence.report.asked import named_settings
        from whence.report.methods import named_methods
        from whence.report.sources import named_data

        methods = list(named_methods(method or ()).values())
        found, measured = load_audit(audit_path), None if evaluation is None else load_table(evaluation)
        examples = named_data(targets, "test", "--targets")
        opened = open_named(run, model, data, loss)
        asked: dict[str, Any] = {"remove": remove, "retrain": retrain, "regions": regions, "evaluation": measured}
        asked["alike"] = MapSettings(limit=on_map) if on_map else False
        asked["provenance"] = None if provenance is None else open_folder(provenance, opened.examples).network
        asked["invariants"] = named_settings(prior, examples, opened.examples, invariants)
        page = write_report(opened, found, examples, out, chosen=target or None, k=k, methods=methods, **asked)
        show({"page": page.resolve(), **_completeness(found)}, as_json)


def keep_memory() -> None:
    """Tell glibc to keep freed memory: training steps then need not ask the system for it again. Elsewhere, nothing."""
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for parameter, value in ((-4, 0), (-1, 2**31 - 1), (-2, 2**28)):  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD
            libc.mallopt(parameter, value)


def open_named(run: Path, model: str, data: str, loss: str) -> Any:
    """Open the run that a command line names."""
    from whence.report.sources import named_data, named_loss, named_model
    from whence.runs import open_run

    return open_run(run, named_model(model), named_data(data, "train"), loss=named_loss(loss))


def _completeness(audit: Any) -> dict[str, Any]:
    found = audit.completeness
    facts = {"mean_error": found.mean_error, "correlation": found.correlation, "unit": audit.unit}
    return {"completeness": str(found), "targets": int(found.true_change.size), **facts}
