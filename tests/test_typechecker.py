"""Every function of the library is checked while tests run, its axes too where annotations name them."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float, TypeCheckError
from torch import Tensor

import whence
from tests import typechecker
from tests.typechecker import checked, lean
from whence._numbers import even_parts

Rows = Float[Tensor, "row column"]


def summed(rows: Rows, over: int) -> Float[Tensor, " row"]:
    return rows.sum(over)


def listed(rows: list[Rows], _more: Callable[[int], Rows] | None = None) -> int:
    return len(rows)


def halved(number: float) -> int:
    return number / 2  # type: ignore[return-value]


@dataclass
class Plain:
    count: int


@dataclass
class Shaped:
    left: Rows
    right: Rows


def under_check(function: Any) -> Any:
    return lean(typechecker=checked)(function)


def test_named_axes_are_kept_over_a_call() -> None:
    good = under_check(summed)
    assert good(torch.ones(2, 3), 1).tolist() == [3, 3]
    with pytest.raises(TypeCheckError, match=r"the return value of .*summed"):
        good(torch.ones(2, 3), 0)
    with pytest.raises(TypeCheckError, match=r"the parameters of .*listed"):
        under_check(listed)([torch.ones(2)])
    with pytest.raises(TypeCheckError, match=r"the parameters of .*Shaped"):
        under_check(Shaped)(torch.ones(2, 3), torch.ones(3, 2))


def test_types_without_axes_are_checked_on_the_way_in_and_out() -> None:
    with pytest.raises(BeartypeCallHintViolation, match="number"):
        under_check(halved)("3")
    with pytest.raises(BeartypeCallHintViolation, match="return"):
        under_check(halved)(3)  # a whole number is also a float
    with pytest.raises(BeartypeCallHintViolation, match="count"):
        under_check(Plain)("3")
    with pytest.raises(BeartypeCallHintViolation, match="most"):
        even_parts(range(3), "2")  # type: ignore[arg-type]


@pytest.mark.parametrize("function", [halved, listed])
def test_in_each_test_the_first_calls_are_checked_and_no_more(function: Any) -> None:
    found = under_check(function)
    for _ in range(2):
        typechecker.begin()
        for _ in range(typechecker.CALLS):
            with pytest.raises((BeartypeCallHintViolation, TypeCheckError)):
                found(["3"])
        with pytest.raises(TypeError, match="unsupported operand") if function is halved else nullcontext():
            found(["3"])


def test_what_a_caller_without_a_type_checker_is_told_can_be_seen() -> None:
    found = under_check(halved)
    with typechecker.unchecked(), pytest.raises(TypeError, match="unsupported operand"):
        found(["3"])
    with pytest.raises(BeartypeCallHintViolation):
        found(["3"])


def functions() -> Iterator[FunctionType]:
    """Give each function and method of the library."""
    for info in pkgutil.walk_packages(whence.__path__, "whence."):
        if info.name != "whence.__main__":
            module = importlib.import_module(info.name)
            classes = [one for one in vars(module).values() if inspect.isclass(one) and one.__module__ == info.name]
            for holder in (module, *classes):
                for one in vars(holder).values():
                    plain = getattr(one, "__func__", getattr(one, "fget", one))
                    if isinstance(plain, FunctionType) and plain.__module__ == info.name:
                        yield getattr(plain, "checks", plain)


def test_every_function_of_the_library_is_checked() -> None:
    counts = {"axes": 0, "types": 0}
    for one in functions():
        if one.__code__.co_filename.startswith(whence.__path__[0]):  # as it was written: there is nothing to check
            assert {hint for hint in one.__annotations__.values() if hint is not Any} == set(), one.__qualname__
        else:
            counts["axes" if one.__globals__["__name__"] == "jaxtyping._decorator" else "types"] += 1
    assert counts["axes"] > 100
    assert counts["types"] > 800


def test_axes_are_named_of_a_class_as_numpy_from_2_5_on_has_no_class_behind_its_alias() -> None:
    folder = Path(whence.__file__).parent
    aliased = re.compile(r"\b(Float|Int|Integer|Bool|Shaped)\[(NDArray|Array\b)")
    assert [path.name for path in folder.rglob("*.py") if aliased.search(path.read_text())] == []
