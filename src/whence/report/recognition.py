"""What a provenance network takes targets for, and whether it still finds a training image that is changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from whence._errors import ArgumentError
from whence.datasets import Examples
from whence.datasets.images import picture
from whence.evaluation.provenance.retrieval import nearest_examples, spaced_ids
from whence.provenance import GaussianNoise, ProvenanceNetwork, retrieve
from whence.provenance.backbones import range_of, some_pictures
from whence.provenance.pixels import warped
from whence.provenance.training import same_data
from whence.report.explain import Explanation
from whence.report.figures import Rows
from whence.report.pictures import png
from whence.report.traced import Exemplar, Traced
from whence.report.words import count, label_name, number, percent

_NAMED = 5
_STEPS = 8  # of a slider, beyond the image as it is
_SHIFT, _TURN, _NOISE = 6 / 28, 60.0, 0.4  # the largest: a share of the side, degrees, a share of the range
_ASKED = 2000  # training images whose own index is looked for


@final
@dataclass(frozen=True)
class Step:
    """A training image, changed so far.

    Attributes:
        strength: How far, in words.
        picture: How it looks then, as a data URI.
        found: What is retrieved for it.
        exact: Whether that is the image itself.
    """

    strength: str
    picture: str
    found: Exemplar
    exact: bool


@final
@dataclass(frozen=True)
class Slide:
    """A training image under one distortion, stronger and stronger.

    Attributes:
        key: Unique in the page.
        name: What is done to it.
        steps: From the image as it is on.
    """

    key: str
    name: str
    steps: tuple[Step, ...]

    @property
    def rows(self) -> Rows:
        """The same as a table of values."""
        return tuple(
            (one.strength, f"#{one.found.index}, {one.found.label}", one.found.said, "yes" if one.exact else "no")
            for one in self.steps
        )


@final
@dataclass(frozen=True)
class Recognition:
    """A provenance network on the page.

    Attributes:
        verdict: How well it answers and knows its training images.
        index: The training image that is changed.
        label: What its class is called.
        slides: That image under each distortion.
    """

    verdict: str
    index: int
    label: str
    slides: tuple[Slide, ...]


@final
class Recogniser:
    """Asks one network for the page.

    Args:
        network: A trained network.
        train: The data that it was trained on.

    Raises:
        ChangedDataError: If the network was trained on other data.
        ArgumentError: If the data is not of pictures that can be shown.
    """

    def __init__(self, network: ProvenanceNetwork, train: Examples) -> None:
        same_data(network, train)
        self.network, self.train = network, train
        self.range = range_of(some_pictures(train))
        if train.picture(0) is None:
            raise ArgumentError(
                "The provenance panel shows images, and these training examples are none. Leave `provenance` out."
            )
        self._named = min(_NAMED, int(network.index.sizes.max()) if network.conditional else len(train))

    def traced(self, targets: Examples, explanations: tuple[Explanation, ...]) -> tuple[Explanation, ...]:
        """Return explanations with what the network takes each target for."""
        if not explanations:
            return explanations
        inputs = self._inputs(targets, [one.index for one in explanations])
        found = retrieve(self.network, inputs, self._named)
        flat = inputs.flatten(1).double()
        near = nearest_examples(flat, self.train, self._named)
        return tuple(
            replace(one, traced=self._traced(found.isel(query=place), flat[place], near[place].tolist()))
            for place, one in enumerate(explanations)
        )

    def recognition(self, targets: Examples, ids: Sequence[int], explanations: tuple[Explanation, ...]) -> Recognition:
        """Return what the page shows of the network as a whole; ``ids`` are the targets to count answers of."""
        first = [one.traced.exemplars[0].index for one in explanations if one.traced is not None] or [0]
        itself = retrieve(self.network, self._inputs(self.train, first), 1)["exemplar"].values[:, 0]
        known = [one for one, found in zip(first, itself.tolist(), strict=True) if one == found]
        shown = (known or first)[0]
        return Recognition(self.verdict(targets, ids), shown, self._label(shown), self.slides(shown))

    def verdict(self, targets: Examples, ids: Sequence[int]) -> str:
        """Say how many targets are answered rightly, and how many training images are taken for themselves."""
        asked = spaced_ids(len(self.train), _ASKED)
        right = self._first(targets, ids, "predicted") == targets.labels[list(ids)].cpu().numpy()
        own = self._first(self.train, asked, "exemplar") == np.array(asked)
        return (
            f"The network answers {percent(right.mean())} of {count(len(right), 'target')} rightly, and takes "
            f"{percent(own.mean())} of {count(len(own), 'training image')} for themselves."
        )

    def slides(self, index: int) -> tuple[Slide, ...]:
        """Return one training image moved, turned, and made noisy, with what is retrieved for it."""
        own = self._inputs(self.train, [index])
        many, low = own.expand(_STEPS + 1, -1, -1, -1), self.range[0]
        share = torch.arange(_STEPS + 1) / _STEPS
        still, one = torch.zeros_like(share), torch.ones_like(share)
        moved = share * _SHIFT * min(own.shape[2:])
        turned, sigmas = share * _TURN, share * _NOISE
        noise = [GaussianNoise(float(sigma), *self.range) for sigma in sigmas]
        noisy = [
            one_of(own, torch.Generator().manual_seed(0)) for one_of in noise
        ]  # one pattern, stronger and stronger
        return (
            self._slide("shift", "Shift", index, warped(many, still, one, moved, moved, low), _said(moved, " px")),
            self._slide(
                "rotation", "Rotation", index, warped(many, turned, one, still, still, low), _said(turned, "°")
            ),
            self._slide("noise", "Noise", index, torch.cat(noisy), _said(sigmas, "", "σ = ")),
        )

    def _slide(self, key: str, name: str, index: int, views: Tensor, strengths: list[str]) -> Slide:
        found = retrieve(self.network, views, 1)
        steps = []
        for place, strength in enumerate(strengths):
            exemplar = self._exemplars(found.isel(query=place))[0]
            steps.append(Step(strength, self._drawn(views[place]), exemplar, exemplar.index == index))
        return Slide(f"slide-{key}", name, tuple(steps))

    def _traced(self, found: xr.Dataset, own: Tensor, near: list[int]) -> Traced:
        exemplars, sure = self._exemplars(found), float(found["class_confidence"])
        distances = (self._inputs(self.train, near).flatten(1).double() - own).norm(dim=1).tolist()
        nearest_ones = tuple(
            Exemplar(one, self._label(one), f"d {number(far, 2)}") for one, far in zip(near, distances, strict=True)
        )
        both = len({one.index for one in exemplars} & set(near))
        called = label_name(int(found["predicted"]), self.train.class_names)
        answer = f"It answers {called}" + (
            "." if math.isnan(sure) else f", with a confidence of {percent(math.exp(sure))}."
        )
        return Traced(answer, exemplars, nearest_ones, f"{both} of {len(exemplars)} are also named by the network.")

    def _exemplars(self, found: xr.Dataset) -> tuple[Exemplar, ...]:
        pairs = zip(found["exemplar"].values.tolist(), found["score"].values.tolist(), strict=True)
        return tuple(
            Exemplar(one, self._label(one), f"p {number(math.exp(score), 2)}") for one, score in pairs if one >= 0
        )

    def _label(self, index: int) -> str:
        return label_name(int(self.network.index.labels[index]), self.train.class_names)

    def _drawn(self, view: Tensor) -> str:
        low, high = self.range
        pixels = picture(((view - low) / (high - low) * 255).clamp(0, 255).round())
        if pixels is None:
            raise ArgumentError(f"Pictures with {view.shape[0]} channels cannot be shown. Leave `provenance` out.")
        return png(pixels)

    def _first(self, examples: Examples, ids: Sequence[int], name: str) -> Any:
        """Return what is retrieved first for some examples."""
        found = [retrieve(self.network, self._inputs(examples, part), 1)[name].values for part in _parts(ids)]
        return np.concatenate(found).reshape(len(ids), -1)[:, 0]

    def _inputs(self, examples: Examples, ids: Sequence[int]) -> Tensor:
        inputs: Tensor = examples.batch(list(ids))[0]
        return inputs


def shown_ids(recognition: Recognition | None, explanations: Sequence[Explanation]) -> set[int]:
    """Return the training images that the panel shows."""
    traced = [one.traced for one in explanations if one.traced is not None]
    found = {each.index for one in traced for each in (*one.exemplars, *one.nearest)}
    if recognition is not None:
        found |= {recognition.index, *(step.found.index for one in recognition.slides for step in one.steps)}
    return found


def _said(values: Tensor, unit: str, before: str = "") -> list[str]:
    return [f"{before}{number(one, 2)}{unit}" for one in values.tolist()]


def _parts(ids: Sequence[int]) -> list[Sequence[int]]:
    return [ids[start : start + 1024] for start in range(0, len(ids), 1024)]
