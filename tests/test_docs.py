"""The documentation is true: its code runs, each error has its page, each folder is in the reference."""

import doctest
import importlib
import inspect
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import whence
from whence import _errors

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^(?P<indent> *)```(?P<kind>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
SHELL = {"bash", "console", "sh", "shell"}
SILENT = {"", "text", "toml", "yaml", "json", "mermaid"}
ERRORS = [cls for _, cls in inspect.getmembers(_errors, inspect.isclass) if cls.__module__ == _errors.__name__]
PACKAGES = {path.parent.name for path in Path(whence.__file__).parent.glob("*/__init__.py")}
FOLDERS = sorted(PACKAGES - {"cli"})  # commands are described in the how-to, and by their own --help
PACKAGE = Path(whence.__file__).parent
MODULES = sorted(
    ".".join(("whence", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if path.name != "__main__.py"
)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    kind: str
    code: str
    line: int


def blocks(text: str) -> Iterator[Block]:
    """Return the fenced blocks of a page, in order."""
    for match in FENCE.finditer(text):
        indent = len(match["indent"])
        code = "".join(line[indent:] if line.strip() else "\n" for line in match["code"].splitlines(keepends=True))
        yield Block(match["kind"], code, text.count("\n", 0, match.start()) + 2)


def commands(block: Block) -> list[str]:
    """Return the commands of a shell block: in a console block those after a ``$``; continued lines are joined."""
    lines = block.code.replace("\\\n", " ").splitlines()
    if block.kind == "console":
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def run_command(command: str) -> None:
    """Run ``whence ...`` through the library's own entry point; check of other commands that they exist."""
    words = shlex.split(command, comments=True)
    if words[0] == "whence":
        from typer.testing import CliRunner

        app = importlib.import_module("whence.cli").app
        result = CliRunner().invoke(app, words[1:])
        assert result.exit_code == 0, f"{command}: {result.output}"
    elif words[0] == "make":
        assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text(), command
    else:
        assert words[0] in {"pip", "git", "cd", "export"}, f"{command}: no test knows how to run this"


def run_page(page: Path) -> None:
    """Run the blocks of a page in order, the Python ones in one namespace."""
    namespace: dict[str, Any] = {"__name__": "__docs__"}
    for block in blocks(page.read_text()):
        if block.kind in SHELL:
            for command in commands(block):
                run_command(command)
        elif block.kind in {"python", "py"}:
            source = "\n" * (block.line - 1) + block.code  # so that a failure names the page's line
            exec(compile(source, str(page), "exec"), namespace)
        else:
            assert block.kind in SILENT, f"{page.name}:{block.line}: a block of an unknown kind {block.kind!r}"


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """Networks this small gain nothing from a second thread, and lose much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")  # advice on workers
@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")  # what Lightning calls of torch
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(page)
    assert page.stat().st_size > 0


@pytest.mark.parametrize("code", ["```python\n1 / 0\n```\n", "```bash\nmake nothing\n```\n", "```ruby\nputs 1\n```\n"])
def test_a_page_whose_code_is_wrong_is_found(code: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(code)
    with pytest.raises((ZeroDivisionError, AssertionError)):
        run_page(page)


def test_blocks_are_found_with_their_lines_also_when_indented() -> None:
    text = "a\n\n```python\nx = 1\n```\n\n- b\n\n    ```console\n    $ whence \\\n        info run\n    out\n    ```\n"
    first, second = blocks(text)
    assert (first.kind, first.code, first.line) == ("python", "x = 1\n", 4)
    assert second.line == 10
    assert [shlex.split(command) for command in commands(second)] == [["whence", "info", "run"]]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_hold(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_each_error_has_its_page(error: type[Exception]) -> None:
    page = (DOCS / "errors" / f"{error.__name__}.md").read_text()
    assert page.startswith(f"# {error.__name__}\n")
    for heading in ("## Usual causes", "## What to do"):
        assert heading in page, heading
    assert f"errors/{error.__name__}.md" in (ROOT / "mkdocs.yml").read_text()


def test_no_error_page_outlives_its_error() -> None:
    pages = {page.stem for page in (DOCS / "errors").glob("*.md")} - {"index"}
    assert pages == {error.__name__ for error in ERRORS}


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_folder_is_in_the_reference(folder: str) -> None:
    assert f"::: whence.{folder}\n" in (DOCS / "reference" / f"{folder}.md").read_text()
    assert f"reference/{folder}.md" in (ROOT / "mkdocs.yml").read_text()
