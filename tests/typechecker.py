"""The type checker that every function of the library runs under while tests run: a whole number is also a float.

Jaxtyping's import hook puts its decorator on every function, which binds and checks all arguments twice a call and
keeps the sizes of named axes. Where no annotation has axes there is nothing to keep: beartype alone checks the same
types, in a fraction of the time. A function that is called over and over in one test is checked at the first `CALLS` of
them: to check every call would take a third of the whole suite's time.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from types import FunctionType, SimpleNamespace
from typing import Any, get_args, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
CALLS = 16  # of each function in each test
_with_axes = jaxtyping.jaxtyped
_off: list[bool] = []
_calls: Counter[Callable[..., Any]] = Counter()  # of this test; not in the functions, whose state tells audits apart
_known: dict[object, dict[str, Any]] = {}


def install() -> None:
    """Check every function of the library that is imported from now on."""
    vars(jaxtyping)["jaxtyped"] = lean  # by this name the hook's decorators call it
    jaxtyping.install_import_hook("whence", "tests.typechecker.checked")


def begin() -> None:
    """Begin a test: every function is checked again."""
    _calls.clear()


@contextmanager
def unchecked() -> Iterator[None]:
    """Check nothing inside, to see what a caller without a type checker is told."""
    _off.append(True)
    try:
        yield
    finally:
        _off.pop()


def lean(decorated: Any = None, *, typechecker: Callable[..., Any]) -> Any:
    """Return what is decorated with its types checked, by jaxtyping where an annotation has axes."""
    if decorated is None:
        return partial(lean, typechecker=typechecker)
    function = vars(decorated).get("__init__") if dataclasses.is_dataclass(decorated) else decorated
    if not isinstance(function, FunctionType):
        return _with_axes(decorated, typechecker=typechecker)
    if any(map(_has_axes, _hints_of(function).values())):
        found = _at_first(function, _with_axes(function, typechecker=typechecker))
    else:
        function.__annotations__ = _hints_of(function)
        found = _at_first(function, checked(function))
    if function is decorated:
        return found
    decorated.__init__ = found
    return decorated


def _at_first(plain: FunctionType, checks: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that is checked at the first `CALLS` calls of a test."""

    @wraps(plain)
    def call(*args: Any, **kwargs: Any) -> Any:
        if _off or _calls[plain] >= CALLS:
            return plain(*args, **kwargs)
        _calls[plain] += 1
        return checks(*args, **kwargs)

    vars(call)["checks"] = checks
    return call


def _hints_of(function: FunctionType) -> dict[str, Any]:
    """Return the annotations that can be evaluated; others, such as of types imported for mypy alone, are Any."""
    key = function.__module__, function.__qualname__, function.__code__  # one for all calls that define it
    if key not in _known:
        _known[key] = {name: _evaluated(one, function.__globals__) for name, one in function.__annotations__.items()}
    return dict(_known[key])


def _evaluated(annotation: Any, names: dict[str, Any]) -> Any:
    try:
        return get_type_hints(SimpleNamespace(__annotations__={"it": annotation}), names, include_extras=True)["it"]
    except (NameError, ValueError):  # imported for mypy alone; axes that jaxtyping cannot read
        return Any


def _has_axes(hint: Any) -> bool:
    if isinstance(hint, list | tuple):  # the arguments of a Callable
        return any(map(_has_axes, hint))
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(_has_axes, get_args(hint)))
