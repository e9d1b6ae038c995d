"""What a command line names: a model, data, a loss, a quantity."""

from __future__ import annotations

import difflib
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from torch import nn

from whence._errors import ArgumentError, DataError
from whence.datasets import Examples, as_examples, load_digits, load_image_folder, load_mnist, load_parquet

Split = Literal["train", "test"]


def named_model(spec: str) -> nn.Module:
    """Return the model that ``package.module:factory`` makes; a module class or a ready module will do as well.

    Raises:
        ArgumentError: If there is no such thing, it cannot be called without arguments, or gives no ``nn.Module``.
    """
    found = _made(spec, "--model")
    if not isinstance(found, nn.Module):
        raise ArgumentError(
            f"--model {spec} gives a {type(found).__name__}, not a torch.nn.Module. Name a function without arguments "
            "that builds the model as in the training."
        )
    return found


def named_loss(spec: str) -> Callable[..., Any]:
    """Return the loss that ``package.module:loss`` names: a function, a module, or a class made without arguments.

    Raises:
        ArgumentError: If there is no such thing, or it cannot be called.
    """
    found = _attribute(spec, "--loss")
    if isinstance(found, type):
        found = _called(found, spec, "--loss")
    if not callable(found):
        raise ArgumentError(
            f"--loss {spec} is a {type(found).__name__}, which cannot be called (outputs, labels) → loss."
        )
    return found  # type: ignore[no-any-return]


def named_quantity(spec: str) -> str | Callable[..., Any]:
    """Return the quantity: a word, or the function ``package.module:function``.

    Raises:
        ArgumentError: If a function is named that is not there, or is none.
    """
    if ":" not in spec:
        return spec
    found = _attribute(spec, "--quantity")
    if not callable(found):
        raise ArgumentError(
            f"--quantity {spec} is a {type(found).__name__}, not a function (outputs, labels) → numbers."
        )
    return found  # type: ignore[no-any-return]


def named_data(spec: str, split: Split, option: str = "--data") -> Examples:
    """Return the data that a command line names.

    Args:
        spec: ``digits``, ``mnist`` (the folder ``mnist`` in ``$WHENCE_DATA``), ``mnist:FOLDER``, a ``.parquet`` file, a
            folder with one subfolder of images a class, or ``package.module:factory``.
        split: Which part of the digits or of MNIST.
        option: What errors call it.

    Raises:
        ArgumentError: If a factory is named that is not there or cannot be called.
        DataError: If nothing of that name can be read.
    """
    word, _, rest = spec.partition(":")
    if spec == "digits":
        return as_examples(load_digits(split))
    if word == "mnist":
        return as_examples(load_mnist(rest or None, split))
    place = Path(spec)
    if place.suffix == ".parquet":
        return as_examples(load_parquet(place))
    if place.is_dir():
        return as_examples(load_image_folder(place))
    if ":" in spec and os.sep not in word:
        return as_examples(_made(spec, option))
    raise DataError(
        f"No data {spec!r}: give digits, mnist, mnist:FOLDER, a .parquet file, a folder of images by class, or "
        "package.module:factory."
    )


def lasting_name(spec: str) -> str:
    """Return what data is called from any folder: a path in it made absolute."""
    word, _, rest = spec.partition(":")
    if word == "mnist" and rest:
        return f"mnist:{Path(rest).resolve()}"
    known = spec not in {"digits", "mnist"} and Path(spec).exists()
    return str(Path(spec).resolve()) if known else spec


def _made(spec: str, what: str) -> Any:
    """Return what a factory gives; something ready is returned as it is."""
    found = _attribute(spec, what)
    ready = isinstance(found, nn.Module | Examples) or not callable(found)
    return found if ready else _called(found, spec, what)


def _called(factory: Callable[[], Any], spec: str, what: str) -> Any:
    try:
        return factory()
    except Exception as error:
        raise ArgumentError(
            f"{what} {spec} raised {type(error).__name__} when called without arguments: {error}. "
            "Name a function that needs none."
        ) from error


def _attribute(spec: str, what: str) -> Any:
    """Import ``package.module:name``.

    Raises:
        ArgumentError: If the module or the name in it is not there; close names are listed.
    """
    module_name, colon, name = spec.partition(":")
    if not colon or not module_name or not name:
        raise ArgumentError(f"{what} {spec!r} must read package.module:name, such as train:make_model.")
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise ArgumentError(
            f"{what} {spec}: cannot import {module_name} ({error}). It is looked for in the current folder "
            f"({Path.cwd()}) and among the installed packages."
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            near = " or ".join(difflib.get_close_matches(part, dir(found))) or "none is close"
            raise ArgumentError(f"{what} {spec}: {module_name} has no {part!r} (similar: {near}).")
        found = getattr(found, part)
    return found
