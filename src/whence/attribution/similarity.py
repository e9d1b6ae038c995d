"""Attributors that compare what a model, or the eye, sees of two examples: activations, or the inputs themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
import torch.nn.functional as F
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor, nn

from whence._errors import ArgumentError
from whence._numbers import even_parts, is_whole
from whence._progress import Advance, progress
from whence.attribution.parameters import check_layer
from whence.attribution.scores import label
from whence.attribution.trained import Trained
from whence.datasets import Examples, call_model
from whence.runs import to_device

_ROWS = 256  # examples that go through the model at once, at most
_CLOSE = 1e-4  # of both squared norms: a smaller squared distance has lost too many digits in their difference
Compare = Callable[[Float[Tensor, "targets width"], Float[Tensor, "train width"]], Float[Tensor, "targets train"]]


@final
@dataclass(frozen=True)
class RepresentationCos:
    """Cosine of a layer's activations (Hanawa et al., 2021, section 2).

    It sees no labels: a similar example counts as a help also if its label is another.

    Args:
        layer: Name of the layer whose output is compared, flattened; None is what the last layer gets.
    """

    layer: str | None = None

    def fit(self, trained: Trained, *, memory_budget: int = 2**29) -> FittedVectors:
        """Compute the training examples' activations; see `Attributor.fit`."""
        read = _activations(trained.model, self.layer)
        return FittedVectors(trained, read, _cosine, "representation cosine", "cosine", memory_budget)


@final
@dataclass(frozen=True)
class RepresentationDot:
    """Inner product of a layer's activations (Hanawa et al., 2021, section 2); as `RepresentationCos`.

    Args:
        layer: Name of the layer whose output is compared, flattened; None is what the last layer gets.
    """

    layer: str | None = None

    def fit(self, trained: Trained, *, memory_budget: int = 2**29) -> FittedVectors:
        """Compute the training examples' activations; see `Attributor.fit`."""
        read = _activations(trained.model, self.layer)
        return FittedVectors(trained, read, _dot, "representation dot", "products of activations", memory_budget)


@final
@dataclass(frozen=True)
class NearestNeighbours:
    """Minus the distance, of inputs or of a layer's activations; exact.

    It sees no labels, as `RepresentationCos`. Where only the nearest are asked for, `FittedVectors.nearest` never forms
    the matrix of all distances.

    Args:
        layer: Name of the layer whose output is compared, flattened; None compares the inputs.
        metric: ``"euclidean"``, or ``"cosine"`` for 1 - cosine.
    """

    layer: str | None = None
    metric: str = "euclidean"

    def fit(self, trained: Trained, *, memory_budget: int = 2**29) -> FittedVectors:
        """Read the training examples; see `Attributor.fit`.

        Raises:
            ArgumentError: If there is no such metric.
        """
        if self.metric not in _METRICS:
            raise ArgumentError(f"`metric` is {' or '.join(map(repr, _METRICS))}; got {self.metric!r}.")
        read = _inputs if self.layer is None else _activations(trained.model, self.layer)
        where = "of inputs" if self.layer is None else f"at {self.layer}"
        compare, unit = _METRICS[self.metric]
        return FittedVectors(trained, read, compare, f"nearest neighbours {where}", unit, memory_budget)


