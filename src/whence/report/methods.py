"""Attributors by the names that a command line gives them."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from whence._errors import ArgumentError
from whence.attribution import (
    EKFAC,
    TRAK,
    Attributor,
    Counterfactual,
    GradCos,
    GradDot,
    NearestNeighbours,
    PathAudit,
    PathSimilarity,
    Random,
    RepresentationCos,
    RepresentationDot,
    SameClass,
    TracIn,
)

METHODS: dict[str, type[Any]] = {
    "grad-dot": GradDot,
    "grad-cos": GradCos,
    "tracin": TracIn,
    "path-similarity": PathSimilarity,
    "audit": PathAudit,
    "counterfactual": Counterfactual,
    "ekfac": EKFAC,
    "trak": TRAK,
    "representation-cos": RepresentationCos,
    "representation-dot": RepresentationDot,
    "neighbours": NearestNeighbours,
    "same-class": SameClass,
    "random": Random,
}


def named_method(name: str, **options: Any) -> Attributor:
    """Return an attributor by its name on the command line.

    Args:
        name: One of `METHODS`.
        options: Its settings; those that are None are left as they are.

    Raises:
        ArgumentError: If there is no such method, or it has no such setting.
    """
    if name not in METHODS:
        near = " or ".join(difflib.get_close_matches(name, METHODS)) or "none is close"
        raise ArgumentError(f"No method {name!r} (similar: {near}). Choose one of {', '.join(METHODS)}.")
    kind = METHODS[name]
    given = {key: value for key, value in options.items() if value is not None}
    known = {field.name for field in dataclasses.fields(kind)}
    if unknown := sorted(given.keys() - known):
        raise ArgumentError(f"The method {name} has no --{unknown[0].replace('_', '-')}. Leave it out.")
    made: Attributor = kind(**given)
    return made
