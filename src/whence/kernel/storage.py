"""Path kernels in memory and on disk: written as they are found, taken up where they stopped."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any, cast, final

import numpy as np
import torch
import xarray as xr
import zarr
from torch import Tensor

from whence._errors import AuditError
from whence._files import disk_errors
from whence.audit.partial import read_tensors, write_tensors
from whence.audit.storage import open_group, with_plain_strings
from whence.audit.unfinished import begin_or_go_on, give_place, say_kept
from whence.kernel.blocks import Found
from whence.kernel.question import Work

FORMAT = 1
_CHUNK_BYTES = 4 * 2**20
_SAVE_EVERY = 30.0  # seconds between two savings of an unfinished chunk

Array = np.ndarray | zarr.Array[Any]


@final
class Sheet:
    """The arrays of a result: the kernel, in memory or on disk, and the squared norms of both sides.

    Args:
        work: What is computed.
        kernel: Where the kernel is written.
        norms: By name, squared norms found before; None starts at 0.
    """

    def __init__(self, work: Work, kernel: Array, norms: dict[str, np.ndarray] | None = None) -> None:
        self._work, self.kernel = work, kernel
        lengths = {"target_norm": len(work.ids), "other_norm": len(work.other_ids)}
        self.norms = norms or {
            name: np.zeros((length, *work.apart), dtype=kernel.dtype) for name, length in lengths.items()
        }

    def write(self, found: Found, chunk: range, time_: int) -> None:
        """Keep what a chunk gave at one state, or summed over all; by symmetry, also below the diagonal."""
        work, partners = self._work, self._work.partners(chunk)
        rows, columns = _slice(chunk), _slice(partners)
        place: tuple[int, ...] = (time_,) if "time" in work.by else ()
        products = self._last(found.products)
        _put(self.kernel, (rows, columns), place, products)
        _put(self.norms["target_norm"], (rows,), place, self._last(found.norms))
        if work.symmetric:
            below = slice(chunk.stop, partners.stop)
            if below.start < below.stop:
                _put(self.kernel, (below, rows), place, products[:, len(chunk) :].swapaxes(0, 1))
            self.norms["other_norm"] = self.norms["target_norm"].copy()
        elif chunk.start == 0:
            _put(self.norms["other_norm"], (columns,), place, self._last(found.other_norms))

    def variables(self) -> dict[str, tuple[tuple[str, ...], Any]]:
        """Return the norms as xarray's variables."""
        return {name: ((name.removesuffix("_norm"), *self._work.by), value) for name, value in self.norms.items()}

    def _last(self, values: Tensor) -> np.ndarray:
        """Put the layers last, or leave their one axis out."""
        found: np.ndarray = values.movedim(0, -1).cpu().numpy()
        return found if "layer" in self._work.by else found[..., 0]


