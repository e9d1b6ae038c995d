"""What the commands refuse before they begin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from whence._errors import ArgumentError
from whence._files import make_folder


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


def refuse_k(k: int) -> None:
    """Refuse to list no training example at all, before they are scored.

    Raises:
        ArgumentError: If that is asked for.
    """
    if k < 1:
        raise ArgumentError(
            f"--k must be at least 1, got {k}: it is how many training examples are listed at each end."
        )


def pairs_of(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Read pairs of a target and a training example.

    Raises:
        ArgumentError: If one does not read T:N.
    """
    try:
        return [(int(target), int(train)) for target, train in (one.split(":") for one in texts)]
    except ValueError:
        shown = ", ".join(map(repr, texts))
        raise ArgumentError(f"--pair must read TARGET:TRAIN, such as --pair 3:1024; got {shown}.") from None


def refuse_choice_beside_pairs(choice: Mapping[str, Any]) -> None:
    """Check that, beside pairs, nothing is given that chooses pairs.

    Args:
        choice: What is given, by option; None or an empty list is nothing.

    Raises:
        ArgumentError: If there is.
    """
    given = [name for name, value in choice.items() if value is not None and value != []]
    if given:
        raise ArgumentError(
            f"--pair says which training example is mapped for which target; {given[0]} chooses them. Give one or the "
            "other."
        )


def refuse_taken(out: Path) -> None:
    """Check, before long work, that a file can be kept at ``out``; its folder is made.

    Raises:
        AuditError: If something stands there.
        ArgumentError: If a file stands where its folder would be.
        DiskError: If the folder cannot be made.
    """
    from whence.audit.storage import refuse_existing  # here, as importing torch takes long

    refuse_existing(out)
    make_folder(out.parent)


def words_of(text: str) -> list[str]:
    """Return the words between commas."""
    return [one.strip() for one in text.split(",") if one.strip()]


def numbers_of(text: str, option: str) -> list[Any]:
    """Read numbers between commas, whole ones as such.

    Raises:
        ArgumentError: If one is none.
    """
    try:
        return [float(one) if set(one) & set(".eE") else int(one) for one in words_of(text)]
    except ValueError:
        raise ArgumentError(f"{option} must be numbers with commas between, such as 0,0.5,1; got {text!r}.") from None


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
