"""Numbers that tell whether two gradients are the same, or the same up to a factor and a bound."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar, final

import numpy as np
import torch
from torch import Tensor

TOLERANCE = 1e-5
"""Relative. The gradients are sums over a batch in float32, which other kernels or thread counts take in another order,
with errors of about eps·√n ≈ 2e-6 for n = 256. Another gradient, such as that with one other example in the batch,
differs by far more."""

Flat = TypeVar("Flat", np.ndarray, Tensor)

_SMALL = 1 << 17  # tensors of at most so many elements are joined and reduced together
_JOINED = 1 << 17  # elements after which no more are joined on a CPU: what is reduced stays in the cache
_JOINED_BEYOND = 1 << 22  # the same elsewhere, where each call has its price, and memory
_WIDTH = 1024  # of a row, into which gradients joined elsewhere are laid
_JOINABLE = frozenset({torch.float32, torch.float64})
_SQUARABLE = (1e-15, 1e15)  # largest values whose squares and sums float32 holds
_WORD = 1 << 32
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int32}  # by the bytes of an element


@final
@dataclass(frozen=True)
class GradientStatistics:
    """What is known of a gradient: norms, a sum, and a fingerprint.

    Attributes:
        l2: Euclidean norm.
        linf: Largest absolute value.
        l1: Sum of absolute values.
        total: Signed sum.
        fingerprint: Sum of the bits of all elements, read as whole numbers, modulo 2³².
    """

    l2: float
    linf: float
    l1: float
    total: float
    fingerprint: int

    def close(self, other: "GradientStatistics") -> bool:
        """Return whether all but the fingerprint agree within rounding, the sum relative to the norm l1."""
        return (
            _close(self.l2, other.l2, other.l2)
            and _close(self.linf, other.linf, other.linf)
            and _close(self.l1, other.l1, other.l1)
            and _close(self.total, other.total, other.l1)
        )

    def scaled(self, factor: float) -> "GradientStatistics":
        """Return the norms and the sum of the gradient times ``factor``; its fingerprint is not known."""
        return GradientStatistics(self.l2 * factor, self.linf * factor, self.l1 * factor, self.total * factor, 0)

    def same(self, other: "GradientStatistics") -> bool:
        """Return whether the two are of one gradient, bit by bit: sums may round otherwise in another process."""
        return self.fingerprint == other.fingerprint and self.linf == other.linf and self.close(other)


@final
@dataclass(frozen=True, eq=False)
class GradientTable:
    """The statistics of the gradient of each parameter.

    Attributes:
        names: The parameters.
        numbers: float64 (parameters, 5): l2, linf, l1, total and fingerprint of each.
    """

    names: tuple[str, ...]
    numbers: np.ndarray

    @cached_property
    def rows(self) -> Mapping[str, GradientStatistics]:
        """The statistics of each parameter's gradient, by name."""
        return {name: _statistics(row) for name, row in zip(self.names, self.numbers.tolist(), strict=True)}

    @cached_property
    def whole(self) -> GradientStatistics:
        """The statistics of all gradients as one vector."""
        if not self.names:
            return GradientStatistics(0.0, 0.0, 0.0, 0.0, 0)
        squares, (_, _, l1, total, bits) = np.square(self.numbers[:, 0]).sum(), self.numbers.sum(0)
        return _statistics([float(np.sqrt(squares)), self.numbers[:, 1].max(), l1, total, bits % _WORD])

    def only(self, name: str) -> "GradientTable":
        """Return the table of one parameter."""
        row = self.names.index(name)
        return GradientTable((name,), self.numbers[row : row + 1])

    def same(self, other: "GradientTable") -> bool:
        """Return whether the two are of the same gradients, bit by bit."""
        return self.names == other.names and all(self.rows[name].same(other.rows[name]) for name in self.names)

    def close(self, other: "GradientTable") -> bool:
        """Return whether each parameter's norms and sum agree within rounding."""
        return self.names == other.names and all(self.rows[name].close(other.rows[name]) for name in self.names)

    def near(self, other: "GradientTable") -> bool:
        """Return whether all together agree within rounding, and each parameter within rounding of all together.

        A gradient that is small beside the others', or nothing but rounding, is another where sums are taken in another
        order.
        """
        l2, linf, l1 = other.numbers[:, :3].T
        spread = np.divide(l1, l2, out=np.ones_like(l1), where=l2 > 0.0)  # at most √n, for n elements
        sizes = np.stack([l2, linf, l1, l1]) + other.whole.l2 * np.stack([np.ones_like(l2)] * 2 + [spread] * 2)
        missed = np.abs(self.numbers - other.numbers)[:, :4].T
        return self.whole.close(other.whole) and bool((missed <= TOLERANCE * sizes).all())

    def encode(self) -> bytes:
        """Return the numbers as bytes."""
        return self.numbers.astype("<f8", copy=False).tobytes()

    @classmethod
    def decode(cls, names: Sequence[str], content: bytes) -> "GradientTable":
        """Return the table whose numbers `encode` wrote."""
        return cls(tuple(names), np.frombuffer(content, dtype="<f8").reshape(len(names), 5))