@final
class Partial:
    """A folder beside the result's path: the growing kernel, and the chunk under way.

    Args:
        path: Where the finished kernel is to be.
        work: What is computed.

    Raises:
        AuditError: If an unfinished kernel there was begun with other arguments.
        DiskError: If the disk is full or refuses to write.
    """

    def __init__(self, path: Path, work: Work) -> None:
        self._path, self._work = path, work
        self._saved = time.monotonic()
        self._folder = begin_or_go_on(path, "kernel", _describe(work))
        with disk_errors(path):
            group = zarr.open_group(self._folder / "kernel.zarr", mode="a", zarr_format=3)
            kernel = _array_of(group, work)
        self._known = read_tensors(self._folder / "chunk.safetensors")
        norms = None
        if self._known is not None:
            norms = {name: self._known[0][name].numpy() for name in ("target_norm", "other_norm")}
        self.sheet = Sheet(work, kernel, norms)

    def __enter__(self) -> Partial:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave what is unfinished where it is, and say so."""
        say_kept(error, self._path)

    def resume(self, number: int, found: Found) -> int | None:
        """Bring a chunk's sums to where they were last saved.

        Returns:
            How many states are in them; None if the chunk is finished.
        """
        if self._known is None or self._known[1]["chunk"] < number:
            return 0
        tensors, facts = self._known
        if facts["chunk"] > number:
            return None
        if facts["states"] == 0:
            return 0
        for name in ("products", "norms", "other_norms"):
            getattr(found, name).copy_(tensors[name])
        return int(facts["states"])

    def save(self, number: int, states: int, found: Found, *, now: bool = False) -> None:
        """Keep a chunk that stands between two states, if the last time is long ago or it must be."""
        if not now and time.monotonic() - self._saved < _SAVE_EVERY:
            return
        tensors = {name: getattr(found, name) for name in ("products", "norms", "other_norms")}
        tensors |= {name: _tensor(one) for name, one in self.sheet.norms.items()}
        write_tensors(self._folder / "chunk.safetensors", tensors, {"chunk": number, "states": states})
        self._saved = time.monotonic()

    def finish(self, rest: xr.Dataset) -> xr.Dataset:
        """Add the rest to the kernel on disk, give the group its place, and open it.

        Raises:
            AuditError: If something appeared at the path meanwhile.
            DiskError: If the disk is full or refuses to write.
        """
        give_place(self._folder / "kernel.zarr", self._path, rest)
        return load_kernel(self._path)


def load_kernel(path: str | Path) -> xr.Dataset:
    """Open a kernel that `path_kernel` wrote; it stays on disk and is read row by row.

    Raises:
        AuditError: If there is no kernel at ``path``, or one of another format.
    """
    place = Path(path)
    data = open_group(place, "path kernel", "Give the path that whence.path_kernel wrote to.")
    if "kernel" not in data or data.attrs.get("format") != FORMAT:
        raise AuditError(
            f"{place} holds no path kernel of format {FORMAT}. Give the path that whence.path_kernel wrote to."
        )
    return with_plain_strings(data)


def empty(work: Work) -> np.ndarray:
    """Return zeros for a kernel in memory."""
    shape = (len(work.ids), len(work.other_ids), *work.apart)
    return np.zeros(shape, dtype=str(work.subject.dtype).removeprefix("torch."))


def _array_of(group: zarr.Group, work: Work) -> zarr.Array[Any]:
    """Return the kernel's array of a group, made if it is not there: one state and layer a chunk, of a few targets."""
    if "kernel" in group:
        return cast("zarr.Array[Any]", group["kernel"])
    targets, others = len(work.ids), len(work.other_ids)
    rows = max(1, min(targets, _CHUNK_BYTES // (others * work.subject.dtype.itemsize)))
    return group.create_array(
        "kernel",
        shape=(targets, others, *work.apart),
        chunks=(rows, others, *(1 for _ in work.by)),
        dtype=str(work.subject.dtype).removeprefix("torch."),
        dimension_names=("target", "other", *work.by),
        attributes={"unit": work.facts["unit"]},
    )


def _describe(work: Work) -> dict[str, Any]:
    subject = work.subject
    return {
        "run": subject.run.identity,
        "steps": subject.run.steps,
        "loss": subject.run.loss.name,
        "times": list(subject.steps),
        "layers": list(subject.names),
        "targets": work.targets.fingerprint,
        "others": None if work.symmetric else work.others.fingerprint,
        "ids": work.ids,
        "other_ids": work.other_ids,
        "by": list(work.by),
        **{name: work.facts[name] for name in ("precision", "preconditioner", "labels")},
        "chunks": [[chunk.start, chunk.stop] for chunk in work.chunks],
    }


def _put(array: Array, axes: tuple[slice, ...], place: tuple[int, ...], values: np.ndarray) -> None:
    """Write values whose axes are some examples and, it may be, the layers; at one time, where there is that axis."""
    index: Any = (*axes, *place, ...)
    array[index] = values


def _slice(part: range) -> slice:
    return slice(part.start, part.stop)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values))
