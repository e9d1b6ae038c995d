"""Insertion is exactly 0 with all pixels, agrees with a slow reference, and sees a map that knows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whence._errors import ArgumentError, ShapeError
from whence.attribution import Trained, as_trained
from whence.evaluation import Intervention, deletion, insertion
from whence.evaluation.masks import blob_maps, masked, random_maps, top_pixels

PAIRS = [(0, 0), (0, 1), (1, 2), (1, 3), (2, 4), (2, 5)]


def network() -> Trained:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 3)).double()
    return as_trained(model, (torch.randn(8, 2, 6, 6).double(), torch.arange(8) % 3), loss=F.cross_entropy)


TARGETS = (torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(7)).double(), torch.tensor([0, 1, 2]))
MAPS = np.random.default_rng(0).normal(size=(6, 6, 6))


def gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    model.zero_grad()
    F.cross_entropy(model(x[None]), y[None]).backward()
    return torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])


def loss_after(model: nn.Module, step: Tensor, x: Tensor, y: Tensor) -> float:
    moved = nn.utils.parameters_to_vector(model.parameters()).detach() - step
    before = nn.utils.parameters_to_vector(model.parameters()).detach()
    nn.utils.vector_to_parameters(moved, model.parameters())
    found = F.cross_entropy(model(x[None]), y[None]).item()
    nn.utils.vector_to_parameters(before, model.parameters())
    return found


def test_all_three_measures_agree_with_one_pair_at_a_time() -> None:
    trained, how = network(), Intervention(rate=0.02, length=0.3, seed=4)
    found = insertion(trained, TARGETS, PAIRS, {"mine": MAPS}, keep=[30], intervention=how)
    images, labels = trained.examples.batch(range(8))
    model, fill = trained.model.requires_grad_(True), images.mean(0)
    gaps: dict[str, list[float]] = {"cosine": [], "unit step": [], "published": []}
    for place, (target, one) in enumerate(PAIRS):
        x, y = TARGETS[0][target], TARGETS[1][target]
        told = []
        for maps in (MAPS, random_maps(MAPS.shape, 4)):
            kept = torch.from_numpy(np.argsort(np.argsort(-maps[place].ravel())).reshape(6, 6) < round(0.3 * 36))
            ours = gradient(model, torch.where(kept, images[one], fill), labels[one])
            theirs = gradient(model, x, y)
            told.append(
                (
                    float(F.cosine_similarity(ours, theirs, dim=0)),
                    loss_after(model, 0.3 * ours / ours.norm(), x, y),
                    loss_after(model, 0.02 * ours, x, y),
                )
            )
        for name, ours_, theirs_ in zip(gaps, *told, strict=True):
            gaps[name].append(ours_ - theirs_)
    for name, values in gaps.items():
        assert found[name].value(30, "mine").estimate == pytest.approx(np.mean(values), rel=1e-9)
    assert str(found).count("| percent |") == 3
    assert len(found.figure().data) == 6


def test_what_was_not_trained_neither_counts_nor_moves() -> None:
    class Fixed(nn.Module):
        """A convolution whose numbers are no parameters."""

        def __init__(self, layer: nn.Conv2d) -> None:
            super().__init__()
            self.weight, self.bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight, self.bias)

    trained = network()
    layers = list(trained.model.children())
    layers[0].requires_grad_(False)
    without = nn.Sequential(Fixed(layers[0]), *layers[1:])  # type: ignore[arg-type]
    ours, theirs = (
        insertion(as_trained(one, trained.examples, loss=F.cross_entropy), TARGETS, PAIRS, {"mine": MAPS}, keep=[30])
        for one in (trained.model, without)
    )
    for name in ("cosine", "unit step", "published"):
        assert ours[name].value(30, "mine") == pytest.approx(theirs[name].value(30, "mine"), rel=1e-9)


def test_all_pixels_kept_or_removed_give_exactly_0_for_every_map() -> None:
    for test in (insertion, deletion):
        found = test(network(), TARGETS, PAIRS, MAPS, keep=[100])
        for table in found.parts.values():
            assert (table.data["estimate"].values == 0).all()
            assert (table.data["low"].values == 0).all()
            assert (table.data["high"].values == 0).all()


def test_a_map_of_the_only_pixels_that_carry_the_class_beats_random_ones_and_deleting_them_hurts() -> None:
    images, labels = torch.zeros(6, 1, 6, 6).double(), torch.arange(6) % 2
    images[:, 0, 2, 2] = torch.where(labels == 0, 1.0, -1.0).double()
    images += 0.1 * torch.randn(6, 1, 6, 6, generator=torch.Generator().manual_seed(0)).double()
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).double()
    trained = as_trained(model, (images, labels), loss=F.cross_entropy)
    maps = np.zeros((6, 6, 6))
    maps[:, 2, 2] = 1
    pairs = [(one % 2, one) for one in range(6)]
    targets = (images[:2], labels[:2])
    kept = insertion(trained, targets, pairs, {"knows": maps}, keep=[3, 10])
    gone = deletion(trained, targets, pairs, {"knows": maps}, keep=[3, 10])
    assert kept["cosine"].value(3, "knows").low > 0
    assert kept["unit step"].value(3, "knows").high < 0
    assert gone["cosine"].value(3, "knows").high < 0


def test_intervals_of_the_corrected_protocol_are_over_targets_and_of_the_published_one_over_pairs() -> None:
    found = insertion(network(), TARGETS, PAIRS, MAPS, keep=[10])
    assert found["cosine"].data.attrs["interval"] == "bootstrap over targets"
    assert found["published"].data.attrs["interval"] == "normal, over pairs"
    assert found["cosine"].data.attrs["title"] == "Insertion, 6 pairs of 3 targets"


def test_masks_keep_the_share_asked_for_and_fill_the_rest() -> None:
    maps = np.arange(36.0).reshape(1, 6, 6)
    kept = top_pixels(maps, 25)
    assert kept.sum() == 9
    assert kept.reshape(-1)[-9:].all()
    found = masked(torch.ones(1, 2, 6, 6), kept, torch.tensor([5.0, 7.0]).reshape(2, 1, 1))
    assert found[0, 0, 0, 0] == 5
    assert found[0, 1, 0, 0] == 7
    assert found[0, 1, 5, 5] == 1


def test_blobs_hang_together_and_pixels_do_not() -> None:
    blobs, pixels = (one((4, 16, 16), 0) for one in (blob_maps, random_maps))

    def neighbours(maps: np.ndarray) -> float:
        return float(np.corrcoef(maps[:, :-1].ravel(), maps[:, 1:].ravel())[0, 1])

    assert neighbours(blobs) > 0.8
    assert abs(neighbours(pixels)) < 0.1
    assert np.array_equal(blobs, blob_maps((4, 16, 16), 0))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"pairs": []}, ArgumentError, r"`pairs` are \(target id, training id\), at least one"),
        ({"maps": MAPS[:2]}, ShapeError, r"Maps need shape \(6, 6, 6\).*got \(2, 6, 6\)"),
        ({"maps": MAPS * np.nan}, ArgumentError, r"must be finite numbers; some are nan"),
        ({"maps": {"random blobs": MAPS}}, ArgumentError, r"'random blobs' is the name of a control"),
        ({"keep": [120]}, ArgumentError, r"`keep` are shares of the pixels.*0 to 100 percent; got \[120\]"),
        ({"keep": []}, ArgumentError, r"`keep` are shares of the pixels, at least one.*got \[\]"),
        ({"keep": [float("nan")]}, ArgumentError, r"`keep` are shares of the pixels.*got \[nan\]"),
        (
            {"intervention": Intervention(fill=torch.zeros(5, 5))},
            ShapeError,
            r"`fill` is a tensor that can be broadcast to an image, .*; got \(5, 5\)",
        ),
        (
            {"images": (torch.ones(8, 3), torch.ones(8))},
            ShapeError,
            r"\(examples, channels, height, width\) .* \(1, 3\)",
        ),
    ],
)
def test_bad_arguments_are_named(change: dict[str, object], error: type[Exception], words: str) -> None:
    given = {"targets": TARGETS, "pairs": PAIRS, "maps": MAPS, **change}
    with pytest.raises(error, match=words):
        insertion(network(), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rate": float("nan")}, r"`rate` of a step is a number above 0; got nan"),
        ({"length": 0.0}, r"`length` of a step is a number above 0; got 0\.0"),
        ({"seed": -1}, r"`seed` is a whole number, at least 0; got -1"),
    ],
)
def test_steps_that_are_none_are_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ArgumentError, match=words):
        Intervention(**settings)
