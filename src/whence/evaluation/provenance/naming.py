"""What words name: conditions, classes, a projection that suits the number of inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from whence._errors import LabelError
from whence.datasets import Examples
from whence.evaluation.provenance.embedding import TSNE, UMAP, Projection
from whence.evaluation.provenance.sheets import class_name
from whence.provenance import Distortion, NoDistortion, Translation


def projection_of(count: int, neighbours: int | None = None, seed: int = 0, *, umap: bool = False) -> Projection:
    """Return a projection that suits the number of inputs.

    Args:
        count: How many inputs are mapped.
        neighbours: Of UMAP how many neighbours of each count, of t-SNE the perplexity; 15 and 30 by default, or less
            for few inputs.
        seed: Of the start.
        umap: UMAP instead of t-SNE.
    """
    if umap:
        return UMAP(min(15, max(2, count - 1)) if neighbours is None else neighbours, seed)
    return TSNE(min(30.0, max(1.0, (count - 1) / 3)) if neighbours is None else float(neighbours), seed)


def chosen_conditions(known: Mapping[str, Distortion], names: Sequence[str]) -> dict[str, Distortion]:
    """Return the conditions that some words name, or begin the name of; all where there is no word.

    Raises:
        LabelError: If there is none.
    """
    chosen = set()
    for word in names:
        named = [name for name in known if name == word] or [name for name in known if name.startswith(word)]
        if not named:
            near = " or ".join(get_close_matches(word, known, cutoff=0.3)) or "none is close"
            raise LabelError(
                f"No condition {word!r} among the {len(known)} for these pictures (similar: {near}). Give a name or "
                f"how it begins: {', '.join(known)}."
            )
        chosen |= set(named)
    return {name: one for name, one in known.items() if name in chosen or not names}


def undistorted_and_moved(known: Mapping[str, Distortion]) -> dict[str, Distortion]:
    """Return the first two conditions that say most about membership: none, and the smaller move."""
    moved = next(name for name, one in known.items() if isinstance(one, Translation))
    return {name: one for name, one in known.items() if isinstance(one, NoDistortion) or name == moved}


def chosen_classes(examples: Examples, names: Sequence[str], present: list[int]) -> list[int]:
    """Return the numbers of classes by name or number; all that are present by default.

    Raises:
        LabelError: If there is no such class, or it has no example.
    """
    known = {class_name(examples, kind): kind for kind in present}
    by_number = {str(kind): kind for kind in present}
    found = []
    for word in names:
        kind = known.get(word, by_number.get(word))
        if kind is None:
            near = " or ".join(get_close_matches(word, known, cutoff=0.3)) or "none is close"
            raise LabelError(f"No class {word!r} among the {len(known)} of the training data (similar: {near}).")
        found.append(kind)
    return found or present
