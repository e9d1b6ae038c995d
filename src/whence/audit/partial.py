"""An audit under way, kept on disk so that it can be taken up where it stopped."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from pathlib import Path
from types import TracebackType
from typing import Any, final

import safetensors.torch
import zarr
from safetensors import SafetensorError
from torch import Tensor

from whence._bytes import bytes_of
from whence._errors import AuditError
from whence._files import checksum, disk_errors, write_atomically
from whence.audit.adjoints import Adjoints
from whence.audit.chunks import Chunk, Work
from whence.audit.identity import identity_of
from whence.audit.result import Audit
from whence.audit.storage import DiskSink, load_audit
from whence.audit.targets import TargetPass
from whence.audit.unfinished import begin_or_go_on, give_place, say_kept
from whence.audit.walk import Tally, Walk, stand

_TALLY = tuple(one.name for one in dataclasses.fields(Tally))


@final
class Partial:
    """A folder beside the audit's path: the growing influences, finished chunks, and the walk under way.

    Args:
        path: Where the finished audit is to be.
        work: The audit.

    Raises:
        AuditError: If an unfinished audit there was begun with other arguments.
        DiskError: If the disk is full or refuses to write.
    """

    def __init__(self, path: Path, work: Work) -> None:
        self._path, self._work = path, work
        self._begun = time.monotonic()
        self._folder = begin_or_go_on(path, "audit", _describe(work))
        with disk_errors(path):
            self._before = float(clock.read_text()) if (clock := self._folder / "seconds").exists() else 0.0
            group = zarr.open_group(self._folder / "audit.zarr", mode="a", zarr_format=3)
            self.sink = DiskSink(group, work.grouping, work.rows, work.dtype_name, work.quantity.unit)

    def __enter__(self) -> Partial:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave what is unfinished where it is, and say so; where nothing was saved yet, leave nothing."""
        if error is not None and not any(self._folder.glob("*.safetensors")):
            shutil.rmtree(self._folder, ignore_errors=True)
        else:
            say_kept(error, self._path)

    def finished(self, number: int) -> Chunk | None:
        """Return what a finished chunk gave, or None if it is not finished."""
        found = read_tensors(self._folder / f"chunk-{number}.safetensors")
        if found is None:
            return None
        tensors, _ = found
        return Chunk(
            Tally(**{name: tensors[name] for name in _TALLY}), tensors["residuals"], tensors.get("predictions")
        )

    @property
    def seconds(self) -> float:
        """How long the audit has taken, interruptions left out."""
        return self._before + time.monotonic() - self._begun

    def keep(self, number: int, chunk: Chunk) -> None:
        """Keep what a finished chunk gave, and forget its walk."""
        tensors = {name: getattr(chunk.tally, name) for name in _TALLY} | {"residuals": chunk.residuals}
        if chunk.predictions is not None:
            tensors["predictions"] = chunk.predictions.cpu()
        write_tensors(self._folder / f"chunk-{number}.safetensors", tensors, {})
        (self._folder / "walk.safetensors").unlink(missing_ok=True)
        write_atomically(self._folder / "seconds", str(self.seconds).encode())

    def save(self, number: int, walk: Walk) -> None:
        """Keep a walk that stands between two segments."""
        tensors = {name: getattr(walk.tally, name) for name in _TALLY} | {"slab": walk.slab.values}
        tensors |= {f"buffer.{index}": one for index, one in enumerate(walk.adjoints.buffers)}
        tensors |= {f"parameter.{index}": one for index, one in enumerate(walk.adjoints.parameters or [])}
        facts = {
            "chunk": number,
            "next_segment": walk.next_segment,
            "moment": walk.moment,
            "pending": walk.adjoints.pending,
        }
        write_tensors(self._folder / "walk.safetensors", tensors, facts)
        write_atomically(self._folder / "seconds", str(self.seconds).encode())

    def resume(self, number: int, targets: TargetPass) -> Walk | None:
        """Return the walk of a chunk as it was last saved, or None if there is none."""
        found = read_tensors(self._folder / "walk.safetensors")
        if found is None or found[1]["chunk"] != number:
            return None
        tensors, facts = found
        walk = stand(self._work.run, targets, self._work.plan, self._work.grouping, facts["next_segment"])
        walk.moment = facts["moment"]
        walk.tally = Tally(**{name: tensors[name] for name in _TALLY}).to(walk.later.values.device)
        walk.slab.values.copy_(tensors["slab"])
        _restore(walk.adjoints, tensors, facts["pending"])
        return walk

    def finish(self, audit: Audit) -> Audit:
        """Add the rest to the influences on disk, give the group its place, and open it.

        Raises:
            AuditError: If something appeared at the path meanwhile.
            DiskError: If the disk is full or refuses to write.
        """
        give_place(self._folder / "audit.zarr", self._path, audit.data)
        return load_audit(self._path)


def _describe(work: Work) -> dict[str, Any]:
    plan = work.plan
    return {
        "run": _identity(work),
        "loss": work.run.loss.name,
        "steps": work.run.steps,
        "targets": work.examples.fingerprint,
        "ids": work.ids.tolist(),
        "quantity": [work.quantity.name, *(identity_of(one) for one in work.quantity.numbers)],
        "classes": list(work.quantity.classes or ()),
        "by": list(work.grouping.by),
        "quadrature": plan.rule.name,
        "tolerance": work.tolerance,
        "subsample": plan.subsample,
        "precision": work.precision,
        "chunks": [[chunk.start, chunk.stop] for chunk in work.chunks],
        "device": next(work.run.model.parameters()).device.type,
    }


def _identity(work: Work) -> str:
    """Return a checksum of the parameters at the end of the run: trainings that differ in anything end apart."""
    last = work.run.state_at(work.run.steps).parameters
    return checksum(b"".join(bytes_of(last[name]) for name in sorted(last)))


def _restore(adjoints: Adjoints, tensors: dict[str, Tensor], pending: dict[str, float]) -> None:
    for index, one in enumerate(adjoints.buffers):
        one.copy_(tensors[f"buffer.{index}"])
    if "parameter.0" in tensors:
        adjoints.hold_parameters()
    for index, one in enumerate(adjoints.parameters or []):
        one.copy_(tensors[f"parameter.{index}"])
    adjoints.pending = dict(pending)


def write_tensors(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write tensors and facts (JSON's types) to one file, whole or not at all."""
    plain = {name: one.detach().cpu().contiguous() for name, one in tensors.items()}
    write_atomically(
        path, lambda temporary: safetensors.torch.save_file(plain, temporary, {"facts": json.dumps(facts)})
    )


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return tensors and facts of a file, or None if there is none.

    Raises:
        AuditError: If the file is damaged.
    """
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            return tensors, json.loads(file.metadata()["facts"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise AuditError(f"{path} is damaged ({error}). Remove the folder {path.parent} to begin anew.") from error
