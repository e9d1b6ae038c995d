"""Insertion and deletion on the training image: do the pixels that a map marks matter for the target?"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whence._errors import ArgumentError, ShapeError
from whence._numbers import check_seed, even_parts, is_number
from whence._progress import progress
from whence._statistics import Interval, mean_interval, normal_interval
from whence.attribution import Trained, parameters_of
from whence.datasets import Examples, as_examples
from whence.evaluation.inputs import as_images, as_maps, as_percents, named
from whence.evaluation.masks import blob_maps, masked, random_maps, top_pixels
from whence.evaluation.table import Table, Tables, table_of
from whence.gradients import capture
from whence.regions import Pairs, as_pairs

KEEP = (10, 20, 30, 40, 50, 60, 70, 100)
_RANDOM, _BLOBS = "random pixels", "random blobs"
_ROWS = 32
_MEASURES = ("cosine", "unit step", "published")


@final
@dataclass(frozen=True)
class Intervention:
    """What is done with the training image and the model.

    Attributes:
        rate: Learning rate of the raw step, of the protocol as published; above 0.
        length: Length of the corrected step, whatever the gradient's norm, in units of the parameters; above 0.
        fill: What removed pixels become, (channels, height, width) or broadcast to it; None = the mean of ``images``.
        seed: Of the random controls.

    Raises:
        ArgumentError: If a rate, length or seed is outside what is listed.
    """

    rate: float = 0.01
    length: float = 0.1
    fill: Tensor | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rate", "length"):
            given = getattr(self, name)
            if not is_number(given) or given <= 0:
                raise ArgumentError(f"`{name}` of a step is a number above 0; got {given!r}.")
        check_seed(self.seed)


def insertion(
    trained: Trained,
    targets: Any,
    pairs: Pairs,
    maps: Any | Mapping[str, Any],
    *,
    images: Any = None,
    keep: Sequence[float] = KEEP,
    intervention: Intervention | None = None,
) -> Tables:
    """Keep a map's highest pixels of a training image, take one step on it, and look at the target (TFA, section 4.3).

    Everything is the difference to keeping as many random pixels, for the same pair. ``published`` is the paper's
    protocol: change of the target's loss after a plain gradient step of fixed rate, with a normal interval over pairs.
    That change grows with the masked image's gradient norm, which a map of any kind can raise; so ``unit step`` takes a
    step of fixed length, and ``cosine`` asks how the masked image's gradient points along the target's. Their intervals
    are a bootstrap over targets, as pairs of one target go together. All pixels kept give exactly 0.

    Args:
        trained: The trained model, its data and loss (`whence.attribution.as_trained`).
        targets: The data of the targets: anything `as_examples` takes.
        pairs: (target id, training id) of each map, as `whence.regions.top_pairs` gives. In the paper: the most helpful
            images of a pool that was not trained on, for each of some random test images.
        maps: One map a pair, (pairs, height, width), as `whence.regions.region_map` gives: higher = more important; or
            several kinds, by name.
        images: The data of the training images; that of ``trained`` by default.
        keep: Percent of the pixels to keep.
        intervention: Steps, fill and seed; see `Intervention`.

    Returns:
        Tables ``cosine`` (more = better), ``unit step`` and ``published`` (nats or units of loss; less = better), a row
        each of ``keep``, a column a kind of map, and one of smoothed random blobs.

    Raises:
        ArgumentError: If pairs are none, maps are not finite or named as a control, or a percentage is none.
        ShapeError: If images, maps or what fills them have another shape.
        LabelError: If an id is none of the data.
        GradientError: If per-example gradients of the model cannot be formed.
    """
    given = (trained, as_examples(targets), trained.examples if images is None else as_examples(images), pairs, maps)
    return _evaluated(*given, keep, intervention or Intervention(), "Insertion", lambda pixels: pixels)


def deletion(
    trained: Trained,
    targets: Any,
    pairs: Pairs,
    maps: Any | Mapping[str, Any],
    *,
    images: Any = None,
    keep: Sequence[float] = KEEP,
    intervention: Intervention | None = None,
) -> Tables:
    """Remove a map's highest pixels instead of keeping them; else as `insertion`, and good maps have the other sign.

    Args:
        trained, targets, pairs, maps, images, intervention: As in `insertion`.
        keep: Percent of the pixels to remove.

    Raises:
        ArgumentError: If pairs are none, maps are not finite or named as a control, or a percentage is none.
        ShapeError: If images, maps or what fills them have another shape.
        LabelError: If an id is none of the data.
        GradientError: If per-example gradients of the model cannot be formed.
    """
    given = (trained, as_examples(targets), trained.examples if images is None else as_examples(images), pairs, maps)
    return _evaluated(*given, keep, intervention or Intervention(), "Deletion", np.logical_not)


def _evaluated(
    trained: Trained,
    targets: Examples,
    images: Examples,
    pairs: Pairs,
    maps: Any,
    *rest: Any,
) -> Tables:
    keep, how, title, kept = as_percents(rest[0], "keep"), *rest[1:]
    ids = as_pairs(pairs, len(targets), len(images)).tolist()
    inputs, _ = as_images(images, ids[0][1:])
    kinds = {
        name: as_maps(one, len(ids), (int(inputs.shape[2]), int(inputs.shape[3])))
        for name, one in named(maps, "map").items()
    }
    if clash := {_RANDOM, _BLOBS} & set(kinds):
        raise ArgumentError(f"{sorted(clash)[0]!r} is the name of a control. Give your map another name.")
    shape = next(iter(kinds.values())).shape
    kinds |= {_BLOBS: blob_maps(shape, how.seed), _RANDOM: random_maps(shape, how.seed)}
    fill = as_images(images)[0].mean(0) if how.fill is None else fitting_fill(how.fill, inputs)
    found = np.zeros((len(_MEASURES), len(keep), len(kinds), len(ids)))
    probe = _Probe(trained, how)
    with progress(title.lower(), found[0].size) as advance:
        for part in even_parts(range(len(ids)), _ROWS):
            rows = slice(part.start, part.stop)
            batch = as_images(images, [one for _, one in ids[rows]])
            aims = _Aims.of(probe, targets, [one for one, _ in ids[rows]])
            for place, percent in enumerate(keep):
                for at, kind in enumerate(kinds.values()):
                    pixels = kept(top_pixels(kind[rows], percent))
                    found[:, place, at, rows] = probe.effects(masked(batch[0], pixels, fill), batch[1], aims)
                    advance(len(part))
    return _tables(found, list(kinds), keep, [one for one, _ in ids], title)


def _tables(found: NDArray[np.float64], names: list[str], keep: Sequence[float], of: list[int], title: str) -> Tables:
    gaps, clusters = found[:, :, :-1] - found[:, :, -1:], np.array(of)
    told = {
        "cosine": "change of the gradients' cosine",
        "unit step": "change of the target's loss, step of fixed length",
        "published": "change of the target's loss, raw step",
    }
    intervals: dict[str, Callable[[NDArray[np.float64]], Interval]] = {
        "cosine": lambda values: mean_interval(values, clusters),
        "unit step": lambda values: mean_interval(values, clusters),
        "published": normal_interval,
    }
    tables: dict[str, Table] = {}
    for values, (name, measure) in zip(gaps, told.items(), strict=True):
        tables[name] = table_of(
            [[intervals[name](one) for one in row] for row in values],
            ("percent", list(keep)),
            ("map", names[:-1]),
            title=f"{title}, {len(of)} pairs of {len(set(of))} targets",
            measure=f"{measure}, less that of random pixels",
            interval="normal, over pairs" if name == "published" else "bootstrap over targets",
            references={"random pixels": 0.0},
        )
    return Tables(tables)


def fitting_fill(fill: Any, images: Tensor) -> Tensor:
    """Return what removed pixels become.

    Args:
        fill: What was given.
        images: Some of the images.

    Raises:
        ShapeError: If it cannot be broadcast to an image.
    """
    shape = tuple(images.shape[1:])
    if isinstance(fill, Tensor):
        with contextlib.suppress(RuntimeError):
            return fill.expand(shape)
    given = tuple(fill.shape) if isinstance(fill, Tensor) else type(fill).__name__
    raise ShapeError(f"`fill` is a tensor that can be broadcast to an image, {shape}; got {given}.")


@final
@dataclass(frozen=True)
class _Aims:
    """The targets of some pairs: inputs, labels, gradients of their losses, and losses."""

    inputs: Tensor
    labels: Tensor
    gradients: Tensor
    losses: NDArray[np.float64]

    @classmethod
    def of(cls, probe: _Probe, targets: Examples, ids: Sequence[int]) -> _Aims:
        inputs, labels = as_images(targets, ids)
        gradients, losses = probe.gradients(inputs, labels)
        return cls(inputs, labels, gradients, losses)


@final
class _Probe:
    """A private copy of the model: gradients of single images, and what a step along one does to a target.

    Parameters that were not trained stay where they are.
    """

    def __init__(self, trained: Trained, how: Intervention) -> None:
        self._model = copy.deepcopy(trained.model).eval().requires_grad_(False)
        self._loss, self._how = trained.loss, how
        live = dict(self._model.named_parameters())
        self._parameters = {name: live[name].detach() for name in parameters_of(trained, "all")}
        for name in self._parameters:
            live[name].requires_grad_(True)
        self._device = next(iter(self._parameters.values())).device

    def gradients(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, NDArray[np.float64]]:
        """Return the gradient of each example's loss, (rows, parameters), and the losses."""
        with torch.enable_grad(), capture(self._model, list(self._parameters)) as captured:
            losses = self._loss.per_example(self._model(inputs.to(self._device)), labels.to(self._device))
            losses.sum().backward()
        self._model.zero_grad(set_to_none=True)
        found = captured.gradients()
        parts = [
            found[name].part(0, found[name].shape[0]).reshape(len(inputs), -1)
            if name in found
            else one.new_zeros(len(inputs), one.numel())
            for name, one in self._parameters.items()
        ]
        return torch.cat(parts, 1), losses.detach().double().cpu().numpy()

    def effects(self, images: Tensor, labels: Tensor, aims: _Aims) -> NDArray[np.float64]:
        """Return cosine, change by the step of fixed length and by the raw step, (3, rows)."""
        ours, _ = self.gradients(images, labels)
        norms = ours.norm(dim=1)
        safe = torch.where(norms > 0, norms, torch.ones_like(norms))  # no gradient: no direction, no step
        lengths = aims.gradients.norm(dim=1)
        cosine = (ours * aims.gradients).sum(1) / (safe * torch.where(lengths > 0, lengths, torch.ones_like(lengths)))
        steps = (ours * (self._how.length / safe).unsqueeze(1), ours * self._how.rate)
        changes = [np.array(list(self._after(step, aims))) - aims.losses for step in steps]
        return np.stack([cosine.double().cpu().numpy(), *changes])

    def _after(self, steps: Tensor, aims: _Aims) -> Iterator[float]:
        """Yield the loss of each target after its step."""
        sizes = [one.numel() for one in self._parameters.values()]
        for row, step in enumerate(steps):
            parts = zip(self._parameters.items(), step.split(sizes), strict=True)
            moved = {name: one - part.reshape(one.shape) for (name, one), part in parts}
            inputs, labels = (one[row : row + 1].to(self._device) for one in (aims.inputs, aims.labels))
            with torch.no_grad():
                outputs = torch.func.functional_call(self._model, moved, (inputs,))
                yield float(self._loss.per_example(outputs, labels))
