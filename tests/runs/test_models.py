"""Models whose tensors are of an unusual kind are recorded as they are, or refused in words."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD

import whence
from tests.runs.training import CLASSES, FEATURES, Recipe, data, equal, plain_model
from whence._errors import ArgumentError, ModelMismatchError, RecordingError, WhenceError
from whence.runs import start_recording


def net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Linear(FEATURES, CLASSES)


class Scaled(nn.Module):
    """A linear layer whose input is multiplied by a buffer."""

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.net = net()
        self.register_buffer("scale", scale)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        self.get_buffer("count").add_(1)
        outputs: Tensor = self.net(inputs * self.get_buffer("scale").real)
        return outputs


def expanded() -> nn.Module:
    return Scaled(torch.full((1,), 2.0).expand(FEATURES))


def test_a_run_of_a_model_with_an_expanded_buffer_is_walked_again_and_gone_on_with(tmp_path: Path) -> None:
    def halt(_model: nn.Module, _optimizer: object, step: int) -> None:
        if step == 8:
            raise ZeroDivisionError

    recipe = Recipe(model=expanded)
    whole, _ = recipe.record(tmp_path / "whole")
    with pytest.raises(ZeroDivisionError):
        Recipe(model=expanded, after_step=halt).record(tmp_path / "run")
    model = expanded()
    optimizer = recipe.optimizer(model)
    with whence.record(tmp_path / "run", model, optimizer, data(), loss=F.cross_entropy, resume=True) as recorder:
        recipe.train(model, optimizer, recipe.epochs_of(recorder))
    assert equal(model, whole)
    assert recipe.open(tmp_path / "run").verify().deviation == 0.0


def old_weight_norm() -> nn.Module:
    with pytest.warns(FutureWarning, match="deprecated"):
        layer = nn.utils.weight_norm(nn.Linear(FEATURES, 6))
    return nn.Sequential(layer, nn.Linear(6, CLASSES))


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(6), nn.Tanh(), nn.Linear(6, CLASSES))


def locked() -> nn.Module:
    model = plain_model()
    model.lock = threading.Lock()  # type: ignore[assignment]
    return model


UNFIT: dict[str, tuple[Callable[[], nn.Module], type[WhenceError], str]] = {
    # model, error of open_run, words
    "old weight norm": (
        old_weight_norm,
        ModelMismatchError,
        r"layer '0' was made with .*parametrizations\.weight_norm",
    ),
    "lazy": (lazy, ModelMismatchError, r"without a shape yet: 0\.weight, 0\.bias\. Call it once on a batch"),
    "uncopied": (
        locked,
        ArgumentError,
        r"Sequential cannot be copied by deepcopy: cannot pickle .*no generators",
    ),
    "complex128": (
        lambda: Scaled(torch.ones(FEATURES, dtype=torch.complex128)),
        ModelMismatchError,
        r"buffer 'scale' is complex128, which a snapshot cannot hold.*torch\.view_as_real",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_model_that_could_not_be_opened_again_is_refused_in_words_at_the_start(name: str, tmp_path: Path) -> None:
    make, error, words = UNFIT[name]
    model = make()
    optimizer = SGD(model.parameters(), lr=0.1)
    with pytest.raises(RecordingError, match=words):
        start_recording(tmp_path / "run", model, optimizer, data(), loss=F.cross_entropy)
    assert not (tmp_path / "run").exists()
    Recipe().record(tmp_path / "other")
    with pytest.raises(error, match=words):
        whence.open_run(tmp_path / "other", model, data(), loss=F.cross_entropy)


def strided() -> nn.Module:
    """Return a model with tensors that were cut out of larger ones, or turned."""
    torch.manual_seed(3)
    model = Scaled(torch.rand(FEATURES, 3)[:, 1])
    model.register_buffer("one", torch.rand(3, 4)[1:2, 1])
    model.register_buffer("turned", torch.rand(3, 4).t())
    model.register_parameter("shift", nn.Parameter(torch.rand(3, 4)[1:2, 1]))
    return model


def halve(model: nn.Module, _optimizer: object, _step: int) -> None:
    with torch.no_grad():
        model.get_buffer("scale").mul_(0.5)


def test_tensors_cut_out_of_larger_ones_or_turned_are_recorded_and_walked_again(tmp_path: Path) -> None:
    _, run = Recipe(model=strided, after_step=halve).record(tmp_path / "run")
    assert run.verify().deviation == 0.0


@dataclass
class Outputs:
    """An output of a kind that no rule reads."""

    logits: Tensor


class Boxed(nn.Module):
    """Gives an object that holds its output."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, inputs: Tensor) -> Outputs:
        return Outputs(self.net(inputs))


def test_a_model_that_gives_an_object_in_place_of_tensors_is_refused_in_words(tmp_path: Path) -> None:
    model = Boxed()

    def loss(outputs: Outputs, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs.logits, labels, reduction="none")

    with pytest.raises(
        RecordingError, match=r"Boxed gives a Outputs in which no tensor is found\. Let its forward pass"
    ):
        start_recording(tmp_path / "run", model, SGD(model.parameters(), lr=0.1), data(), loss=loss)


class Remembering(nn.Module):
    """Keeps what it was called with, in training, in a buffer that grows or that comes with the first call."""

    memory: Tensor | None

    def __init__(self, memory: Tensor | None) -> None:
        super().__init__()
        self.net = net()
        self.register_buffer("memory", memory)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.memory = torch.cat([inputs] if self.memory is None else [self.memory, inputs])
        outputs: Tensor = self.net(inputs)
        return outputs


@pytest.mark.parametrize(
    ("memory", "words"),
    [
        (
            torch.zeros(0, FEATURES),
            r"step 0 changed .* buffer '0\.memory' \(first float32 \(0, 5\), now float32 \(4, 5\)\)",
        ),
        (None, r"step 0 changed .* buffer '0\.memory' \(first not there, now float32 \(4, 5\)\)"),
    ],
)
def test_a_buffer_that_grows_is_refused_by_name(memory: Tensor | None, words: str, tmp_path: Path) -> None:
    recipe = Recipe(model=lambda: nn.Sequential(Remembering(memory)))
    with pytest.raises(RecordingError, match=words):
        recipe.record(tmp_path / "run")
