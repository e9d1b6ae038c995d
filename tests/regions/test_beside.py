"""What stands beside region maps: the layer variant, the control, maps of the target, pictures, pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from PIL import Image
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.regions.networks import data, network, quantity_of
from whence import as_examples
from whence._errors import ArgumentError, AuditError, LabelError
from whence.attribution import GradCos, GradDot, as_trained, attribute, load_scores
from whence.gradients import twice_differentiable
from whence.regions import (
    DEFAULT,
    PAPER,
    Gradient,
    Integrated,
    Recipe,
    activations,
    baselines,
    draw_maps,
    grad_cam,
    integrated_gradients,
    layer_map,
    load_maps,
    overlay,
    own_saliency,
    region_map,
    save_maps,
    side_by_side,
    top_pairs,
)

OPTIONS: Any = {"train_data": data(6), "loss": F.cross_entropy}
PAIRS = [(2, 4), (0, 1), (2, 0)]
TIGHT: Any = {"rtol": 1e-9, "atol": 1e-11}


def at_layer(model: nn.Module, x: Tensor, value: Any) -> Tensor:
    """Return the gradient with respect to the output of the first layer of a sequence."""
    assert isinstance(model, nn.Sequential)
    planes = model[0](x[None]).detach().requires_grad_()
    found: Tensor = torch.autograd.grad(value(model[1:](planes)[0]), planes)[0][0]
    return found


@pytest.mark.parametrize("score", [GradDot("loss"), GradCos("logit")], ids=str)
@pytest.mark.parametrize("kind", ["smooth", "kinked"])
def test_the_layer_map_is_the_mean_product_of_activation_gradients_enlarged(kind: str, score: Any) -> None:
    model, train, targets = network(kind), data(6), data(3, 1)
    found = layer_map(model, targets, PAIRS, layer="0", score=score, **OPTIONS)
    for row, (n, m) in enumerate(PAIRS):
        ours = at_layer(model, train[0][m], lambda out, m=m: F.cross_entropy(out[None], train[1][m][None]))
        theirs = -at_layer(model, targets[0][n], lambda out, n=n: quantity_of(out, targets[1][n], score.quantity))
        if isinstance(score, GradCos):
            ours, theirs = ours / ours.norm(), theirs / theirs.norm()
        small = (ours * theirs).mean(0)[None, None]
        expected = F.interpolate(small, (6, 6), mode="bilinear", align_corners=False)[0, 0]
        torch.testing.assert_close(torch.from_numpy(found.values[row]), expected, **TIGHT)
        assert float(found["score"][row]) == pytest.approx(float((ours * theirs).sum()), rel=1e-9)


def test_layer_maps_leave_no_hook_behind_and_work_before_a_layer_that_writes_in_place() -> None:
    trained = as_trained(network("residual"), OPTIONS["train_data"], loss=F.cross_entropy)
    found = layer_map(trained, data(3, 1), PAIRS, layer="norm")
    assert float(abs(found).max()) > 0
    assert not any(one._forward_hooks for one in trained.model.modules())


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
@pytest.mark.parametrize("which", ["layer", "grad_cam", "integrated_gradients"])
def test_maps_beside_are_the_same_however_few_go_through_the_model_at_once(
    which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("captum")
    model, targets, seen = network("smooth"), data(9, 1), []
    ids = [2, 0, 4, 1, 3, 8, 5, 6, 7]
    kinds: dict[str, Any] = {
        "layer": lambda: layer_map(model, targets, [(n, n % 2) for n in ids], layer="0", **OPTIONS),
        "grad_cam": lambda: grad_cam(model, targets, ids, layer="0", **OPTIONS),
        "integrated_gradients": lambda: integrated_gradients(model, targets, ids, **OPTIONS),
    }
    whole = kinds[which]()
    for module in (activations, baselines):
        monkeypatch.setattr(module, "_TOGETHER", 4)
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    np.testing.assert_allclose(kinds[which]().values, whole.values, rtol=1e-9, atol=1e-12)
    assert max(seen) <= 4


def test_own_saliency_is_the_gradient_of_the_examples_own_loss() -> None:
    model, train = network("kinked"), data(6)
    found = own_saliency(model, [4, 1], recipe=Recipe(GradDot(), Gradient()), **OPTIONS)
    for row, m in enumerate((4, 1)):
        x = train[0][m].clone().requires_grad_()
        loss = F.cross_entropy(model(x[None]), train[1][m : m + 1])
        expected = -torch.autograd.grad(loss, x)[0].sum(0)
        torch.testing.assert_close(torch.from_numpy(found.values[row]), expected, **TIGHT)
        assert float(found["score"][row]) == pytest.approx(-float(loss.detach()), rel=1e-12)
    assert found["train"].values.tolist() == [4, 1]


def test_own_saliency_shares_out_the_fall_of_the_loss_from_the_mean_image() -> None:
    found = own_saliency(network("smooth"), [4, 1], recipe=Recipe(GradDot(), Integrated(40)), **OPTIONS)
    np.testing.assert_allclose(found["remainder"].values, 0, atol=1e-6)
    mean = data(6)[0].mean(0, keepdim=True)
    start = F.cross_entropy(network("smooth")(mean), data(6)[1][4:5])
    assert float(found[0].sum() - found["score"][0]) == pytest.approx(float(start.detach()), abs=1e-6)


def test_a_region_map_depends_on_the_target_and_its_control_does_not() -> None:
    model = network("kinked")
    found = region_map(model, data(3, 1), [(0, 2), (1, 2)], **OPTIONS)
    assert np.abs(found.values[0] - found.values[1]).max() > 1e-3 * np.abs(found.values).max()


def test_maps_say_their_unit_sign_and_recipe() -> None:
    found = region_map(network("smooth"), data(3, 1), PAIRS, **OPTIONS)
    assert found.dims == ("pair", "height", "width")
    assert found["target"].values.tolist() == [2, 0, 2]
    assert found["train"].values.tolist() == [4, 1, 0]
    assert found.attrs["sign"].startswith("positive = the input here raises the score")
    assert found.attrs["recipe"] == repr(DEFAULT)
    paper = region_map(network("smooth"), data(3, 1), PAIRS, recipe=PAPER, **OPTIONS)
    assert (paper.attrs["unit"], paper.attrs["sign"]) == ("cosine, per unit of the input", "magnitude only")


def test_maps_of_vectors_have_one_entry_a_feature() -> None:
    model = nn.Linear(4, 2)
    pair = (torch.randn(5, 4), torch.tensor([0, 1, 0, 1, 1]))
    assert region_map(model, pair, [(0, 1)], train_data=pair, loss=F.cross_entropy).dims == ("pair", "feature")


def test_attentions_switches_are_as_before_after_an_error() -> None:
    torch.backends.mha.set_fastpath_enabled(True)
    before = True, torch._C._get_flash_sdp_enabled()

    def fail() -> None:
        with twice_differentiable(nn.Linear(1, 1)):
            assert not torch.backends.mha.get_fastpath_enabled()
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        fail()
    assert (torch.backends.mha.get_fastpath_enabled(), torch._C._get_flash_sdp_enabled()) == before


def test_double_backward_needs_the_kernel_that_maps_choose() -> None:
    words = torch.randn(1, 1, 3, 4, requires_grad=True)

    def twice() -> None:
        (gradient,) = torch.autograd.grad(
            F.scaled_dot_product_attention(words, words, words).square().sum(), words, create_graph=True
        )
        gradient.sum().backward()

    with sdpa_kernel(SDPBackend.FLASH_ATTENTION), pytest.raises(RuntimeError, match="not implemented"):
        twice()
    with twice_differentiable(nn.Linear(1, 1)):
        twice()
    assert words.grad is not None


@pytest.mark.parametrize("harmful", [False, True])
def test_top_pairs_are_those_of_the_largest_scores(harmful: bool) -> None:
    scores = attribute(GradDot(), network("smooth"), data(3, 1), **OPTIONS)
    for n, m in top_pairs(scores, 2, harmful=harmful):
        row = scores.sel(target=n) * (-1 if harmful else 1)
        assert int((row > row.sel(train=m)).sum()) < 2


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
def test_grad_cam_weighs_activations_with_their_mean_gradients() -> None:
    pytest.importorskip("captum")
    model, targets = network("kinked"), data(3, 1)
    found = grad_cam(model, targets, [2, 0], layer="0", **OPTIONS)
    assert isinstance(model, nn.Sequential)
    for row, n in enumerate((2, 0)):
        planes = model[0](targets[0][n : n + 1])
        weights = at_layer(model, targets[0][n], lambda out, n=n: out[targets[1][n]]).mean((1, 2))
        small = torch.relu((planes[0] * weights[:, None, None]).sum(0))[None, None]
        expected = F.interpolate(small, (6, 6), mode="bilinear", align_corners=False)[0, 0].detach()
        torch.testing.assert_close(torch.from_numpy(found.values[row]), expected, **TIGHT)


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
def test_integrated_gradients_of_the_target_sum_to_its_quantitys_change() -> None:
    pytest.importorskip("captum")
    model, targets = network("smooth"), data(3, 1)
    found = integrated_gradients(model, targets, [2, 0], quantity="margin", **OPTIONS)
    for row, n in enumerate((2, 0)):
        ends = [quantity_of(model(one[None])[0], targets[1][n], "margin") for one in (targets[0][n], 0 * targets[0][n])]
        assert float(found[row].sum()) == pytest.approx(float((ends[0] - ends[1]).detach()), rel=1e-4)


def test_an_overlay_is_orange_where_the_map_is_positive_blue_where_negative_and_grey_where_nothing() -> None:
    picture = np.full((2, 2, 3), (200, 100, 0), np.uint8)
    image = overlay(picture, xr.DataArray([[2.0, 0.0], [-2.0, 0.0]]), size=2)
    assert image.getpixel((0, 0)) == (214, 96, 20)
    assert image.getpixel((0, 1)) == (35, 110, 200)
    assert image.getpixel((1, 0)) == (150, 100, 50)  # half way to its mean


def test_an_overlay_of_nothing_is_the_faded_picture() -> None:
    image = overlay(np.full((3, 2), 80, np.uint8), np.zeros((3, 2)), size=6)
    assert image.size == (4, 6)
    assert image.getpixel((0, 0)) == (80, 80, 80)


def test_pictures_side_by_side_keep_their_colours_and_have_captions() -> None:
    sheet = side_by_side({"one": np.full((2, 2), 7, np.uint8), "two": np.full((2, 4), 9, np.uint8)}, size=40)
    pixels = np.asarray(sheet)
    assert sheet.size == (8 + 40 + 8 + 40 + 8, 20 + 40 + 8)
    assert pixels[30, 20].tolist() == [7, 7, 7]
    assert pixels[30, 60].tolist() == [9, 9, 9]
    assert (pixels[:20] < 128).any()  # the words


@pytest.mark.parametrize("recipe", [DEFAULT, PAPER], ids=["default", "paper"])
def test_maps_are_the_same_after_they_were_kept(recipe: Recipe, tmp_path: Path) -> None:
    maps = region_map(network("smooth"), data(3, 1), PAIRS, recipe=recipe, **OPTIONS)
    save_maps(maps, tmp_path / "maps")
    xr.testing.assert_identical(load_maps(tmp_path / "maps").load(), maps)
    with pytest.raises(AuditError, match=r"Something stands at .*maps already"):
        save_maps(maps, tmp_path / "maps")
    with pytest.raises(AuditError, match=r"maps holds no scores of format 1\. Give the path that save_scores wrote\."):
        load_scores(tmp_path / "maps")
    with pytest.raises(AuditError, match=r"No region maps at .*nothing: there is no such folder\."):
        load_maps(tmp_path / "nothing")


def test_each_pair_is_drawn_beside_its_control(tmp_path: Path) -> None:
    model, targets = network("smooth"), data(3, 1)
    maps = region_map(model, targets, PAIRS, **OPTIONS)
    control = own_saliency(model, [0, 1, 4], **OPTIONS)
    shown, known = ((torch.rand(many, 1, 6, 6), torch.zeros(many)) for many in (3, 6))  # one channel: pictures
    files = draw_maps(maps, control, shown, known, tmp_path / "new" / "folder")
    assert [file.name for file in files] == [f"target-{target}-train-{train}.png" for target, train in PAIRS]
    image = as_examples(known).picture(PAIRS[1][1])
    assert image is not None
    with Image.open(files[1]) as drawn:
        assert drawn.size == (4 * 160 + 5 * 8, 188)
        for place, one in ((2, maps[1]), (3, control.sel(train=PAIRS[1][1]))):
            box = (8 + place * 168, 20, 8 + place * 168 + 160, 180)
            np.testing.assert_array_equal(np.asarray(drawn.crop(box)), np.asarray(overlay(image, one)))
    cam = np.abs(maps[0].values)[None].repeat(2, 0)
    beside = {"Grad-CAM": xr.DataArray(cam, dims=("target", "height", "width"), coords={"target": [2, 0]})}
    files = draw_maps(maps, control, shown, known, tmp_path / "wider", beside=beside)
    seen = as_examples(shown).picture(PAIRS[1][0])
    assert seen is not None
    with Image.open(files[1]) as drawn:
        assert drawn.size == (5 * 160 + 6 * 8, 188)
        box = (8 + 4 * 168, 20, 8 + 4 * 168 + 160, 180)
        np.testing.assert_array_equal(np.asarray(drawn.crop(box)), np.asarray(overlay(seen, cam[1])))
    with pytest.raises(LabelError, match=r"The map 'Grad-CAM' beside has no target 2\. Map every target"):
        draw_maps(maps, control, shown, known, tmp_path / "wider", beside={"Grad-CAM": beside["Grad-CAM"][1:]})
    rows = (torch.randn(3, 5), torch.zeros(3))
    with pytest.raises(
        ArgumentError, match=r"Region maps are drawn over images, and the target 2 is none\. Ask for no"
    ):
        draw_maps(maps, control, rows, known, tmp_path)
