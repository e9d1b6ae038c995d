"""What an application gives to print and to keep: tables, lists and pictures under their names."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from PIL import Image

from whence._files import make_folder, write_atomically
from whence._numbers import json_ready
from whence.audit.storage import refuse_existing
from whence.evaluation.table import Table

FORMAT = 1
_NAMED = 10  # ids of a row that are printed


@final
@dataclass(frozen=True)
class Listing:
    """Rows of names and ids, which have no interval; printed, a table in Markdown.

    Attributes:
        title: What is listed.
        columns: Their names.
        rows: An entry a column each: a word, a number, or a tuple of ids, or of mappings, each an id and a number.
            Printed, ids beyond ten are counted.
        notes: Sentences that are printed below.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    notes: Sequence[str] = ()

    def plain(self) -> dict[str, Any]:
        """Return the list as JSON's types."""
        told = {"format": FORMAT, "title": self.title, "columns": list(self.columns), "rows": self.rows}
        found: dict[str, Any] = json_ready({**told, "notes": list(self.notes)})
        return found

    def __str__(self) -> str:
        """Return the list in Markdown, with its title and notes."""
        lines = [self.title, "", f"| {' | '.join(self.columns)} |", "|" + "---|" * len(self.columns)]
        lines += [f"| {' | '.join(map(_text, row))} |" for row in self.rows]
        for note in self.notes:
            lines += ["", note]
        return "\n".join(lines)


@final
@dataclass(frozen=True, eq=False)
class Findings:
    """What an application found.

    Attributes:
        tables: By name.
        pictures: By name: sheets of pictures, and plotly figures.
    """

    tables: Mapping[str, Table | Listing]
    pictures: Mapping[str, Any]

    def plain(self) -> dict[str, Any]:
        """Return the tables as JSON's types."""
        return {name: one.plain() for name, one in self.tables.items()}

    def __str__(self) -> str:
        """Return the tables in Markdown."""
        return "\n\n".join(str(one) for one in self.tables.values())

    def save(self, folder: str | Path) -> None:
        """Write into a new folder a JSON file for each table, a PNG for each sheet and a page for each figure.

        `whence.evaluation.load_table` opens what was measured.

        Raises:
            AuditError: If something stands at ``folder``.
            ArgumentError: If a file stands where the folder above it would be.
            DiskError: If the disk is full or refuses to write.
        """
        place = Path(folder)
        refuse_existing(place)
        make_folder(place)
        for name, table in self.tables.items():
            write_atomically(place / f"{_file(name)}.json", (json.dumps(table.plain(), indent=1) + "\n").encode())
        for name, one in self.pictures.items():
            if isinstance(one, Image.Image):
                buffer = io.BytesIO()
                one.save(buffer, "PNG", optimize=True)
                write_atomically(place / f"{_file(name)}.png", buffer.getvalue())
            else:
                write_atomically(place / f"{_file(name)}.html", one.to_html(include_plotlyjs=True).encode())


def _file(name: str) -> str:
    """Return a name that is one of a file: of a class it may be anything."""
    return name.replace("/", "-")


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        rest = f" and {len(value) - _NAMED} more" if len(value) > _NAMED else ""
        return ", ".join(map(_id, value[:_NAMED])) + rest
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _id(one: int | Mapping[str, float]) -> str:
    if isinstance(one, int):
        return f"#{one}"
    number, value = one.values()
    return f"#{number} ({value:.3g})"
