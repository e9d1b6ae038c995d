"""The commands of what provenance networks are good for: each prints tables, and keeps them with their pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from whence.cli.commands import AGAIN, EXAMPLES, Json, Processes, example
from whence.cli.ending import expected, tell
from whence.cli.evaluating import after_trainings
from whence.cli.refusals import numbers_of, refuse_limit, refuse_taken, words_of
from whence.cli.tracing import NAMED, Folder, Trained, app, open_named_folder, provenance

__all__ = ["app"]

EXAMPLES["provenance membership"] = (
    "whence provenance membership digits-network --test digits --condition rotation --out membership",
)
EXAMPLES["provenance entropy"] = ("whence provenance entropy digits-network --each 3 --out entropy",)
EXAMPLES["provenance robustness"] = (
    "whence provenance robustness digits-network --test digits --limit 200 --out robustness",
)
EXAMPLES["provenance styles"] = ("whence provenance styles digits-network --class 6 --clusters 4 --out styles",)
EXAMPLES["provenance map"] = ("whence provenance map digits-network --test digits --out map",)
EXAMPLES["provenance curve"] = (
    "whence provenance curve digits --test digits --limit 500 --path trainings --out curve",
)
EXAMPLES["provenance scaling"] = (
    "whence provenance scaling digits --test digits --strategies stratified,diverse --shares 0.1,0.5 \\",
    "  --path trainings --out scaling",
)
EXAMPLES["provenance sharing"] = (
    "whence provenance sharing digits --test digits --sizes small --levels 1,4 --path trainings --out sharing",
)

Test = Annotated[str, typer.Option(help=f"Data that it was not trained on (test part): {NAMED}")]
Few = Annotated[int, typer.Option(help="Take so many evenly spaced pictures at most.")]
Seed = Annotated[int, typer.Option(help="Of all that is drawn.")]
Condition = Annotated[
    list[str] | None, typer.Option(help="One of the 15 distortions, or how its name begins; may be repeated.")
]
Out = Annotated[Path | None, typer.Option(help="New folder for each table as JSON, and the pictures.")]
Data = Annotated[str, typer.Argument(metavar="DATA", help=f"Training pictures: {NAMED}")]
Tested = Annotated[str, typer.Option(help=f"Pictures to test on (test part): {NAMED}")]
Epochs = Annotated[int, typer.Option(help="Passes over the training data of each training.")]
Seeds = Annotated[int, typer.Option(help="Networks to train for each setting, over which intervals are.")]
Most = Annotated[int | None, typer.Option(help="Take so many evenly spaced pictures at most, of either part.")]
Paper = Annotated[bool, typer.Option("--paper", help="The paper's network, instead of a small one: for a GPU.")]
Resumed = Annotated[
    Path | None, typer.Option("--path", help="Folder that keeps each training; a stopped command goes on there.")
]
NOTHING = "nothing was kept"


@provenance.command(epilog=example("provenance membership"))
def membership(
    folder: Folder,
    test: Test,
    condition: Condition = None,
    limit: Few = 2000,
    seed: Seed = 0,
    out: Out = None,
    train_data: Trained = None,
    as_json: Json = False,
) -> None:
    """Test whether a network betrays who was trained on, also distorted, beside a look-up and a blind control."""
    with expected(NOTHING):
        from whence.evaluation.provenance.applications import membership_findings
        from whence.report.sources import named_data

        _begin(out, limit)
        opened, known = open_named_folder(folder, train_data)
        others = named_data(test, "test", "--test")
        options: dict[str, Any] = {"conditions": condition or (), "limit": limit, "seed": seed}
        _end(membership_findings(opened.network, known, others, **options), out, as_json)


@provenance.command(epilog=example("provenance entropy"))
def entropy(
    folder: Folder,
    each: Annotated[int, typer.Option(help="Training pictures of each class to name at either end.")] = 5,
    out: Out = None,
    train_data: Trained = None,
    as_json: Json = False,
) -> None:
    """Rank the training pictures by the entropy of the index, and show both ends of each class."""
    with expected(NOTHING):
        from whence.evaluation.provenance.applications import entropy_findings

        _begin(out)
        opened, known = open_named_folder(folder, train_data)
        _end(entropy_findings(opened.network, known, each=each), out, as_json)


@provenance.command(epilog=example("provenance robustness"))
def robustness(
    folder: Folder,
    test: Test,
    condition: Condition = None,
    limit: Few = 1000,
    seed: Seed = 0,
    out: Out = None,
    train_data: Trained = None,
    as_json: Json = False,
) -> None:
    """Measure answers under the 15 distortions, beside a classifier that is trained once without an index."""
    with expected(AGAIN):
        from whence.evaluation.provenance.applications import robustness_beside_isolated
        from whence.report.sources import named_data

        _begin(out, limit)
        opened, known = open_named_folder(folder, train_data)
        tested, options = named_data(test, "test", "--test"), {"limit": limit, "seed": seed}
        found = robustness_beside_isolated(folder, opened, known, tested, conditions=condition or (), **options)
        _end(found, out, as_json)


@provenance.command(epilog=example("provenance styles"))
def styles(
    folder: Folder,
    named: Annotated[
        list[str] | None, typer.Option("--class", help="Name or number of a class; may be repeated; all if left out.")
    ] = None,
    clusters: Annotated[int, typer.Option(help="Styles of each class.")] = 6,
    exemplars: Annotated[int, typer.Option(help="Training pictures to name for each.")] = 5,
    seed: Seed = 0,
    out: Out = None,
    train_data: Trained = None,
    as_json: Json = False,
) -> None:
    """Cluster the training pictures of each class into styles, by what the index branch sees alike."""
    with expected(NOTHING):
        from whence.evaluation.provenance.applications import styles_findings

        _begin(out)
        opened, known = open_named_folder(folder, train_data)
        options: dict[str, Any] = {"classes": named or (), "clusters": clusters, "exemplars": exemplars, "seed": seed}
        _end(styles_findings(opened.network, known, **options), out, as_json)


@provenance.command(epilog=example("provenance map"))
def map(  # noqa: A001 - its name on the command line
    folder: Folder,
    test: Annotated[str | None, typer.Option(help=f"Map other data (test part): {NAMED}")] = None,
    umap: Annotated[bool, typer.Option("--umap", help="By UMAP (extra umap), instead of t-SNE.")] = False,
    neighbours: Annotated[
        int | None, typer.Option(help="Of UMAP how many neighbours count, of t-SNE the perplexity; suited if left out.")
    ] = None,
    limit: Few = 2000,
    seed: Seed = 0,
    out: Out = None,
    train_data: Trained = None,
    as_json: Json = False,
) -> None:
    """Lay pictures out by what the index branch sees alike, and list those taken for another class's example."""
    with expected(NOTHING):
        from whence.evaluation.provenance.applications import map_findings
        from whence.evaluation.provenance.naming import projection_of
        from whence.report.sources import named_data

        _begin(out, limit)
        opened, known = open_named_folder(folder, train_data)
        shown = known if test is None else named_data(test, "test", "--test")
        way = projection_of(min(limit, len(shown)), neighbours, seed, umap=umap)
        _end(map_findings(opened.network, known, shown, projection=way, limit=limit), out, as_json)


