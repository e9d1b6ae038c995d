"""Whole numbers: what counts as one where a caller gives it, and how to cut a range of them."""

from numbers import Integral


def is_whole(value: object) -> bool:
    """Say whether a value is a whole number: an `int` or NumPy's, not a `bool` and not a float."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def even_parts(whole: range, most: int) -> list[range]:
    """Cut a range (of step 1) into as few parts of at most ``most`` (but at least one) as will do, of equal length."""
    most = max(1, most)
    parts = max(1, -(-len(whole) // most))
    length = max(1, -(-len(whole) // parts))
    return [whole[start : start + length] for start in range(0, len(whole), length)]
