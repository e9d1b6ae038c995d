"""Tell whether a caller's function is the one that an unfinished audit was begun with, across processes."""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from whence._bytes import bytes_of
from whence._files import checksum

_DEPTH = 8  # of values inside values; what lies deeper is told by its type


def identity_of(function: Any) -> str:
    """Return a checksum of what a function does, as far as its own code and the values that it brings along say.

    Those are its defaults, the variables it closes over, the arguments of a `functools.partial`, and what the object of
    a method or a callable object holds. Functions that it calls by a global name count by that name.
    """
    return checksum(_text(function, _DEPTH).encode())


def _text(value: Any, depth: int) -> str:
    """Return a text that tells one value from another, without addresses of memory."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if depth == 0:
        return kind
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if isinstance(value, set | frozenset):
        return f"{kind} ({', '.join(sorted(_text(one, depth - 1) for one in value))})"
    if isinstance(value, type | types.ModuleType | types.BuiltinFunctionType):
        return f"{kind} {value.__name__}"
    return f"{kind} ({', '.join(_text(one, depth - 1) for one in _parts(value))})"


@functools.singledispatch
def _parts(value: Any) -> Sequence[Any]:
    """Return what makes a value what it is; here of an object: what calling it does, and what it holds."""
    return [vars(type(value)).get("__call__"), getattr(value, "__dict__", None)]


@_parts.register
def _(value: Tensor) -> Sequence[Any]:
    return [str(value.dtype), *value.shape, checksum(bytes_of(value))]


@_parts.register
def _(value: np.generic) -> Sequence[Any]:
    return [repr(value)]


@_parts.register
def _(value: np.ndarray) -> Sequence[Any]:
    if value.dtype.hasobject:
        return [*value.shape, value.tolist()]
    return [str(value.dtype), *value.shape, checksum(np.ascontiguousarray(value).tobytes())]


@_parts.register
def _(value: Mapping) -> Sequence[Any]:  # type: ignore[type-arg]
    return [part for pair in value.items() for part in pair]


@_parts.register(list)
@_parts.register(tuple)
def _(value: Sequence[Any]) -> Sequence[Any]:
    return value


@_parts.register
def _(value: functools.partial) -> Sequence[Any]:  # type: ignore[type-arg]
    return [value.func, value.args, value.keywords]


@_parts.register
def _(value: types.MethodType) -> Sequence[Any]:
    return [value.__func__, value.__self__]


@_parts.register
def _(value: types.FunctionType) -> Sequence[Any]:
    closed = [cell.cell_contents for cell in value.__closure__ or ()]
    return [value.__code__, closed, value.__defaults__, value.__kwdefaults__]


@_parts.register
def _(value: types.CodeType) -> Sequence[Any]:
    return [checksum(value.co_code), value.co_names, value.co_consts]
