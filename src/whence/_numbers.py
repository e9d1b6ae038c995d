"""Numbers: what counts as one where a caller gives it; how to cut a range, draw some, and write them as JSON."""

import math
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np

from whence._errors import ArgumentError


def is_whole(value: object) -> bool:
    """Say whether a value is a whole number: an `int` or NumPy's, not a `bool` and not a float."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Say whether a value is a finite number: an `int` or `float` or NumPy's, not a `bool`."""
    return not isinstance(value, bool) and isinstance(value, Real) and bool(np.isfinite(float(value)))


def is_several(value: object) -> bool:
    """Say whether a value holds others, in an order or not, and is no text and no array of a single number."""
    return isinstance(value, Iterable) and not isinstance(value, str) and getattr(value, "ndim", 1) != 0


def check_budget(memory_budget: object) -> None:
    """Refuse a memory budget that is none.

    Raises:
        ArgumentError: If it is not a whole number of bytes, at least 1.
    """
    if not is_whole(memory_budget) or int(memory_budget) < 1:  # type: ignore[call-overload]
        raise ArgumentError(f"`memory_budget` is a whole number of bytes, at least 1; got {memory_budget!r}.")


def check_seed(seed: object) -> None:
    """Refuse a seed that is none.

    Raises:
        ArgumentError: If it is not a whole number, at least 0.
    """
    if not is_whole(seed) or int(seed) < 0:  # type: ignore[call-overload]
        raise ArgumentError(f"`seed` is a whole number, at least 0; got {seed!r}.")


def even_parts(whole: range, most: int) -> list[range]:
    """Cut a range (of step 1) into as few parts of at most ``most`` (but at least one) as will do, of equal length."""
    most = max(1, most)
    parts = max(1, -(-len(whole) // most))
    length = max(1, -(-len(whole) // parts))
    return [whole[start : start + length] for start in range(0, len(whole), length)]


def random_ids(count: int, size: int, seed: int, place: int = 0) -> tuple[int, ...]:
    """Draw ids out of 0 to ``count - 1``, none twice; a seed gives another set at each place."""
    drawn = np.random.default_rng([seed, size, place]).choice(count, size, replace=False)
    return tuple(int(one) for one in drawn)


def json_ready(value: Any) -> Any:
    """Return the same with null for each number that is not finite: JSON has none."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: json_ready(one) for key, one in value.items()}
    return [json_ready(one) for one in value] if isinstance(value, list | tuple) else value