def gradient_table(gradients: Mapping[str, Tensor]) -> GradientTable:
    """Measure gradients of any shapes.

    The same gradients give the same numbers, bit by bit; gradients that differ in their last bits differ in their
    fingerprints.
    """
    return GradientTable(tuple(gradients), _measured(gradients, 5, _reduce, _reduce_joined, measure_rows))


def are_measured(gradients: Mapping[str, Tensor], table: GradientTable) -> bool:
    """Return whether gradients are those of a table, by fingerprints, largest entries and sums: a third of measuring.

    A fingerprint alone does not tell: doubling 512 numbers, or turning the signs of two, adds a multiple of 2³² to it.
    """
    if tuple(gradients) != table.names:
        return False
    linf, total, bits = _measured(gradients, 3, _mark, _mark_joined, mark_rows).T
    exact = bool((bits == table.numbers[:, 4]).all()) and bool((linf == table.numbers[:, 1]).all())
    return exact and bool((np.abs(total - table.numbers[:, 3]) <= TOLERANCE * table.numbers[:, 2]).all())


def _measured(
    gradients: Mapping[str, Tensor],
    count: int,
    one: Callable[[Tensor], Tensor],
    joined: Callable[[list[np.ndarray]], np.ndarray],
    in_rows: Callable[[Tensor, np.ndarray], np.ndarray],
) -> np.ndarray:
    """Return ``count`` numbers of each gradient, float64: small ones joined, large ones each by itself."""
    numbers = np.zeros((len(gradients), count))
    small: dict[torch.dtype, list[tuple[int, np.ndarray]]] = {}
    beyond: dict[tuple[torch.dtype, torch.device], list[tuple[int, Tensor]]] = {}
    large: list[tuple[int, Tensor]] = []
    for row, gradient in enumerate(gradients.values()):
        elements = gradient.numel()
        if not elements:
            continue
        if elements > _SMALL or gradient.dtype not in _JOINABLE:
            large.append((row, one(gradient.detach().reshape(-1).contiguous())))
        elif gradient.is_cpu:
            small.setdefault(gradient.dtype, []).append((row, gradient.detach().numpy().reshape(-1)))
        else:
            flat = gradient.detach().reshape(-1)
            beyond.setdefault((gradient.dtype, gradient.device), []).append((row, flat))
    for arrays in small.values():
        for run in _joined(arrays, _JOINED):
            numbers[[row for row, _ in run]] = joined([flat for _, flat in run])
    for tensors in beyond.values():
        for part in _joined(tensors, _JOINED_BEYOND):
            numbers[[row for row, _ in part]] = in_rows(*laid_in_rows([flat for _, flat in part]))
    if large:
        numbers[[row for row, _ in large]] = torch.stack([found for _, found in large]).cpu().numpy()
    return numbers


def _reduce(flat: Tensor) -> Tensor:
    """Return l2, linf, l1, sum and fingerprint of a flat tensor, float64 (5,)."""
    linf, total, bits = _mark(flat)
    l2, l1 = (torch.linalg.vector_norm(flat, order, dtype=torch.float64) for order in (2, 1))
    return torch.stack([l2, linf, l1, total, bits])


def _mark(flat: Tensor) -> Tensor:
    """Return linf, sum and fingerprint of a flat tensor, float64 (3,)."""
    low, high = flat.aminmax()
    bits = flat.view(_BITS[flat.element_size()]).sum(dtype=torch.int64).remainder(_WORD)
    return torch.stack([torch.maximum(-low, high).double(), flat.sum(dtype=torch.float64), bits.double()])


def _joined(parts: list[tuple[int, Flat]], most: int) -> Iterator[list[tuple[int, Flat]]]:
    """Yield runs of flat arrays or tensors that are reduced together: no more once there are so many elements."""
    run: list[tuple[int, Flat]] = []
    length = 0
    for part in parts:
        run.append(part)
        length += len(part[1])
        if length >= most:
            yield run
            run, length = [], 0
    if run:
        yield run


