"""A folder of the library imports only from folders before it in the flow of data, never back."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "whence"
GROUND = (
    "_errors",
    "_extras",
    "_files",
    "_bytes",
    "_devices",
    "_numbers",
    "_progress",
    "_processes",
    "_statistics",
)  # below every folder, in this order
FLOW = (
    *("compiled", "datasets", "runs", "gradients", "optimizers", "audit", "counterfactual", "kernel", "adversarial"),
    *("attribution", "regions", "provenance", "invariants", "membership", "quality", "evaluation", "report", "cli"),
)
TOP = ("__init__", "__main__")  # see everything


def rank(part: str) -> int:
    """Return how far down the flow a part of the package stands."""
    if part in GROUND:
        return GROUND.index(part) - len(GROUND)
    return len(FLOW) if part in TOP else FLOW.index(part)


def part_of(module: str) -> str:
    """Return the folder or file directly in the package that ``whence.a.b`` belongs to."""
    return module.split(".")[1] if "." in module else "__init__"


def imported(source: str) -> set[str]:
    """Return the parts of the package that a module's source imports, also inside functions and for types only."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {part_of(alias.name) for alias in node.names if alias.name.split(".")[0] == "whence"}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module == "whence":
            found |= {alias.name if alias.name in GROUND + FLOW else "__init__" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").startswith("whence."):
            found.add(part_of(node.module or ""))
        elif isinstance(node, ast.ImportFrom) and node.level > 0:
            found.add("a relative import")
    return found


def violations(part: str, source: str) -> list[str]:
    """Return what is wrong with the imports of a module of ``part``."""
    return [
        f"{part} imports {other}"
        for other in sorted(imported(source) - {part})
        if other == "a relative import" or rank(other) >= rank(part)
    ]


def modules() -> list[tuple[str, Path]]:
    """Return each module with the part it belongs to."""
    return [(path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path) for path in sorted(PACKAGE.rglob("*.py"))]


@pytest.mark.parametrize(("part", "path"), modules(), ids=lambda value: getattr(value, "name", value))
def test_imports_never_go_back_against_the_flow(part: str, path: Path) -> None:
    assert violations(part, path.read_text()) == []


def test_every_part_has_its_place_in_the_flow() -> None:
    assert {part for part, _ in modules()} <= {*GROUND, *FLOW, *TOP}


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("runs", "from whence.audit import Audit"),
        ("runs", "def f():\n    import whence.report.page"),
        ("runs", "from whence import audit"),
        ("runs", "from whence import as_examples"),
        ("_files", "from whence.datasets import Examples"),
        ("audit", "from ..runs import Run"),
    ],
)
def test_an_import_against_the_flow_is_found(part: str, source: str) -> None:
    assert len(violations(part, source)) == 1


def test_an_import_with_the_flow_is_allowed() -> None:
    assert violations("audit", "from whence.runs import Run\nfrom whence._errors import RunError\nimport torch") == []


@pytest.mark.parametrize(("part", "path"), modules(), ids=lambda value: getattr(value, "name", value))
def test_modules_stay_small(part: str, path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300, f"{part}: split {path.name}"
