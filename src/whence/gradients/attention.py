"""The rule of multi-head attention."""

from __future__ import annotations

from whence._errors import GradientError
from whence.gradients.calls import Call
from whence.gradients.per_example import PerExample


def attention(call: Call, wanted: frozenset[str]) -> dict[str, PerExample]:
    """Not there yet."""
    raise GradientError(f"Layer {call.name!r} (MultiheadAttention) is not supported yet; wanted {sorted(wanted)}.")
