"""Which method to trust: the table of an evaluation, as the page shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from whence._errors import ArgumentError
from whence.evaluation import Table
from whence.report.choice import refuse_another_run
from whence.report.figures import FIRST, INK, Figure, Rows, axis, compact, layout, plain
from whence.report.words import count, listing, number
from whence.runs import Run


@final
@dataclass(frozen=True)
class Trust:
    """An evaluation on the page.

    Attributes:
        verdict: What it says of the methods.
        note: What was measured.
        columns: Head of the table.
        rows: The table, best method first.
        figure: The plot.
    """

    verdict: str
    note: str
    columns: tuple[str, ...]
    rows: Rows
    figure: Figure


def trust(run: Run, table: object) -> Trust:
    """Return an evaluation of methods on a run as the page shows it.

    Args:
        run: The run that the page is about.
        table: As `whence.evaluation.compare_attributors` gives it.

    Raises:
        ArgumentError: If it is no table.
        AuditError: If it is of another run, or of none.
    """
    if not isinstance(table, Table):
        raise ArgumentError(
            "`evaluation` is a table of whence.evaluation, as compare_attributors or load_table gives it; got "
            f"{type(table).__name__}."
        )
    refuse_another_run(run, table.data.attrs, "evaluation", "evaluate")
    dim, column = table.data["estimate"].dims
    order = np.argsort(-table.data["estimate"].values[:, 0], kind="stable")
    ranked = Table(table.data.isel({dim: order}), table.references)
    attrs = ranked.data.attrs
    columns = (str(dim), *map(str, ranked.data.coords[column].values))
    note = (
        f"{attrs['title']}: {attrs['measure']}, with the 95 % interval {attrs['interval']}. Other trainings could give "
        "another order: the fewer there were, the more easily."
    )
    verdict = _verdict(ranked)
    figure = Figure(
        "trust",
        "How far each method foresaw the trainings",
        f"{count(len(order), 'method')}, best first: {attrs['measure']}. The lines are 95 % intervals.",
        tuple(_of_page(one) for one in ranked.figure().data),
        layout(axis("", type="category"), axis(columns[1])),
        columns,
        ranked.texts,
    )
    return Trust(verdict, note, columns, ranked.texts, figure)


def _verdict(ranked: Table) -> str:
    """Say which method is best, and which are not clearly behind it."""
    names = ranked.data.coords[ranked.data["estimate"].dims[0]].values
    middle, low, high = (ranked.data[part].values[:, 0] for part in ("estimate", "low", "high"))
    if np.isnan(low[0]) and not np.isnan(middle[0]):
        return (
            f"{names[0]} ranked the trainings best for a single target: {number(middle[0], 2)}, where 1 is perfect "
            "and 0 is chance. One target says nothing of others."
        )
    if not low[0] > 0:
        return "None of these methods ranked the trainings better than chance, so none foretells a removal here."
    said = f"{names[0]} ranked the trainings best: {number(middle[0], 2)}, where 1 is perfect and 0 is chance."
    close = [str(name) for name, most in zip(names[1:], high[1:], strict=True) if most >= low[0]]
    return f"{said} Not clearly behind: {listing(close)}." if close else said


def _of_page(trace: Any) -> dict[str, Any]:
    """Return a trace of a table's own plot as the page draws it: its colours, short numbers, names that are text."""
    return {
        "type": "bar",
        "x": [plain(str(one)) for one in trace.x],
        "y": compact(trace.y),
        "error_y": {
            "type": "data",
            "array": compact(trace.error_y.array),
            "arrayminus": compact(trace.error_y.arrayminus),
            "color": INK,
        },
        "marker": {"color": FIRST},
        "hovertemplate": "%{x}: %{y:.3f}<extra></extra>",
    }
