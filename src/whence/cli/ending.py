"""How a command ends: with facts, or with one line about what went wrong."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from whence._errors import WhenceError
from whence._numbers import json_ready

_UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # of the click that this typer has, own or installed


class Commands(TyperGroup):
    """The commands; words that cannot be read are an error like any other: one line, and exit code 1."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **kwargs: Any) -> Any:
        """Read the words before the command's name; without any, show the help."""
        with _usage():
            return super().make_context(info_name, args or ["--help"], *rest, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Read the command's own words and run it."""
        with _usage():
            return super().invoke(ctx)


@contextmanager
def _usage() -> Iterator[None]:
    try:
        yield
    except _UsageError as error:
        told: Any = error
        command = told.ctx.command_path if told.ctx is not None else "whence"
        message = told.format_message()
        _complain(f"{message}{'' if message.endswith(('.', '?', ')')) else '.'} See: {command} --help")
        raise typer.Exit(1) from error


@contextmanager
def expected(after_interrupt: str) -> Iterator[None]:
    """End with one line and exit code 1 on an expected error, 130 on Ctrl-C."""
    try:
        with _current_folder_first():
            yield
    except WhenceError as error:
        _complain(str(error))
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        typer.echo(f"whence: stopped; {after_interrupt}.", err=True)
        raise typer.Exit(130) from error


def _complain(text: str) -> None:
    """Print an error in one line."""
    typer.echo(f"whence: {' '.join(text.split())}", err=True)


@contextmanager
def _current_folder_first() -> Iterator[None]:
    """Let modules of the current folder be imported, as ``python -m`` does."""
    before = list(sys.path)
    sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        sys.path[:] = before


def show(facts: dict[str, Any], as_json: bool) -> None:
    """Print facts as JSON, or one a line: without empty lists, and with a sentence for completeness's numbers."""
    if as_json:
        typer.echo(json.dumps(json_ready(facts), default=str, allow_nan=False))
        return
    told = {"targets", "mean_error", "correlation", "unit"} if "completeness" in facts else set()
    shown = {name: one for name, one in facts.items() if name not in told and one != ()}
    width = max(map(len, shown))
    for name, value in shown.items():
        title = name.replace("_", " ").ljust(width)
        typer.echo(f"{title}  {_text(value)}")


def tell(found: Any, kept: dict[str, Any], as_json: bool) -> None:
    """Print tables, and below them what was kept where; as JSON both in one."""
    if as_json:
        show({**kept, **found.plain()}, as_json)
        return
    typer.echo(found)
    if kept:
        typer.echo()
        show(kept, as_json)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {one}" for key, one in value.items())
    if isinstance(value, tuple):
        return ", ".join(map(_text, value))
    return f"{value:,}" if isinstance(value, int) else str(value)
