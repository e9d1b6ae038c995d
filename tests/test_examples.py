"""The examples run, and print what they say they do."""

import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
SAID = {
    "provenance_regression": "squared error 0.",
    "provenance_dense": "the example named is the picture's own",
    "provenance_lightning": "1.00 of the training pictures name themselves first",
}


def test_each_example_is_tested() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == set(SAID)


@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")  # advice on workers
@pytest.mark.filterwarnings("ignore:.*LeafSpec.* is deprecated:FutureWarning")  # what Lightning calls of torch
@pytest.mark.parametrize("name", SAID)
def test_an_example_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert SAID[name] in capsys.readouterr().out
