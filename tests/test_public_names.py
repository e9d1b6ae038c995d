"""A folder's ``__init__`` lists its public names and does nothing else; the top level stays small."""

import ast
import importlib
import types
from pathlib import Path

import pytest

import whence

PACKAGE = Path(whence.__file__).parent
FOLDERS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
INITS = [PACKAGE / "__init__.py", *(PACKAGE / folder / "__init__.py" for folder in FOLDERS)]
FUNCTIONS = {"as_examples", "audit", "check", "counterfactual", "load_audit", "open_run", "path_kernel", "record"} | {
    "similarity"
}
CLASSES = {"Audit", "Check", "Completeness", "Examples", "Recorder", "Run", "WhenceError"}


def listed(path: Path) -> set[str]:
    """Return the names that an ``__init__`` imports."""
    nodes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name for node in nodes for alias in node.names}


@pytest.mark.parametrize("path", INITS, ids=lambda path: path.parent.name)
def test_all_is_what_the_init_imports(path: Path) -> None:
    name = "whence" if path.parent == PACKAGE else f"whence.{path.parent.name}"
    module = importlib.import_module(name)
    assert sorted(module.__all__) == sorted(listed(path))
    assert len(set(module.__all__)) == len(module.__all__)
    assert not [public for public in module.__all__ if public.startswith("_")]


@pytest.mark.parametrize("path", INITS, ids=lambda path: path.parent.name)
def test_an_init_only_imports_and_lists(path: Path) -> None:
    docstring, *rest = ast.parse(path.read_text()).body
    assert isinstance(docstring, ast.Expr)
    assert isinstance(rest[-1], ast.Assign | ast.AnnAssign)
    assert all(isinstance(node, ast.ImportFrom) for node in rest[:-1])


def test_every_folder_of_code_lists_its_names() -> None:
    with_code = {path.parent.name for path in PACKAGE.glob("*/*.py")}
    assert with_code == set(FOLDERS)


def test_the_top_level_is_what_was_decided() -> None:
    assert set(whence.__all__) == FUNCTIONS | CLASSES
    assert len(whence.__all__) <= 40


def test_functions_and_classes_are_what_their_case_says() -> None:
    for name in whence.__all__:
        expected = type if name[0].isupper() else types.FunctionType
        assert isinstance(getattr(whence, name), expected), name


@pytest.mark.parametrize("folder", FOLDERS)
def test_public_names_are_documented(folder: str) -> None:
    module = importlib.import_module(f"whence.{folder}")
    undocumented = [
        name
        for name in module.__all__
        if isinstance(getattr(module, name), type | types.FunctionType) and not getattr(module, name).__doc__
    ]
    assert undocumented == []
