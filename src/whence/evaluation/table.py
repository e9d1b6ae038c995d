"""What every evaluation gives: numbers with their intervals, as a table and as a plot."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import xarray as xr

from whence._errors import DataError, LabelError
from whence._files import make_folder, write_atomically
from whence._statistics import Interval
from whence.audit.storage import refuse_existing

FORMAT = 1
PARTS = ("estimate", "low", "high")

_DASHES, _FEW = ("solid", "dash", "dot"), 4  # lines from which on some are dashed
_COLOURS = ("#0f766e", "#c2410c", "#4338ca", "#a16207", "#be185d", "#0369a1", "#4d7c0f", "#6b7280", "#111827")


@final
@dataclass(frozen=True)
class Table:
    """Numbers with 95 % intervals, one a row and column; printed, it is a table in Markdown.

    Attributes:
        data: Variables ``estimate``, ``low`` and ``high``, each of two dims, rows and columns. ``attrs``: ``title``,
            ``measure`` (what the numbers are, with their unit) and ``interval`` (what was drawn for it); some have
            ``notes``, sentences that are printed below.
        references: Numbers to compare with that are no measurements, such as an ideal; lines in the plot.
    """

    data: xr.Dataset
    references: tuple[tuple[str, float], ...] = ()

    def value(self, row: Any, column: Any) -> Interval:
        """Return one number with its interval.

        Args:
            row, column: As in the coordinates.

        Raises:
            LabelError: If there is no such row or column.
        """
        down, across = self.data["estimate"].dims
        for dim, given in ((down, row), (across, column)):
            known = self.data.coords[dim].values.tolist()
            if given not in known:
                raise LabelError(f"No {dim} {given!r} in the table; there are {', '.join(map(repr, known))}.")
        entry = self.data.sel({down: row, across: column})
        return Interval(*(float(entry[part]) for part in PARTS))

    @property
    def texts(self) -> tuple[tuple[str, ...], ...]:
        """The rows as text: the name, then each number with its interval."""
        names = self.data.coords[self.data["estimate"].dims[0]].values
        numbers = np.stack([self.data[part].values for part in PARTS], -1).tolist()
        return tuple(
            (_word(name), *(_cell(*number) for number in row)) for name, row in zip(names, numbers, strict=True)
        )

    def plain(self) -> dict[str, Any]:
        """Return the table as JSON's types: what `save` writes. A number that is not there is None."""
        data = self.data["estimate"]
        return {
            "format": FORMAT,
            **self.data.attrs,
            "dims": list(data.dims),
            "rows": data.coords[data.dims[0]].values.tolist(),
            "columns": data.coords[data.dims[1]].values.tolist(),
            **{part: [list(map(_or_none, row)) for row in self.data[part].values.tolist()] for part in PARTS},
            "references": [list(one) for one in self.references],
        }

    def save(self, path: str | Path) -> None:
        """Write the table as a JSON file, whole or not at all.

        Raises:
            AuditError: If something stands at ``path``.
            ArgumentError: If a file stands where its folder would be.
            DiskError: If the disk is full or refuses to write.
        """
        place = Path(path)
        refuse_existing(place)
        make_folder(place.parent)
        write_atomically(place, (json.dumps(self.plain(), indent=1) + "\n").encode())

    def __str__(self) -> str:
        """Return the table in Markdown, with its title, measure and kind of interval."""
        down, across = self.data["estimate"].dims
        columns = [_word(one) for one in self.data.coords[across].values]
        lines = [
            f"{self.data.attrs['title']}: {self.data.attrs['measure']} (95 % interval {self.data.attrs['interval']})",
            "",
            f"| {down} | {' | '.join(columns)} |",
            "|" + "---|" * (len(columns) + 1),
        ]
        lines += [f"| {' | '.join(row)} |" for row in self.texts]
        if self.references:
            lines += [
                "",
                "For comparison: " + ", ".join(f"{name} {value:.3g}" for name, value in self.references) + ".",
            ]
        for note in self.data.attrs.get("notes", ()):
            lines += ["", note]
        return "\n".join(lines)

    def figure(self) -> Any:
        """Return a plotly figure: lines over numeric rows, bars over named ones, one colour a column.

        Of many lines some are dashed, so that one that lies on another is seen.
        """
        import plotly.graph_objects as go

        down, across = self.data["estimate"].dims
        rows = self.data.coords[down].values
        numeric = rows.dtype.kind in "iuf"
        figure, dashes = go.Figure(), _DASHES if self.data.sizes[across] > _FEW else _DASHES[:1]
        for place, column in enumerate(self.data.coords[across].values):
            part = self.data.isel({across: place})
            middle = part["estimate"].values
            error = {
                "type": "data",
                "array": np.nan_to_num(part["high"].values - middle),
                "arrayminus": np.nan_to_num(middle - part["low"].values),
                "thickness": 1.5,
            }
            shared = {"name": _word(column), "marker": {"color": _COLOURS[place % len(_COLOURS)]}, "error_y": error}
            if numeric:
                line = {"dash": dashes[place % len(dashes)]}
                figure.add_scatter(x=rows, y=middle, mode="lines+markers", line=line, **shared)
            else:
                figure.add_bar(x=[_word(one) for one in rows], y=middle, **shared)
        for name, value in self.references:
            figure.add_hline(y=value, line={"dash": "dot", "color": "#1f2933"}, annotation_text=name)
        return figure.update_layout(
            title=self.data.attrs["title"],
            xaxis_title=str(down),
            yaxis_title=self.data.attrs["measure"],
            template="simple_white",
        )