@provenance.command(epilog=example("provenance curve"))
def curve(
    data: Data,
    test: Tested,
    alpha: Annotated[str, typer.Option(help="Shares of mixed labels.")] = "0,0.25,0.5,0.75,1",
    epochs: Epochs = 12,
    seeds: Seeds = 3,
    limit: Most = None,
    paper: Paper = False,
    processes: Processes = None,
    path: Resumed = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Train single-branch networks between memorising and generalising, and measure index and class."""
    with expected(after_trainings(path)):
        from whence.evaluation.provenance.comparisons import Effort, curve_findings

        _begin(out, limit)
        effort = Effort(epochs, seeds, limit, processes, path)
        found = curve_findings(*_both(data, test), effort, mixing=numbers_of(alpha, "--alpha"), paper=paper)
        _end(found, out, as_json)


@provenance.command(epilog=example("provenance scaling"))
def scaling(
    data: Data,
    test: Tested,
    strategies: Annotated[
        str, typer.Option(help="stratified, prototypes, boundary, diverse; with --audit influential, helpful.")
    ] = "stratified,prototypes,boundary,diverse",
    shares: Annotated[str, typer.Option(help="Shares of the training pictures to keep.")] = "0.1,0.3,1",
    audit: Annotated[Path | None, typer.Option(help="An audit of a run on the same training data.")] = None,
    epochs: Epochs = 12,
    seeds: Seeds = 3,
    limit: Most = None,
    paper: Paper = False,
    processes: Processes = None,
    path: Resumed = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Train class-conditional networks on growing subsets, chosen in several ways."""
    with expected(after_trainings(path)):
        from whence.evaluation.provenance.comparisons import Effort, scaling_findings, scores_of

        _begin(out, limit)
        effort, scores = Effort(epochs, seeds, limit, processes, path), scores_of(audit)
        chosen = {"strategies": words_of(strategies), "shares": numbers_of(shares, "--shares")}
        found = scaling_findings(*_both(data, test), effort, **chosen, scores=scores, paper=paper)
        _end(found, out, as_json)


@provenance.command(epilog=example("provenance sharing"))
def sharing(
    data: Data,
    test: Tested,
    sizes: Annotated[str, typer.Option(help="small, medium, large or xlarge; several with commas.")] = "small",
    levels: Annotated[str, typer.Option(help="How many layers class and index share.")] = "1,2,3,4",
    epochs: Epochs = 20,
    seeds: Seeds = 3,
    limit: Most = None,
    processes: Processes = None,
    path: Resumed = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Train networks whose class and index share more or fewer layers, small and large."""
    with expected(after_trainings(path)):
        from whence.evaluation.provenance.comparisons import Effort, sharing_findings

        _begin(out, limit)
        effort = Effort(epochs, seeds, limit, processes, path)
        chosen = {"sizes": words_of(sizes), "levels": numbers_of(levels, "--levels")}
        _end(sharing_findings(*_both(data, test), effort, **chosen), out, as_json)


def _begin(out: Path | None, limit: int | None = None) -> None:
    """Refuse what can be refused before long work."""
    refuse_limit(limit)
    if out is not None:
        refuse_taken(out)


def _end(found: Any, out: Path | None, as_json: bool) -> None:
    """Keep what was found, and print it."""
    if out is not None:
        found.save(out)
    tell(found, {} if out is None else {"kept": out.resolve()}, as_json)


def _both(data: str, test: str) -> tuple[Any, Any]:
    from whence.report.sources import named_data

    return named_data(data, "train", "DATA"), named_data(test, "test", "--test")
