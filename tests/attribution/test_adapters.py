"""What holds of every adapter of another library: no trace, clear errors, any inputs."""

from __future__ import annotations

import gc
import logging
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import whence
from tests.attribution.networks import data, network
from tests.attribution.peers import CLOSE, scores
from whence._errors import ArgumentError, GradientError, MissingExtraError
from whence.attribution import (
    EKFAC,
    TRAK,
    as_trained,
    attribute,
)
from whence.attribution.scratch import Scratch

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_inputs_of_several_tensors_are_given_as_the_model_takes_them(traker: Any, kronfluence: Any) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.head = nn.Linear(2, 3)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            out: Tensor = self.head(a + b)
            return out

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = Two().head

        def forward(self, a: Tensor) -> Tensor:
            out: Tensor = self.head(a)
            return out

    x, y = torch.randn(20, 2, 2), torch.randint(3, (20,))
    pairs = [((a, b), int(label)) for (a, b), label in zip(x, y, strict=True)]
    for method in (TRAK(4, regularization=0.1), EKFAC(0.1)):
        found = attribute(method, Two(), pairs, train_data=pairs, loss=F.cross_entropy).values
        summed = (x.sum(1), y)
        expected = attribute(method, One(), summed, train_data=summed, loss=F.cross_entropy).values
        np.testing.assert_allclose(found, expected, **CLOSE)


@pytest.mark.parametrize("method", [EKFAC(0.1), TRAK(20)], ids=["EK-FAC", "TRAK"])
def test_nothing_is_printed_and_nothing_is_left_behind(
    method: Any,
    kronfluence: Any,
    traker: Any,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest has some, and then none is added
    model, random = network("perceptron"), torch.get_rng_state()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    fitted = method.fit(as_trained(model, data("perceptron", 40), loss=F.cross_entropy))
    fitted.scores(whence.as_examples(data("perceptron", 7, 1)), [0, 1])
    assert list(tmp_path.iterdir()) == [fitted.folder.path]
    del fitted
    gc.collect()
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")
    assert logging.root.handlers == []
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(one, model.state_dict()[name]) for name, one in before.items())
    assert all(one.requires_grad for one in model.parameters())


def test_a_scratch_folder_goes_with_its_object() -> None:
    folder = Scratch()
    path = folder.path
    (path / "file").touch()
    del folder
    gc.collect()
    assert not path.exists()


@pytest.mark.parametrize(("method", "package"), [(EKFAC(), "kronfluence"), (TRAK(4), "trak")], ids=["EK-FAC", "TRAK"])
def test_a_library_that_is_missing_is_named_with_its_extra(
    method: Any, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [one for one in sys.modules if one.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    alone = ' && pip install --no-deps "kronfluence>=1.0.1"' if package == "kronfluence" else ""
    words = rf'This needs {package}, .* pip install "whence\[baselines\]"{alone}$'
    with pytest.raises(MissingExtraError, match=words):
        scores(method)


def test_the_extra_holds_what_kronfluence_uses_but_not_kronfluence() -> None:
    extra = tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"]["baselines"]
    names = {one.partition(">=")[0] for one in extra}
    assert "kronfluence" not in names
    assert {"accelerate", "einconv", "einops", "opt-einsum", "tqdm"} <= names


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (EKFAC(-1.0), r"`damping` is at least 0, or None for kronfluence's heuristic; got -1\.0"),
        (EKFAC(fisher="false"), r"`fisher` is 'true' or 'empirical'; got 'false'"),
        (TRAK(0), r"`dimensions` is a whole number, at least 1; got 0"),
        (EKFAC(float("nan")), r"`damping` is at least 0, or None .*; got nan"),
        (EKFAC(seed=-1), r"`seed` is a whole number, at least 0; got -1"),
        (TRAK(8, regularization=-1.0), r"`regularization` is a number, at least 0; got -1\.0"),
        (TRAK(8, regularization=float("inf")), r"`regularization` is a number, at least 0; got inf"),
        (TRAK(8, seed=-1), r"`seed` is a whole number, at least 0; got -1"),
        (TRAK(40), r"40 dimensions for 40 training examples: the regression has no one solution"),
    ],
)
def test_settings_that_make_no_sense_are_refused(method: Any, words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        scores(method)


class Branching(nn.Module):
    """What neither library can take: a path that depends on a value, and a layer that is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.used(x)
        return out if out.sum().item() > 1e9 else -out


def test_a_model_that_a_library_cannot_take_is_explained(kronfluence: Any, traker: Any) -> None:
    train = data("linear", 20)
    given: dict[str, Any] = {"train_data": train, "loss": F.cross_entropy}
    with pytest.raises(GradientError, match=r"traker cannot take the gradients of Branching: .* Take GradDot"):
        attribute(TRAK(4), Branching().double(), train, **given)
    with pytest.raises(GradientError, match=r"kronfluence cannot work with Branching at the layers used, unused: "):
        attribute(EKFAC(), Branching().double(), train, **given)
