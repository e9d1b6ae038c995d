"""Numbers and counts as the page writes them."""

import math
from collections.abc import Sequence
from typing import Any

MINUS = "\u2212"
_SUPERSCRIPTS = str.maketrans("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")


def number(value: float, digits: int = 3) -> str:
    """Write a number with a few significant digits, without an exponent where a reader does not need one.

    Args:
        value: Any number.
        digits: How many significant digits to keep.

    Examples:
        >>> number(0.00123456), number(12345.6), number(0.0)
        ('0.00123', '12,346', '0')
    """
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else ("infinity" if value > 0 else f"{MINUS}infinity")
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size < -4 or size > 7:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        return f"{mantissa}\u00d710{str(int(exponent)).translate(_SUPERSCRIPTS)}".replace("-", MINUS)
    return f"{value:,.{max(0, digits - 1 - size)}f}".replace("-", MINUS)


def signed(value: float, digits: int = 3) -> str:
    """Write a number with its sign, plus included.

    Examples:
        >>> signed(0.0031), signed(-2.5)
        ('+0.00310', '−2.50')
    """
    return f"+{number(value, digits)}" if value > 0 else number(value, digits)


def percent(share: float) -> str:
    """Write a share as a percentage.

    Examples:
        >>> percent(0.0714), percent(0.5), percent(1.0)
        ('7.1 %', '50 %', '100 %')
    """
    if 0 < share < 0.0005:
        return "< 0.1 %"
    if not math.isfinite(share):
        return "not a number"
    shown = f"{100 * share:.1f}"
    return f"{shown.removesuffix('.0')} %"


def count(how_many: int, noun: str, plural: str | None = None) -> str:
    """Write a count with its noun.

    Examples:
        >>> count(1, "step"), count(1437, "example"), count(2, "class", "classes")
        ('1 step', '1,437 examples', '2 classes')
    """
    return f"{how_many:,} {noun if how_many == 1 else plural or noun + 's'}"


def listing(names: Sequence[str]) -> str:
    """Write names as a sentence lists them.

    Examples:
        >>> listing(["3"]), listing(["3", "5"]), listing(["3", "5", "8"])
        ('3', '3 and 5', '3, 5 and 8')
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def short_unit(unit: str) -> str:
    """Return the unit as it stands beside a single number.

    Examples:
        >>> short_unit("nats of target loss"), short_unit("target probability")
        ('nats', 'probability')
    """
    return unit.partition(" of ")[0].removeprefix("target ")


def duration(seconds: float) -> str:
    """Write a time span.

    Examples:
        >>> duration(4.21), duration(75), duration(3700)
        ('4.2 s', '1 min 15 s', '1 h 1 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def label_name(label: Any, names: Sequence[str] | None) -> str:
    """Return what a label is called: its class name where the data has names, else the label itself."""
    value = label.item() if hasattr(label, "item") and getattr(label, "ndim", 0) == 0 else label
    if names is not None and isinstance(value, int) and 0 <= value < len(names):
        return str(names[value])
    return number(value, 4) if isinstance(value, float) and not value.is_integer() else _whole(value)


def _whole(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) else str(value)
