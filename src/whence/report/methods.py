"""Attributors, and recipes of region maps, by the names that a command line gives them."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from whence._errors import ArgumentError
from whence.attribution import (
    EKFAC,
    TRAK,
    Attributor,
    Counterfactual,
    GradCos,
    GradDot,
    Influence,
    NearestNeighbours,
    PathAudit,
    PathSimilarity,
    Random,
    RepresentationCos,
    RepresentationDot,
    SameClass,
    TracIn,
)
from whence.regions import DEFAULT, PAPER, SHARED, Integrated, Recipe

Named = TypeVar("Named")
METHODS: dict[str, type[Any]] = {
    "grad-dot": GradDot,
    "grad-cos": GradCos,
    "tracin": TracIn,
    "path-similarity": PathSimilarity,
    "audit": PathAudit,
    "counterfactual": Counterfactual,
    "influence": Influence,
    "ekfac": EKFAC,
    "trak": TRAK,
    "representation-cos": RepresentationCos,
    "representation-dot": RepresentationDot,
    "neighbours": NearestNeighbours,
    "same-class": SameClass,
    "random": Random,
}
RECIPES = {
    "default": DEFAULT,
    "shared": SHARED,
    "paper": PAPER,
    "integrated-cos": Recipe(GradCos("loss"), Integrated()),
}


def named_method(name: str, **options: Any) -> Attributor:
    """Return an attributor by its name on the command line.

    Args:
        name: One of `METHODS`.
        options: Its settings; those that are None are left as they are.

    Raises:
        ArgumentError: If there is no such method, it has no such setting, or it needs one that is not given.
    """
    kind = _known(name, METHODS, "method")
    given = {key: value for key, value in options.items() if value is not None}
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := sorted(given.keys() - fields.keys()):
        raise ArgumentError(f"The method {name} has no --{unknown[0].replace('_', '-')}. Leave it out.")
    if missing := [key for key, one in fields.items() if one.default is dataclasses.MISSING and key not in given]:
        raise ArgumentError(
            f"The method {name} needs --{missing[0]}, which has no usual value: give it to `whence attribute`."
        )
    made: Attributor = kind(**given)
    return made


def named_methods(names: Sequence[str]) -> dict[str, Attributor]:
    """Return attributors with their usual settings, by their names on the command line.

    Raises:
        ArgumentError: If there is no method of one of these names.
    """
    return {name: named_method(name) for name in names}


def named_recipe(name: str) -> Recipe:
    """Return a recipe of region maps by its name on the command line.

    Args:
        name: One of `RECIPES`.

    Raises:
        ArgumentError: If there is no such recipe.
    """
    return _known(name, RECIPES, "recipe")


def _known(name: str, known: Mapping[str, Named], what: str) -> Named:
    if name not in known:
        near = " or ".join(difflib.get_close_matches(name, known)) or "none is close"
        raise ArgumentError(f"No {what} {name!r} (similar: {near}). Choose one of {', '.join(known)}.")
    return known[name]
