"""Optional dependencies: imported where they are used, and named when they are missing."""

import importlib
import importlib.util
from types import ModuleType

from whence._errors import MissingExtraError

# packages that no extra can hold: they ask for torchvision, which they do not use, and which breaks Lightning and
# transformers beside the CPU build of torch. The extra holds what they do use.
WITHOUT_DEPENDENCIES = {"kronfluence": 'pip install --no-deps "kronfluence>=1.0.1"'}


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency.

    Args:
        module: What to import, such as ``"pyarrow.parquet"``.
        extra: The extra of Whence that installs it, such as ``"parquet"``.

    Raises:
        MissingExtraError: If the module's package is not installed.
        ModuleNotFoundError: If the package is there, but something that it imports is not.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise  # the package is there; something inside it is broken, and its own message says what
        alone = f" && {WITHOUT_DEPENDENCIES[package]}" if package in WITHOUT_DEPENDENCIES else ""
        raise MissingExtraError(
            f'This needs {package}, which is not installed. Install it with: pip install "whence[{extra}]"{alone}'
        ) from error


def installed(module: str) -> bool:
    """Say whether an optional dependency's top-level module can be found, without importing it."""
    return importlib.util.find_spec(module) is not None
