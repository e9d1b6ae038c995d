"""What the commands refuse before they begin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from whence._errors import ArgumentError


def refuse_finished(run: Path, out: Path) -> None:
    """Check, before anything is read, that no audit is at ``out``; the library refuses other things that stand there.

    Raises:
        ArgumentError: If there is one.
    """
    if (out / "zarr.json").exists():
        raise ArgumentError(
            f"{out} is a finished audit. Choose another --out, or make its page with: whence report {run} --audit {out}"
        )


def refuse_other_effects(effects: Any, out: Path, asked: dict[str, Any]) -> None:
    """Check that effects kept earlier answer the same question.

    Raises:
        ArgumentError: If they do not.
    """
    different = [name for name, value in asked.items() if effects.attrs.get(name) != value]
    if different:
        raise ArgumentError(f"{out} holds other effects ({', '.join(different)} differ). Choose another --out.")


def refuse_limit(limit: int | None) -> None:
    """Refuse to take no target at all.

    Raises:
        ArgumentError: If that is asked for.
    """
    if limit is not None and limit < 1:
        raise ArgumentError(f"--limit must be at least 1, got {limit}. Leave it out to take every target.")


def classes_of(text: str | None) -> Any:
    """Read the classes to explain: all, or numbers.

    Raises:
        ArgumentError: If it is neither.
    """
    if text is None or text == "all":
        return text
    try:
        return [int(one) for one in text.split(",")]
    except ValueError:
        raise ArgumentError(f"--classes must be all, or numbers such as 0,3; got {text!r}.") from None
