"""A counterfactual under way, kept on disk so that it can be taken up where it stopped."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import final

from whence._files import disk_errors, write_atomically
from whence.audit.identity import identity_of
from whence.audit.partial import read_tensors, write_tensors
from whence.audit.unfinished import begin_or_go_on
from whence.counterfactual.question import Question
from whence.counterfactual.steps import Form
from whence.counterfactual.walk import Sensitivities, Walk
from whence.runs import Run

_SAVE_EVERY = 30.0  # seconds


@final
class Partial:
    """A folder beside the result's path, with one file a chunk of targets: the walk as it was last saved.

    Args:
        path: Where the finished result is to be.
        run: The run.
        question: What is asked.
        form: How it is computed.
        held_out: Into how many parts the training data were split, 0 for none.

    Attributes:
        folder: That folder.

    Raises:
        AuditError: If what is there was begun with other arguments.
        DiskError: If the disk is full or refuses to write.
    """

    def __init__(self, path: Path, run: Run, question: Question, form: Form, held_out: int = 0) -> None:
        self.path = path
        self._run = run
        self._begun = self._saved = time.monotonic()
        ours = {
            "run": run.identity,
            "steps": run.steps,
            "loss": identity_of(run.loss),
            "targets": question.examples.fingerprint,
            "ids": question.rows.tolist(),
            "members": question.members.tolist(),
            "quantity": [question.quantity.name, *(identity_of(one) for one in question.quantity.numbers)],
            "precision": str(form.dtype),
            "smoothing": form.smoothing,
            "held_out": held_out,
        }
        self.folder = begin_or_go_on(path, "counterfactual", ours, file="question.json")
        with disk_errors(path):
            seconds = self.folder / "seconds"
            self.before = float(seconds.read_text()) if seconds.exists() else 0.0

    def __enter__(self) -> Partial:
        """Return itself."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Leave what is unfinished where it is; where nothing was saved yet, leave nothing."""
        if error is not None and not any(self.folder.glob("*.safetensors")):
            self.remove()

    def resume(self, chunk: range, walk: Walk) -> int:
        """Bring a walk to where it was last saved; return how many steps that is from the end of the run."""
        found = read_tensors(self._file(chunk))
        if found is None:
            return 0
        tensors, facts = found
        walk.next_segment = facts["next_segment"]
        walk.effects.copy_(tensors.pop("effects"))
        owed = Sensitivities({}, {}, {}, {})
        for key, tensor in tensors.items():
            kind, moment, name = key.split("|", 2)  # names may hold one
            here = tensor.to(walk.effects.device)
            if kind == "parameter":
                owed.parameters[name] = here
            elif kind == "buffer":
                owed.buffers[name] = here
            elif kind == "average":
                owed.averages[name] = here
            else:
                owed.moments.setdefault(name, {})[moment] = here
        walk.owed = owed
        segments = self._run.segments()
        return self._run.steps - (segments[walk.next_segment].stop if walk.next_segment >= 0 else 0)

    def save(self, chunk: range, walk: Walk) -> None:
        """Keep a walk that stands between two segments, if the last time is long ago or it has ended."""
        if walk.next_segment >= 0 and time.monotonic() - self._saved < _SAVE_EVERY:
            return
        tensors = {"effects": walk.effects}
        tensors |= {f"parameter||{name}": one for name, one in walk.owed.parameters.items()}
        tensors |= {f"buffer||{name}": one for name, one in walk.owed.buffers.items()}
        tensors |= {f"average||{name}": one for name, one in walk.owed.averages.items()}
        for name, moments in walk.owed.moments.items():
            tensors |= {f"moment|{moment}|{name}": one for moment, one in moments.items()}
        write_tensors(self._file(chunk), tensors, {"next_segment": walk.next_segment})
        self._saved = time.monotonic()
        write_atomically(self.folder / "seconds", str(self.before + self._saved - self._begun).encode())

    def remove(self) -> None:
        """Remove what was kept, once the result is in its place."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, chunk: range) -> Path:
        return self.folder / f"targets-{chunk.start}-{chunk.stop}.safetensors"
