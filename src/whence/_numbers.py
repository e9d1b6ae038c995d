"""What counts as a whole number where a caller gives one."""

from numbers import Integral


def is_whole(value: object) -> bool:
    """Say whether a value is a whole number: an `int` or NumPy's, not a `bool` and not a float."""
    return isinstance(value, Integral) and not isinstance(value, bool)
