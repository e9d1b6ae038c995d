"""What region maps refuse, by the words in which they do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor, nn

from tests.regions.networks import data, network
from whence import WhenceError
from whence._errors import ArgumentError, GradientError, LabelError, MissingExtraError, ShapeError
from whence.attribution import GradCos, GradDot, Influence
from whence.regions import (
    DEFAULT,
    PAPER,
    Difference,
    Gradient,
    Integrated,
    Recipe,
    draw_maps,
    grad_cam,
    integrated_gradients,
    layer_map,
    overlay,
    own_saliency,
    region_map,
    side_by_side,
    top_pairs,
)
from whence.regions.control import as_ids
from whence.regions.maps import check_engine, check_settings
from whence.regions.pairs import as_pairs
from whence.regions.recipe import check_parts
from whence.regions.sheets import check_maps

OPTIONS: Any = {"train_data": data(6), "loss": F.cross_entropy}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([(3, 0)], r"No target 3: there are 3, with ids 0 to 2"),
        ([(0, 6)], r"No training example 6: there are 6, with ids 0 to 5"),
        ([(0, -1)], r"No training example -1: there are 6"),
        ([], r"`pairs` are \(target id, training id\), at least one, such as \[\(0, 17\)\] or top_pairs\(scores\)"),
    ],
)
def test_pairs_that_are_not_there_are_refused(pairs: Any, message: str) -> None:
    for call in (region_map, lambda *args, **kw: layer_map(*args, layer="0", **kw)):
        with pytest.raises(WhenceError, match=message):
            call(network("smooth"), data(3, 1), pairs, **OPTIONS)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([(0, 1, 2)], r"`pairs` are \(target id, training id\).*got \[\(0, 1, 2\)\]"),
        ([(0.5, 1)], r"`pairs` are \(target id, training id\).*got \[\(0\.5, 1\)\]"),
        (3, r"`pairs` are \(target id, training id\).*got 3"),
    ],
)
def test_pairs_that_are_none_are_refused(pairs: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        as_pairs(pairs, 3, 6)


def test_ids_that_are_not_there_are_refused() -> None:
    with pytest.raises(LabelError, match=r"No training example 6: there are 6, with ids 0 to 5"):
        own_saliency(network("smooth"), [6], **OPTIONS)
    with pytest.raises(ArgumentError, match=r"Ids of a training example are whole numbers, at least one.*got \[0\.5\]"):
        as_ids([0.5], "training example", 6)
    with pytest.raises(LabelError, match=r"No target 3: there are 3, with ids 0 to 2"):
        grad_cam(network("smooth"), data(3, 1), [3], layer="0", **OPTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory_budget": 0}, r"`memory_budget` is a whole number of bytes, at least 1; got 0"),
        ({"engine": Difference(), "recipe": PAPER}, r"a cosine's is another for each training example\. Use Forward"),
        (
            {"recipe": Recipe(GradDot(layers=["convv"]))},
            r"No layer 'convv' in the model Sequential; names near it: .*named_modules",
        ),
        ({"recipe": Recipe(GradDot("entropy"))}, r"No quantity 'entropy'\. Choose 'loss', 'logit', 'margin'"),
        ({"loss": None}, r"A trained model needs its data and its loss"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(WhenceError, match=message):
        region_map(network("smooth"), data(3, 1), [(0, 0)], **{**OPTIONS, **options})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recipe(GradDot(projection=8)), r"needs exact gradients: leave `projection` of its score out"),
        (lambda: Recipe(GradDot(), smooth=-1), r"`smooth` is how many noisy copies to average, at least 0; got -1"),
        (lambda: Recipe(GradDot(), noise=0.0), r"`noise` is a share of the inputs' range, above 0; got 0\.0"),
        (lambda: Recipe(GradDot(), noise=float("nan")), r"`noise` is a share of the inputs' range, above 0; got nan"),
        (lambda: Recipe(GradDot(), smooth=1, seed=-1), r"`seed` is a whole number, at least 0; got -1"),
        (lambda: Integrated(start=1.0), r"`start` is a place on the way to the input, 0 up to but not 1; got 1.0"),
        (lambda: Integrated(0), r"`steps` is a whole number of points on the path, at least 1; got 0"),
        (lambda: Difference(step=-1.0), r"`step` is a length relative to the parameters', above 0; got -1\.0"),
    ],
)
def test_settings_out_of_range_are_named(make: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: check_settings("paper", 1), r"`recipe` is DEFAULT, PAPER or Recipe\(score, \.\.\.\); got 'paper'"),
        (
            lambda: check_engine("forward", DEFAULT),
            r"`engine` is Forward\(\), Double.*; got 'forward'",
        ),
        (
            lambda: check_engine(Difference, DEFAULT),
            r"`engine` is Forward\(\), Double.*; got <class",
        ),
        (lambda: check_parts("cosine", Integrated(), 0), r"`score` is GradDot\(.*Influence\(.*; got 'cosine'"),
        (lambda: check_parts(GradDot(), Integrated, 0), r"`map` is Integrated\(\), GradientInput.*; got Integrated"),
        (lambda: check_parts(GradDot(), Integrated(), "zero"), r"`baseline` is 'mean' or a number; got 'zero'"),
    ],
)
def test_words_in_place_of_settings_are_refused(check: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        check()


def test_a_difference_is_refused_on_a_network_with_kinks() -> None:
    torch.manual_seed(0)
    wide = nn.Sequential(
        nn.Flatten(), nn.Linear(72, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 3)
    ).double()
    with pytest.raises(ArgumentError, match=r"off by \d+% of the exact gradient .* kinks .* Use Forward\(\)"):
        region_map(
            wide, data(3, 1), [(n, m) for n in range(3) for m in range(6)], engine=Difference(0.05),
            recipe=Recipe(GradDot()), **OPTIONS,
        )  # fmt: skip


def distance(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return a loss that is linear in the outputs, wherever its sign does not change."""
    return (outputs - torch.eye(3, dtype=outputs.dtype)[labels]).abs().sum(1)


