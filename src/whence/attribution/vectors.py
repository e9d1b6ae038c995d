"""One vector per training example, compared with those of any targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from whence._errors import ArgumentError, WhenceError
from whence._extras import installed
from whence._numbers import check_budget, even_parts, is_whole
from whence._progress import Advance, progress
from whence.attribution.indexes import FlatIndex, Index, Lookup, as_index
from whence.attribution.measures import Measure
from whence.attribution.scores import label
from whence.datasets import Examples
from whence.kernel.trained import Trained
from whence.runs import to_device

_ROWS = 256  # examples that go through the model at once, at most
_MANY = 10_000_000  # pairs of target and training example above which an index is worth its while
Nearest = tuple[Float[Tensor, "targets k"], Int[Tensor, "targets k"]]


@final
class FittedVectors:
    """One vector per training example, kept where they fit the budget, compared with any targets'."""

    def __init__(
        self,
        trained: Trained,
        read: Callable[[Any], Tensor],
        measure: Measure,
        attributor: str,
        unit: str,
        memory_budget: int,
    ) -> None:
        check_budget(memory_budget)
        self._trained, self._read, self._measure = trained, read, measure
        self._attributor, self._unit, self._budget = attributor, unit, memory_budget
        self._everything = range(len(trained.examples))
        self._lookups: dict[Index, Lookup] = {}
        one = self._vectors(trained.examples, range(1))
        self._row, self._width = one.numel() * one.itemsize, one.shape[1]
        self._kept: Tensor | None = None
        if self._row * len(self._everything) <= memory_budget // 2:
            kept = one.new_empty(len(self._everything), self._width)
            for there, vectors in self._computed():
                kept[there.start : there.stop] = vectors
            self._kept = kept

    def scores(self, targets: Examples, ids: Sequence[int]) -> xr.DataArray:
        """Compare every training example with some targets; see `Fitted.scores`.

        Raises:
            ArgumentError: If the targets' inputs are not such as the training examples'.
        """
        self._check_targets(targets, ids)
        found = torch.cat([torch.cat([one for _, one in row], 1) for row in self._compared(targets, ids)])
        name, unit = self._attributor, self._unit
        return label(found, list(ids), self._everything, attributor=name, unit=unit, helps=1)

    def nearest(self, targets: Examples, ids: Sequence[int], k: int, *, index: Index | None = None) -> xr.Dataset:
        """Return the training examples with the highest scores, without holding the others' scores.

        Args:
            targets: The data that the targets are in.
            ids: Which of it.
            k: How many to return for each; all of them if there are fewer.
            index: `FlatIndex` or `HNSWIndex` (extra ``index``), built once and kept for later calls. None compares
                every pair here; beyond ten million pairs on the CPU, by `FlatIndex`, whose result is the same, where
                the extra is installed and the budget allows.

        Returns:
            ``train``, their ids, and ``score``, dims ``("target", "rank")``, best first; of equals the first.
            ``attrs["index"]`` says which was used.

        Raises:
            ArgumentError: If ``k`` is not a whole number, at least 1, the index is none or does not fit the budget, or
                the targets' inputs are not such as the training examples'.
            MissingExtraError: If an index is asked for and faiss is not installed.
        """
        if not is_whole(k) or k < 1:
            raise ArgumentError(f"`k` is a whole number of examples, at least 1; got {k!r}.")
        self._check_targets(targets, ids)
        used = self._index_for(len(ids)) if index is None else self._checked(index)
        if used is None:
            found = [_best(row, k) for row in self._compared(targets, ids)]
        else:
            found = list(self._looked_up(targets, ids, min(k, len(self._everything)), used))
        data = {
            name: (("target", "rank"), torch.cat(parts).cpu().numpy())
            for name, parts in zip(("score", "train"), zip(*found, strict=True), strict=True)
        }
        attrs = {"attributor": self._attributor, "unit": self._unit, "helps": 1, "index": repr(used)}
        return xr.Dataset(data, {"target": list(ids)}, attrs)

    def _index_for(self, targets: int) -> Index | None:
        """Return the index that gives the same result sooner, if there is one."""
        index = FlatIndex()
        many = targets * len(self._everything) > _MANY and self._trained.device.type == "cpu"
        return index if many and self._size(index) <= self._budget * 3 // 4 and installed("faiss") else None

    def _size(self, index: Index) -> int:
        """Return how many bytes the vectors that are kept take, with those of an index."""
        kept = 0 if self._kept is None else self._row
        return (kept + index.bytes_of(self._width)) * len(self._everything)

    def _checked(self, index: Index) -> Index:
        """Return an index that a caller gave.

        Raises:
            ArgumentError: If it is none, or does not fit the budget.
        """
        size = self._size(as_index(index))
        if size > self._budget * 3 // 4:
            raise ArgumentError(
                f"{type(index).__name__} and the vectors of {len(self._everything):,} training examples take "
                f"{size / 2**20:,.1f} MiB, more than three quarters of the memory budget of "
                f"{self._budget / 2**20:,.1f} MiB. Raise `memory_budget` of `fit`, or leave `index` out."
            )
        return index

    def _looked_up(self, targets: Examples, ids: Sequence[int], k: int, index: Index) -> Iterator[Nearest]:
        """Yield the nearest of each chunk of targets, by an index."""
        if index not in self._lookups:
            with progress("indexing", len(self._everything)) as advance:
                self._lookups[index] = Lookup(index, self._measure, (one for _, one in self._blocks(advance)))
        with progress("searching", len(ids)) as advance:
            for part in even_parts(range(len(ids)), self._rows):
                own = self._vectors(targets, ids[part.start : part.stop])
                scores, train = self._refined(own, k, self._lookups[index])
                advance(len(part))
                yield scores, train

    def _refined(self, own: Tensor, k: int, lookup: Lookup) -> Nearest:
        """Return the nearest: candidates compared in full; all training examples, where candidates may not do."""
        candidates, bound = lookup.candidates(own, k)
        found, each = [], candidates.shape[1] * self._width * torch.float64.itemsize
        for part in even_parts(range(len(own)), self._budget // 8 // each):
            rows = slice(part.start, part.stop)
            there = self._rows_at(candidates[rows].clamp(min=0))
            found.append(self._measure.pairs(own[rows], there))
        scores, order = torch.cat(found).sort(dim=1, descending=True, stable=True)
        scores, train = scores[:, :k], candidates.gather(1, order[:, :k])
        open_ = (~lookup.settled(scores, bound)).nonzero().squeeze(1)
        if len(open_):
            scores[open_], train[open_] = _best(self._row_of(own[open_], lambda _: None), k)
        return scores, train

    def _rows_at(self, ids: Int[Tensor, "targets some"]) -> Float[Tensor, "targets some width"]:
        """Return the vectors of training examples."""
        if self._kept is not None:
            return self._kept[ids]
        unique, place = ids.unique(return_inverse=True)
        parts = even_parts(range(len(unique)), self._rows)
        vectors = [self._vectors(self._trained.examples, unique[one.start : one.stop].tolist()) for one in parts]
        return torch.cat(vectors)[place]

    def _compared(self, targets: Examples, ids: Sequence[int]) -> Iterator[Iterator[tuple[range, Tensor]]]:
        """Yield, for each chunk of targets, its scores with each block of training examples."""
        parts = even_parts(range(len(ids)), self._budget // 4 // self._row)
        with progress("scoring", len(parts) * len(self._everything)) as advance:
            for part in parts:
                own = [self._vectors(targets, ids[some.start : some.stop]) for some in even_parts(part, self._rows)]
                yield self._row_of(torch.cat(own), advance)

    def _row_of(self, own: Tensor, advance: Advance) -> Iterator[tuple[range, Tensor]]:
        for there, vectors in self._blocks(advance):
            yield there, self._measure.matrix(own, vectors)

    @property
    def _rows(self) -> int:
        return max(1, min(_ROWS, self._budget // 8 // self._row))

    def _blocks(self, advance: Advance) -> Iterator[tuple[range, Tensor]]:
        """Yield the training examples' vectors, block by block."""
        for there, vectors in self._computed() if self._kept is None else self._parts_of(self._kept):
            yield there, vectors
            advance(len(there))

    def _parts_of(self, kept: Tensor) -> Iterator[tuple[range, Tensor]]:
        for there in even_parts(self._everything, self._rows):
            yield there, kept[there.start : there.stop]

    def _computed(self) -> Iterator[tuple[range, Tensor]]:
        for there in even_parts(self._everything, self._rows):
            yield there, self._vectors(self._trained.examples, there)

    def _check_targets(self, targets: Examples, ids: Sequence[int]) -> None:
        """Refuse, by the first one, targets whose vectors are not of the training examples' length.

        Raises:
            ArgumentError: If they are not, or the model cannot be called with them.
            WhenceError: As it came, where the method itself refuses their kind.
        """
        first = list(ids)[:1]
        inputs, _ = targets.batch(first)
        why = ""
        try:
            width = self._vectors(targets, first).shape[1]
        except WhenceError:
            raise
        except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            width, why = -1, str(error)
        if width != self._width:
            shape = f"of shape {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else f"a {type(inputs).__name__}"
            raise ArgumentError(
                f"The target's inputs, {shape}, cannot be compared with the training examples': "
                f"{why or f'they give {width} numbers, not {self._width}'}. Give targets of the shape and type of the "
                "training data."
            )

    def _vectors(self, examples: Examples, ids: Sequence[int]) -> Float[Tensor, "examples width"]:
        inputs, _ = examples.batch(ids)
        with torch.no_grad():
            return self._read(to_device(inputs, self._trained.device)).reshape(len(ids), -1)


def _best(row: Iterator[tuple[range, Tensor]], k: int) -> Nearest:
    """Return the highest scores of a chunk of targets and whose they are."""
    kept: tuple[list[Tensor], list[Tensor]] = ([], [])
    for there, found in row:
        numbers = torch.arange(there.start, there.stop, device=found.device).expand_as(found)
        scores, ids = torch.cat([*kept[0], found], 1), torch.cat([*kept[1], numbers], 1)
        order = scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
        kept = ([scores.gather(1, order)], [ids.gather(1, order)])
    return kept[0][0], kept[1][0]