def laid_in_rows(flats: list[Tensor]) -> tuple[Tensor, np.ndarray]:
    """Lay flat tensors into rows, each from a new one on, zeros behind it; return the rows, and where each begins."""
    zero = flats[0].new_zeros(1)
    lengths = [-(-len(flat) // _WIDTH) for flat in flats]
    parts = [(flat, zero.expand(rows * _WIDTH - len(flat))) for flat, rows in zip(flats, lengths, strict=True)]
    return torch.cat([tensor for part in parts for tensor in part]).view(-1, _WIDTH), np.cumsum([0, *lengths[:-1]])


def measure_rows(rows: Tensor, starts: np.ndarray) -> np.ndarray:
    """Do as `_reduce` for each of some tensors laid into rows, float64 (tensors, 5): a few calls for all of them."""
    l2, l1 = (torch.linalg.vector_norm(rows, order, 1, dtype=torch.float64) for order in (2, 1))
    *marks, squares, sizes = torch.stack([*_marks_of(rows), l2.square(), l1]).cpu().numpy()
    norms = np.sqrt(np.add.reduceat(squares, starts)), np.add.reduceat(sizes, starts)
    linf, total, bits = _whole(marks, starts)
    return np.stack([norms[0], linf, norms[1], total, bits], axis=1)


def mark_rows(rows: Tensor, starts: np.ndarray) -> np.ndarray:
    """Do as `_mark` for each of some tensors laid into rows, float64 (tensors, 3)."""
    return np.stack(_whole(list(torch.stack(_marks_of(rows)).cpu().numpy()), starts), axis=1)


def _marks_of(rows: Tensor) -> list[Tensor]:
    """Return linf, sum and sum of bits of each row, float64."""
    bits = rows.view(torch.int32).sum(1, dtype=torch.int64)  # of 1,024 numbers: exact as float64, too
    return [rows.abs().amax(1).double(), rows.sum(1, dtype=torch.float64), bits.double()]


def _whole(marks: list[np.ndarray], starts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return linf, sum and fingerprint of what begins at some rows."""
    linf, total, bits = marks
    return (
        np.maximum.reduceat(linf, starts),
        np.add.reduceat(total, starts),
        np.add.reduceat(bits, starts) % _WORD,
    )


def _reduce_joined(parts: list[np.ndarray]) -> np.ndarray:
    """Do as `_reduce` for each of some arrays that are not empty, float64 (arrays, 5).

    It works on one thread; waking other threads takes longer. The l1 norm is exact to float64, since the factor of a
    clipped gradient is found from it.
    """
    flat = np.concatenate(parts)
    starts = _starts(parts)
    bits = _fingerprints(flat, starts)
    with np.errstate(over="ignore", invalid="ignore"):  # of gradients that are not finite
        sizes = np.abs(flat)
        linf = np.maximum.reduceat(sizes, starts)
        if not (((linf >= _SQUARABLE[0]) & (linf <= _SQUARABLE[1])) | (linf == 0.0)).all():
            flat, sizes = flat.astype(np.float64), sizes.astype(np.float64)
        l1 = np.add.reduceat(sizes, starts, dtype=np.float64)
        total = np.add.reduceat(flat, starts)
        np.multiply(flat, flat, out=sizes)
        squares = np.add.reduceat(sizes, starts)
    return np.stack([np.sqrt(squares), linf, l1, total, bits], axis=1, dtype=np.float64)


def _mark_joined(parts: list[np.ndarray]) -> np.ndarray:
    """Do as `_mark` for each of some arrays that are not empty, float64 (arrays, 3)."""
    flat = np.concatenate(parts)
    starts = _starts(parts)
    with np.errstate(over="ignore", invalid="ignore"):  # of gradients that are not finite
        total = np.add.reduceat(flat, starts)
        linf = np.maximum(np.maximum.reduceat(flat, starts), -np.minimum.reduceat(flat, starts))
    return np.stack([linf, total, _fingerprints(flat, starts)], axis=1, dtype=np.float64)


def _starts(parts: list[np.ndarray]) -> np.ndarray:
    """Return where each of some arrays begins once they are joined."""
    return np.cumsum([0, *(len(part) for part in parts[:-1])])


def _fingerprints(flat: np.ndarray, starts: np.ndarray) -> np.ndarray:
    return np.add.reduceat(flat.view(np.int32), starts * (flat.itemsize // 4), dtype=np.int32).view(np.uint32)


def _statistics(row: Sequence[float]) -> GradientStatistics:
    l2, linf, l1, total, fingerprint = (float(number) for number in row)
    return GradientStatistics(l2, linf, l1, total, int(fingerprint))


def _close(found: float, wanted: float, size: float) -> bool:
    return found == wanted or abs(found - wanted) <= TOLERANCE * size