def test_a_map_that_vanishes_for_a_structural_reason_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 3, bias=False), nn.ReLU(), Shift())
    recipe = Recipe(GradDot("loss", layers=["3"]))
    with pytest.raises(
        GradientError, match=r"The map vanishes: in the layers 3, .* mixed second derivative .* smooth loss"
    ):
        region_map(model.double(), data(3, 1), [(0, 0), (1, 1)], recipe=recipe, train_data=data(6), loss=distance)


class Shift(nn.Module):
    """Adds a parameter, far from zero, to what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.full((3,), 10.0))

    def forward(self, given: Tensor) -> Tensor:
        """Return the sum."""
        return given + self.bias


def test_scores_that_are_all_zero_are_refused_for_their_own_reason() -> None:
    model = nn.Linear(2, 1, bias=False).double()
    train = (torch.eye(2).double(), model.weight.detach().reshape(2, 1).clone())  # fitted perfectly
    target = (torch.ones(1, 2).double(), torch.ones(1, 1).double())
    with pytest.raises(GradientError, match=r"All scores are 0: in the layers 'all', .* perfectly fitted"):
        region_map(
            model, target, [(0, 0)], recipe=Recipe(GradCos("loss"), Gradient()), train_data=train, loss=nn.MSELoss()
        )


def test_inputs_that_cannot_be_differentiated_are_refused() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 3))
    words = (torch.randint(9, (4, 3)), torch.tensor([0, 1, 2, 0]))
    with pytest.raises(
        ArgumentError, match=r"one floating-point tensor an example; got torch\.int64.* embedding's output"
    ):
        region_map(model, words, [(0, 0)], recipe=DEFAULT, train_data=words, loss=F.cross_entropy)


def test_a_training_example_with_entries_that_are_not_finite_is_named() -> None:
    model = nn.Linear(2, 2)
    train = (torch.tensor([[0.0, 1.0], [1.0, float("nan")]]), torch.tensor([0, 1]))
    target = (torch.ones(1, 2), torch.zeros(1, dtype=torch.long))
    with pytest.raises(ArgumentError, match=r"Training example 1 has entries that are not finite.*Mend it, or leave"):
        region_map(model, target, [(0, 0)], train_data=train, loss=F.cross_entropy)


def test_a_target_with_entries_that_are_not_finite_is_named() -> None:
    x, y = data(3, 1)
    x[2] = torch.nan
    with pytest.raises(ArgumentError, match=r"The score of target 2 and training example 4 is nan.*Look at the target"):
        region_map(network("smooth"), (x, y), [(0, 1), (2, 4)], **OPTIONS)


def test_outputs_that_do_not_fit_the_quantity_are_refused() -> None:
    model, pair = nn.Linear(2, 1), (torch.eye(2), torch.ones(2, 1))
    with pytest.raises(ArgumentError, match=r"The logit or probability of a target's own label needs one class number"):
        region_map(model, pair, [(0, 0)], train_data=pair, loss=nn.MSELoss())


def test_influence_of_many_parameters_or_little_damping_is_refused() -> None:
    big = nn.Sequential(nn.Flatten(), nn.Linear(72, 150), nn.Tanh(), nn.Linear(150, 3)).double()
    with pytest.raises(ArgumentError, match=r"exact Hessian of 11,403 parameters is too large .* Name fewer `layers`"):
        region_map(big, data(3, 1), [(0, 0)], recipe=Recipe(Influence(1.0)), **OPTIONS)
    with pytest.raises(ArgumentError, match=r"eigenvalue -.*not positive definite .* Give a damping well above 0\."):
        region_map(network("smooth"), data(3, 1), [(0, 0)], recipe=Recipe(Influence(1e-9)), **OPTIONS)


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        ("zero", LabelError, r"No layer 'zero' in the model Sequential"),
        (
            "6",
            ArgumentError,
            r"Layer '6' must give one output of shape \(examples, channels, height, width\).*\(3?1?, 3\)",
        ),
    ],
)
def test_layers_without_planes_are_refused(layer: str, error: type[WhenceError], message: str) -> None:
    with pytest.raises(error, match=message):
        layer_map(network("smooth"), data(3, 1), [(0, 0)], layer=layer, **OPTIONS)


def test_scores_that_are_none_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"no scores of an attributor.*got dims \('a', 'b'\) and None"):
        top_pairs(xr.DataArray(np.zeros((1, 2)), dims=("a", "b")))
    with pytest.raises(ArgumentError, match=r"`count` is 1 to 2, the scored examples; got 3"):
        top_pairs(
            xr.DataArray(np.zeros((1, 2)), {"target": [0], "train": [0, 1]}, ("target", "train"), attrs={"helps": 1}), 3
        )


def test_a_control_without_a_training_example_and_what_are_no_maps_are_refused() -> None:
    maps = xr.DataArray(np.zeros((2, 4, 4)), {"train": ("pair", [3, 5])}, ("pair", "height", "width"))
    control = xr.DataArray(np.zeros((1, 4, 4)), {"train": [3]}, ("train", "height", "width"))
    with pytest.raises(LabelError, match=r"The control has no training example 5\. Make it of every one in the maps"):
        check_maps(maps, control)
    with pytest.raises(ArgumentError, match=r"`maps` are those of whence\.regions\.region_map.*got dims \('train'"):
        check_maps(control, maps)
    with pytest.raises(ArgumentError, match=r"`control` are those of whence\.regions\.own_saliency.*got NoneType"):
        check_maps(maps, None)


def test_maps_beside_that_are_of_no_targets_are_refused(tmp_path: Path) -> None:
    where = {"target": ("pair", [0, 0]), "train": ("pair", [3, 3])}
    maps = xr.DataArray(np.zeros((2, 4, 4)), where, ("pair", "height", "width"))
    control = xr.DataArray(np.zeros((1, 4, 4)), {"train": [3]}, ("train", "height", "width"))
    pictures = (torch.rand(6, 1, 4, 4), torch.zeros(6))
    unnamed = xr.DataArray(np.zeros((1, 4, 4)), dims=("target", "height", "width"))
    for other in (maps, unnamed):
        with pytest.raises(ArgumentError, match=r"The map 'other' beside is none of targets: .* Give one of grad_cam"):
            draw_maps(maps, control, pictures, pictures, tmp_path / "sheets", beside={"other": other})
    with pytest.raises(LabelError, match=r"The map 'other' beside has no target 0\. Map every target of the pairs\."):
        draw_maps(
            maps,
            control,
            pictures,
            pictures,
            tmp_path / "sheets",
            beside={"other": unnamed.assign_coords(target=[1])},
        )
    assert not (tmp_path / "sheets").exists()


def test_pictures_that_do_not_fit_are_refused() -> None:
    black = np.zeros((4, 4), np.uint8)
    with pytest.raises(ShapeError, match=r"The map has shape \(2, 2\) and the image \(4, 4\)\. Give one map"):
        overlay(black, np.zeros((2, 2)))
    with pytest.raises(ArgumentError, match=r"entries that are not finite"):
        overlay(black, np.full((4, 4), np.nan))
    with pytest.raises(ArgumentError, match=r"A picture is a Pillow image, or bytes .* got float64 of shape \(4, 4\)"):
        overlay(np.zeros((4, 4)), np.zeros((4, 4)))
    with pytest.raises(ArgumentError, match=r"No picture to put side by side"):
        side_by_side({})
    with pytest.raises(ArgumentError, match=r"`size` is a whole number of pixels, at least 1; got 0"):
        side_by_side({"a": black}, size=0)
    with pytest.raises(ArgumentError, match=r"A picture is .* got uint8 of shape \(0, 4\)"):
        side_by_side({"a": black[:0]})


def test_a_missing_captum_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.delitem(sys.modules, "captum.attr", raising=False)
    for call in (lambda *a, **k: grad_cam(*a, layer="0", **k), integrated_gradients):
        with pytest.raises(
            MissingExtraError, match=r'needs captum, which is not installed.*pip install "whence\[baselines\]"'
        ):
            call(network("smooth"), data(3, 1), [0], **OPTIONS)


def test_slopes_of_outputs_that_are_no_tensor_cannot_be_held() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(2, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"out": self.inner(x)}

    def loss(outputs: Any, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs["out"], labels, reduction="none")

    pair = (torch.eye(2), torch.tensor([0, 2]))
    with pytest.raises(ArgumentError, match=r"needs outputs in one tensor; this model gives dict\..*held=False"):
        region_map(Two(), pair, [(0, 0)], recipe=Recipe(GradDot("loss"), held=True), train_data=pair, loss=loss)
