"""Indexes of vectors (faiss, the extra ``index``): which training examples may be among a target's nearest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from whence._errors import ArgumentError
from whence._extras import require
from whence._numbers import is_whole
from whence.attribution.measures import Measure

_SPARE = 16  # candidates beyond those that are asked for, so that rounding can be told from order
_MORE = 8  # roundings of a sum of products besides one for each entry
_LINK = 8  # bytes a link of a graph takes, with the room kept for it


@runtime_checkable
class Index(Protocol):
    """A way to find a target's nearest training examples without comparing it with each in full precision."""

    @property
    def exact(self) -> bool:
        """Whether it finds the same as comparing with every training example."""
        ...

    def bytes_of(self, width: int) -> int:
        """Return how much memory one training example takes."""
        ...

    def empty(self, width: int, inner: bool) -> Any:
        """Return an empty index of faiss.

        Args:
            width: Of the vectors.
            inner: Whether the largest inner products are wanted; otherwise the smallest distances.
        """
        ...

    def search(self, made: Any, vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return what `empty` gave, once filled, finds: inner products or squared distances, best first, and ids."""
        ...


@final
@dataclass(frozen=True)
class FlatIndex:
    """Every distance, by faiss in float32; what it finds is compared again in full, so the result is the exact one.

    Candidates are compared as without an index, and a target for which float32's rounding may have hidden a neighbour
    is compared with all training examples.
    """

    @property
    def exact(self) -> bool:
        """Yes."""
        return True

    def bytes_of(self, width: int) -> int:
        """Return how much memory one training example takes."""
        return 4 * width

    def empty(self, width: int, inner: bool) -> Any:
        """Return an empty index of faiss; see `Index.empty`.

        Raises:
            MissingExtraError: If faiss is not installed.
        """
        faiss = require("faiss", "index")
        return faiss.IndexFlatIP(width) if inner else faiss.IndexFlatL2(width)

    def search(self, made: Any, vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return what the filled index finds; see `Index.search`."""
        found: tuple[np.ndarray, np.ndarray] = made.search(vectors, count)
        return found


@final
@dataclass(frozen=True)
class HNSWIndex:
    """A graph of near vectors that a search walks (Malkov and Yashunin, 2018, by faiss): approximate.

    Scores are exact, but some of the nearest may be missing. Of the 10 nearest of 60,000 MNIST images it finds 99.7 %
    by default, 97.9 % with ``breadth=32`` (``benchmarks/results/neighbours.md``, with seconds and memory). Building
    takes about as long as one search of everything by `FlatIndex`; it pays where a fitted attributor is asked often.
    Built by several threads, the graph is another each time.

    Args:
        links: Of each vector in the graph: more are larger and find more.
        breadth: Vectors that a search keeps in view: more are slower and find more.
        building: The same while the graph is built.

    Raises:
        ArgumentError: If one of them is not a whole number, at least 1 (``links``: 2).
    """

    links: int = 16
    breadth: int = 128
    building: int = 40

    def __post_init__(self) -> None:
        for name, least in (("links", 2), ("breadth", 1), ("building", 1)):
            given = getattr(self, name)
            if not is_whole(given) or given < least:
                raise ArgumentError(f"`{name}` is a whole number, at least {least}; got {given!r}.")

    @property
    def exact(self) -> bool:
        """No."""
        return False

    def bytes_of(self, width: int) -> int:
        """Return how much memory one training example takes."""
        return 4 * width + 2 * _LINK * self.links

    def empty(self, width: int, inner: bool) -> Any:
        """Return an empty index of faiss; see `Index.empty`.

        Raises:
            MissingExtraError: If faiss is not installed.
        """
        faiss = require("faiss", "index")
        made = faiss.IndexHNSWFlat(width, self.links, faiss.METRIC_INNER_PRODUCT if inner else faiss.METRIC_L2)
        made.hnsw.efConstruction = self.building
        return made

    def search(self, made: Any, vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return what the filled index finds; see `Index.search`."""
        how = require("faiss", "index").SearchParametersHNSW(efSearch=max(self.breadth, count))
        found: tuple[np.ndarray, np.ndarray] = made.search(vectors, count, params=how)
        return found


def as_index(given: object) -> Index:
    """Return an index that a caller gave.

    Raises:
        ArgumentError: If it is none.
    """
    if isinstance(given, type) or not isinstance(given, Index):
        raise ArgumentError(f"`index` is None, FlatIndex() or HNSWIndex(...); got {given!r}.")
    return given


@final
class Lookup:
    """An index filled with the training examples.

    Args:
        index: Of which kind.
        measure: How vectors are compared.
        blocks: The training examples' vectors, in order.
    """

    def __init__(self, index: Index, measure: Measure, blocks: Iterable[Float[Tensor, "examples width"]]) -> None:
        self._index, self._measure = index, measure
        self._made: Any = None
        self._centre: Tensor | None = None
        self._longest = 0.0
        for block in blocks:
            ready = measure.ready(block)
            if self._made is None:
                self._made = index.empty(ready.shape[1], measure.inner)
                self._centre = None if measure.inner else ready.mean(0)
            single = self._single(ready)
            self._longest = max(self._longest, float(np.linalg.norm(single, axis=1).max()))
            self._made.add(single)

    def candidates(
        self, own: Float[Tensor, "targets width"], k: int
    ) -> tuple[Int[Tensor, "targets some"], Float[Tensor, " targets"]]:
        """Return the ids of training examples that may be among the k nearest, ascending, and what others keep to.

        Args:
            own: The targets' vectors.
            k: How many are wanted.

        Returns:
            Ids, -1 where the index found too few; and a bound for each target: any other training example's squared
            distance is at least that, or its inner product at most that, rounding counted in. Approximate indexes know
            no such bound, and give one that is always kept, unless they found too few.
        """
        single = self._single(self._measure.ready(own))
        count = min(k + _SPARE, self._made.ntotal)
        found, ids = self._index.search(self._made, single, count)
        sign = -1.0 if self._measure.inner else 1.0  # of infinity as a bound that is always kept
        bound = np.full(len(single), sign * np.inf)
        if self._index.exact and count < self._made.ntotal:
            length = np.linalg.norm(single.astype(np.float64), axis=1)
            size = length * self._longest if self._measure.inner else (length + self._longest) ** 2
            bound = found[:, -1] - sign * size * (single.shape[1] + _MORE) * np.finfo(np.float32).eps
        bound[(ids < 0).any(axis=1)] = -sign * np.inf
        return torch.from_numpy(np.sort(ids, axis=1)).to(own.device), torch.from_numpy(bound).to(own.device)

    def settled(self, scores: Float[Tensor, "targets k"], bound: Float[Tensor, " targets"]) -> Bool[Tensor, " targets"]:
        """Say for which targets no other training example can be among the nearest.

        Args:
            scores: Of the nearest candidates, best first.
            bound: As `candidates` gives it.
        """
        last = self._measure.ordered(scores[:, -1])
        return last > bound if self._measure.inner else last < bound

    def _single(self, ready: Tensor) -> np.ndarray:
        """Return vectors in float32, for distances around a centre, which costs no digits."""
        moved = ready if self._centre is None else ready - self._centre
        return np.ascontiguousarray(moved.detach().cpu().to(torch.float32).numpy())