def load_table(path: str | Path) -> Table:
    """Open what `Table.save` wrote.

    Raises:
        DataError: If there is no table at ``path``, or one of another format.
    """
    place, known = Path(path), {"dims", "rows", "columns", *PARTS, "references"}
    advice = "Give the file that Table.save, or whence evaluate --out, wrote."
    try:
        found = json.loads(place.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{place} holds no table: {error}. {advice}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT or not known <= found.keys():
        raise DataError(f"{place} holds no table of format {FORMAT}. {advice}")
    down, across = found["dims"]
    data = xr.Dataset(
        {part: ((down, across), np.array(found[part], dtype=np.float64)) for part in PARTS},
        {down: _coordinates(found["rows"]), across: _coordinates(found["columns"])},
        {name: one for name, one in found.items() if name not in known | {"format"}},
    )
    return Table(data, tuple((name, value) for name, value in found["references"]))


@final
@dataclass(frozen=True)
class Tables:
    """Several tables of one evaluation.

    Attributes:
        parts: The tables by name; also ``tables["name"]``.
    """

    parts: Mapping[str, Table]

    def __getitem__(self, name: str) -> Table:
        """Return a table by its name."""
        return self.parts[name]

    def __str__(self) -> str:
        """Return all of them in Markdown."""
        return "\n\n".join(str(one) for one in self.parts.values())

    def plain(self) -> dict[str, Any]:
        """Return each table as JSON's types, by name."""
        return {name: one.plain() for name, one in self.parts.items()}

    def save(self, folder: str | Path) -> None:
        """Write each table as a JSON file of its name in a new folder; `load_table` opens each.

        Raises:
            AuditError: If something stands at ``folder``.
            ArgumentError: If a file stands where the folder above it would be.
            DiskError: If the disk is full or refuses to write.
        """
        place = Path(folder)
        refuse_existing(place)
        for name, table in self.parts.items():
            table.save(place / f"{name}.json")

    def figure(self) -> Any:
        """Return a plotly figure with the plots of all side by side."""
        from plotly.subplots import make_subplots

        titles = [str(one.data.attrs["title"]) for one in self.parts.values()]
        whole = make_subplots(rows=1, cols=len(titles), subplot_titles=titles)
        for place, table in enumerate(self.parts.values(), start=1):
            part = table.figure()
            for trace in part.data:
                whole.add_trace(trace, row=1, col=place)
            for name, value in table.references:
                whole.add_hline(y=value, line={"dash": "dot"}, annotation_text=name, row=1, col=place)
            whole.update_xaxes(title=part.layout.xaxis.title.text, row=1, col=place)
            whole.update_yaxes(title=part.layout.yaxis.title.text, row=1, col=place)
        return whole.update_layout(template="simple_white")


def table_of(
    found: Sequence[Sequence[Interval]],
    rows: tuple[str, Sequence[Any]],
    columns: tuple[str, Sequence[Any]],
    *,
    title: str,
    measure: str,
    interval: str,
    references: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
) -> Table:
    """Make a table.

    Args:
        found: The numbers, a sequence a row.
        rows, columns: The name and the coordinates of each dim.
        title, measure, interval: As in `Table`.
        references: As in `Table`.
        notes: Sentences to print below.
    """
    values = np.array([[tuple(one) for one in row] for row in found], dtype=np.float64)
    values = values.reshape(len(rows[1]), len(columns[1]), 3)
    dims = (rows[0], columns[0])
    data = xr.Dataset(
        {part: (dims, values[..., place]) for place, part in enumerate(PARTS)},
        {name: _coordinates(names) for name, names in (rows, columns)},
        {"title": title, "measure": measure, "interval": interval, **({"notes": list(notes)} if notes else {})},
    )
    return Table(data, tuple((references or {}).items()))


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _coordinates(names: Sequence[Any]) -> np.ndarray:
    return np.array(names, dtype=object) if any(isinstance(one, str) for one in names) else np.asarray(names)


def _word(value: Any) -> str:
    number = value.item() if hasattr(value, "item") else value
    return f"{number:g}" if isinstance(number, float) else str(number)


def _cell(estimate: float, low: float, high: float) -> str:
    if math.isnan(estimate):
        return "undefined"
    return f"{estimate:.3f}" if math.isnan(low) else f"{estimate:.3f} ({low:.3f} to {high:.3f})"
