"""Maps of one of several inputs: as of a model that has the others built in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr
from torch import Tensor, nn

from whence import WhenceError
from whence.attribution import GradCos, GradDot, Influence
from whence.regions import (
    DEFAULT,
    Difference,
    DoubleBackward,
    Forward,
    Gradient,
    GradientInput,
    Recipe,
    layer_map,
    own_saliency,
    region_map,
)

PAIRS = [(1, 3), (0, 0), (1, 2)]


class Seen(nn.Module):
    """An image, a word and a vector, that meet in a product and a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.look, self.read = nn.Conv2d(1, 2, 2), nn.Embedding(5, 8)
        self.mix, self.head = nn.Linear(11, 4), nn.Linear(4, 3)

    def forward(self, image: Tensor, word: Tensor, size: Tensor) -> Tensor:
        both = torch.tanh(self.look(image)).flatten(1) * self.read(word)
        out: Tensor = self.head(torch.tanh(self.mix(torch.cat([both, size], 1))))
        return out


def parts(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 1, 3, 3, generator=generator, dtype=torch.float64)
    sizes = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return (
        images,
        torch.randint(5, (count,), generator=generator),
        sizes,
        torch.randint(3, (count,), generator=generator),
    )


def in_order(count: int, seed: int) -> Any:
    return [((image, word, size), label) for image, word, size, label in zip(*parts(count, seed), strict=True)]


def by_name(count: int, seed: int) -> Any:
    return [
        {"image": image, "word": word, "size": size, "label": label}
        for image, word, size, label in zip(*parts(count, seed), strict=True)
    ]


OPTIONS: Any = {"train_data": in_order(5, 0), "loss": F.cross_entropy}
NAMED: Any = {"train_data": by_name(5, 0), "loss": F.cross_entropy}


def flat(value: Tensor, model: nn.Module, graph: bool = False) -> Tensor:
    found = torch.autograd.grad(value, list(model.parameters()), create_graph=graph)
    return torch.cat([one.flatten() for one in found])


def reference(entry: int, cosine: bool) -> tuple[list[Tensor], list[float]]:
    """Return the gradient of each pair's score with respect to one input, by double backward, and the scores."""
    model, train, targets, gradients, scores = Seen().double(), parts(5, 0), parts(2, 1), [], []
    for n, m in PAIRS:
        *given, label = (one[m : m + 1].clone() for one in train)
        given[entry].requires_grad_()
        *theirs, other = (one[n : n + 1] for one in targets)
        ours = flat(F.cross_entropy(model(*given), label), model, graph=True)
        score = ours @ flat(F.cross_entropy(model(*theirs), other), model)
        if cosine:
            score = score / ours.norm() / flat(F.cross_entropy(model(*theirs), other), model).norm()
        gradients.append(torch.autograd.grad(score, given[entry])[0][0])
        scores.append(float(score.detach()))
    return gradients, scores


@pytest.mark.parametrize("engine", [Forward(), DoubleBackward(), Difference()], ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("entry", [0, 2])
def test_the_map_of_one_input_is_the_gradient_in_it_with_the_others_held(entry: int, engine: Any) -> None:
    score = GradDot() if isinstance(engine, Difference) else GradCos()
    recipe, name = Recipe(score, Gradient()), ("image", "word", "size")[entry]
    found = region_map(Seen().double(), in_order(2, 1), PAIRS, recipe=recipe, engine=engine, entry=entry, **OPTIONS)
    named = region_map(Seen().double(), by_name(2, 1), PAIRS, recipe=recipe, engine=engine, entry=name, **NAMED)
    gradients, scores = reference(entry, isinstance(score, GradCos))
    expected = torch.stack([one.sum(0) if entry == 0 else one for one in gradients])
    error = 1e-6 if isinstance(engine, Difference) else 1e-9
    np.testing.assert_allclose(found, expected, rtol=error, atol=error)
    np.testing.assert_allclose(found["score"], scores, rtol=error)
    np.testing.assert_allclose(named, found, rtol=1e-12, atol=1e-14)
    assert found.dims == (("pair", "height", "width") if entry == 0 else ("pair", "feature"))
    assert (found.attrs["entry"], named.attrs["entry"]) == (entry, name)


@pytest.mark.parametrize(
    "recipe",
    [
        DEFAULT,
        Recipe(GradCos(), Gradient(), signed=False, smooth=2),
        Recipe(Influence(2.0, "logit", "last"), GradientInput(), held=True),
    ],
    ids=["default", "smoothed", "influence"],
)
def test_every_recipe_maps_one_of_several_inputs_as_the_same_model_of_that_input(recipe: Recipe) -> None:
    class Alone(nn.Module):
        """The same, with word and size joined to the image's rows as numbers that training never varies."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = Seen()

        def forward(self, size: Tensor) -> Tensor:
            count = len(size)
            return self.inner(image.expand(count, -1, -1, -1), word.expand(count), size)  # type: ignore[no-any-return]

    (image, word, sizes, labels), (_, _, others, theirs) = parts(5, 0), parts(2, 1)
    image, word = image[:1], word[:1]
    train = [((image[0], word[0], size), label) for size, label in zip(sizes, labels, strict=True)]
    targets = [((image[0], word[0], size), label) for size, label in zip(others, theirs, strict=True)]
    given: Any = {"recipe": recipe, "loss": F.cross_entropy}
    found = region_map(Seen().double(), targets, PAIRS, entry=2, train_data=train, **given)
    expected = region_map(Alone().double(), (others, theirs), PAIRS, train_data=(sizes, labels), **given)
    xr.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    own = own_saliency(Seen().double(), [3, 1], entry=2, train_data=train, **given)
    alone = own_saliency(Alone().double(), [3, 1], train_data=(sizes, labels), **given)
    xr.testing.assert_allclose(own, alone, rtol=1e-9, atol=1e-12)


def test_a_layers_planes_are_enlarged_to_the_chosen_image() -> None:
    found = layer_map(Seen().double(), in_order(2, 1), PAIRS, layer="look", entry=0, **OPTIONS)
    assert found.sizes == {"pair": 3, "height": 3, "width": 3}
    assert abs(found).max() > 0


@pytest.mark.parametrize(
    ("entry", "options", "words"),
    [
        (
            None,
            OPTIONS,
            r"an input is 3 of them \(0, 1, 2\), .* say which by `entry`, such as entry=0\. The others are",
        ),
        (None, NAMED, r"an input is 3 of them \('image', 'word', 'size'\), .* such as entry='image'"),
        (3, OPTIONS, r"No entry 3 among the inputs: there are 0, 1, 2\."),
        ("picture", NAMED, r"No entry 'picture' among the inputs: there are 'image', 'word', 'size'\."),
        (1, OPTIONS, r"one floating-point tensor an example; entry 1 is torch\.int64\. Numbers of words"),
    ],
)
def test_an_input_that_is_not_chosen_or_not_there_is_refused(entry: Any, options: Any, words: str) -> None:
    targets = (in_order if options is OPTIONS else by_name)(2, 1)
    with pytest.raises(WhenceError, match=words):
        region_map(Seen().double(), targets, PAIRS, entry=entry, **options)


def test_an_entry_of_inputs_that_are_one_tensor_is_refused() -> None:
    train = (torch.randn(4, 2), torch.tensor([0, 1, 2, 0]))
    with pytest.raises(WhenceError, match=r"`entry` chooses one of several inputs, and here an input is one.* got 'x'"):
        region_map(nn.Linear(2, 3), train, [(0, 1)], entry="x", train_data=train, loss=F.cross_entropy)