@final
class FittedVectors:
    """One vector per training example, kept where they fit the budget, compared with any targets'."""

    def __init__(
        self,
        trained: Trained,
        read: Callable[[Any], Tensor],
        compare: Compare,
        attributor: str,
        unit: str,
        memory_budget: int,
    ) -> None:
        self._trained, self._read, self._compare = trained, read, compare
        self._attributor, self._unit, self._budget = attributor, unit, memory_budget
        self._everything = range(len(trained.examples))
        one = self._vectors(trained.examples, range(1))
        self._row = one.numel() * one.itemsize
        self._kept: list[tuple[range, Tensor]] | None = None
        if self._row * len(self._everything) <= memory_budget // 2:
            self._kept = list(self._computed())

    def scores(self, targets: Examples, ids: Sequence[int]) -> xr.DataArray:
        """Compare every training example with some targets; see `Fitted.scores`."""
        found = torch.cat([torch.cat([one for _, one in row], 1) for row in self._compared(targets, ids)])
        name, unit = self._attributor, self._unit
        return label(found, list(ids), self._everything, attributor=name, unit=unit, helps=1)

    def nearest(self, targets: Examples, ids: Sequence[int], k: int) -> xr.Dataset:
        """Return the training examples with the highest scores, without holding the others' scores.

        Args:
            targets: The data that the targets are in.
            ids: Which of it.
            k: How many to return for each; all of them if there are fewer.

        Returns:
            ``train``, their ids, and ``score``, dims ``("target", "rank")``, best first; of equals the first.

        Raises:
            ArgumentError: If ``k`` is not a whole number, at least 1.
        """
        if not is_whole(k) or k < 1:
            raise ArgumentError(f"`k` is a whole number of examples, at least 1; got {k!r}.")
        found = [_best(row, k) for row in self._compared(targets, ids)]
        data = {
            name: (("target", "rank"), torch.cat(parts).cpu().numpy())
            for name, parts in zip(("score", "train"), zip(*found, strict=True), strict=True)
        }
        attrs = {"attributor": self._attributor, "unit": self._unit, "helps": 1}
        return xr.Dataset(data, {"target": list(ids)}, attrs)

    def _compared(self, targets: Examples, ids: Sequence[int]) -> Iterator[Iterator[tuple[range, Tensor]]]:
        """Yield, for each chunk of targets, its scores with each block of training examples."""
        parts = even_parts(range(len(ids)), self._budget // 4 // self._row)
        with progress("scoring", len(parts) * len(self._everything)) as advance:
            for part in parts:
                own = [self._vectors(targets, ids[some.start : some.stop]) for some in even_parts(part, self._rows)]
                yield self._row_of(torch.cat(own), advance)

    def _row_of(self, own: Tensor, advance: Advance) -> Iterator[tuple[range, Tensor]]:
        for there, vectors in self._blocks():
            yield there, self._compare(own, vectors)
            advance(len(there))

    @property
    def _rows(self) -> int:
        return max(1, min(_ROWS, self._budget // 8 // self._row))

    def _blocks(self) -> Iterator[tuple[range, Tensor]]:
        yield from self._computed() if self._kept is None else self._kept

    def _computed(self) -> Iterator[tuple[range, Tensor]]:
        for there in even_parts(self._everything, self._rows):
            yield there, self._vectors(self._trained.examples, there)

    def _vectors(self, examples: Examples, ids: Sequence[int]) -> Float[Tensor, "examples width"]:
        inputs, _ = examples.batch(ids)
        with torch.no_grad():
            return self._read(to_device(inputs, self._trained.device)).reshape(len(ids), -1)


def _inputs(inputs: Any) -> Tensor:
    """Return the inputs themselves.

    Raises:
        ArgumentError: If they are not one tensor.
    """
    if not isinstance(inputs, Tensor):
        raise ArgumentError(
            f"Inputs are a {type(inputs).__name__}, not one tensor, so they have no distance. Name a `layer`, whose "
            "outputs are compared instead."
        )
    return inputs if inputs.is_floating_point() else inputs.to(torch.float32)


def _activations(model: nn.Module, layer: str | None) -> Callable[[Any], Tensor]:
    """Return what reads a layer's output, or the input of the last layer with parameters.

    Raises:
        LabelError: If there is no such layer.
    """
    if layer is None:
        last = [one for one in model.modules() if any(True for _ in one.parameters(recurse=False))][-1]
        return partial(_seen, model, last, True)
    check_layer(model, layer)
    return partial(_seen, model, model.get_submodule(layer), False)


def _seen(model: nn.Module, module: nn.Module, entering: bool, inputs: Any) -> Tensor:
    """Call the model and return what entered or left a module.

    Raises:
        ArgumentError: If the module is not called, or its output is no tensor.
    """
    found: list[Any] = []

    def see(_module: nn.Module, args: Any, out: Any) -> None:
        found.append(args[0] if entering else out)

    handle = module.register_forward_hook(see)
    try:
        call_model(model, inputs)
    finally:
        handle.remove()
    if len(found) != 1 or not isinstance(found[0], Tensor):
        given = f"{len(found)} calls" if len(found) != 1 else f"an output of type {type(found[0]).__name__}"
        raise ArgumentError(
            f"The layer {type(module).__name__} must be called once with a tensor to compare; there were {given}. "
            "Name another layer."
        )
    return found[0]


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return left @ right.T


def _cosine(left: Tensor, right: Tensor) -> Tensor:
    return F.normalize(left, dim=1) @ F.normalize(right, dim=1).T


def _one_minus_cosine(left: Tensor, right: Tensor) -> Tensor:
    return _cosine(left, right) - 1


def _distance(left: Tensor, right: Tensor) -> Tensor:
    """Return minus Euclidean distances: by one matrix product in float64, and pairs too close for that one by one."""
    x, y = left.double(), right.double()
    centre = y.mean(0)
    x, y = x - centre, y - centre
    size = x.square().sum(1)[:, None] + y.square().sum(1)
    squared = torch.addmm(size, x, y.T, alpha=-2)
    close = (squared < _CLOSE * size).nonzero()
    for part in even_parts(range(len(close)), max(1, squared.numel() // x.shape[1])):
        i, j = close[part.start : part.stop].T
        squared[i, j] = (left[i] - right[j]).double().square().sum(1)
    return -squared.clamp_min_(0).sqrt_().to(left.dtype)


def _best(row: Iterator[tuple[range, Tensor]], k: int) -> tuple[Float[Tensor, "targets k"], Int[Tensor, "targets k"]]:
    """Return the highest scores of a chunk of targets and whose they are."""
    kept: tuple[list[Tensor], list[Tensor]] = ([], [])
    for there, found in row:
        numbers = torch.arange(there.start, there.stop, device=found.device).expand_as(found)
        scores, ids = torch.cat([*kept[0], found], 1), torch.cat([*kept[1], numbers], 1)
        order = scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
        kept = ([scores.gather(1, order)], [ids.gather(1, order)])
    return kept[0][0], kept[1][0]


_METRICS: dict[str, tuple[Compare, str]] = {
    "euclidean": (_distance, "minus distance"),
    "cosine": (_one_minus_cosine, "minus distance, 1 - cosine"),
}
