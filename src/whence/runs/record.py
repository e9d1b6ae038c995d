"""Begin to record a training, or go on with one."""

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer

from whence._errors import RunExistsError
from whence.datasets import as_examples
from whence.runs.cadence import Cadence
from whence.runs.layout import check_beginning, make_run, snapshots_of, table_path
from whence.runs.lock import RunLock
from whence.runs.loss import training_loss
from whence.runs.manifest import Manifest, describe
from whence.runs.private import check_copied
from whence.runs.randomness import RandomState
from whence.runs.recorder import Recorder, device_of
from whence.runs.resume import resume_training
from whence.runs.settings import check_optimizer
from whence.runs.snapshots import read_state
from whence.runs.steps import StepTable


@contextmanager
def record(
    path: str | PathLike[str],
    model: nn.Module,
    optimizer: Optimizer,
    train_data: Any,
    *,
    loss: Any,
    snapshot_every: int | Literal["auto"] = "auto",
    disk_budget: int = 2**30,
    resume: bool = False,
) -> Iterator[Recorder]:
    """Record the training inside the ``with`` block; the loop itself stays as it is.

    Take the batches from `Recorder.batches` or `Recorder.watch`; the rest is seen through hooks, which are
    gone at the end of the block, also after an error. On a CUDA device cuDNN's convolutions are deterministic until
    then, so that the training can be made again; for other operations see ``torch.use_deterministic_algorithms``.
    Killed at any moment, the run opens up to its last whole step.

    Args:
        path: A folder to be made.
        model: The module that the loop calls.
        optimizer: SGD, RMSprop, Adagrad, Adam or AdamW of ``torch.optim``, over parameters of ``model``.
        train_data: The training data; see `whence.datasets.as_examples`.
        loss: What the loop minimises: a torch loss function or module, a callable ``(outputs, labels)`` giving one
            loss per example (the loop takes their mean), or one giving their mean or sum.
        snapshot_every: Steps between snapshots; ``"auto"`` keeps writing them below 4 % of the time.
        disk_budget: Bytes that the snapshots may take; above it, every second one is given up.
        resume: Go on with the run at ``path``: model, optimizer and torch's random state are set to the run's last
            whole step, and steps are appended. ``recorder.epoch`` and ``recorder.step`` say where the loop goes on. A
            learning rate scheduler is the loop's own: bring it to ``recorder.step`` or ``recorder.epoch``. If there is
            no run yet, a new one begins.

    Yields:
        The recorder.

    Raises:
        RunExistsError: If something stands at ``path`` and ``resume`` is False, or another recorder is at work on the
            run there; nothing is touched.
        UnsupportedOptimizerError: If the optimizer or an option of it cannot be recorded.
        UnsupportedLossError: If the loss is not a mean or sum over examples.
        RandomDataError: If an example is another each time it is read.
        DataError: If the data cannot be read.
        RecordingError: If the model is of a kind that cannot be recorded, or the loop does something that cannot be,
            naming the step.
        ModelMismatchError: If the run to go on with is of another model or optimizer.
        ChangedDataError: If the run to go on with has other training data.
        ReplayError: If the run to go on with cannot be walked to its last step.
        DiskError: If the disk is full or refuses to write.
    """
    recorder = start_recording(
        path,
        model,
        optimizer,
        train_data,
        loss=loss,
        snapshot_every=snapshot_every,
        disk_budget=disk_budget,
        resume=resume,
    )
    try:
        yield recorder
    except BaseException:
        recorder.abandon()
        raise
    recorder.close()


def start_recording(
    path: str | PathLike[str],
    model: nn.Module,
    optimizer: Optimizer,
    train_data: Any,
    *,
    loss: Any,
    snapshot_every: int | Literal["auto"] = "auto",
    disk_budget: int = 2**30,
    resume: bool = False,
) -> Recorder:
    """Begin to record without a ``with`` block, for callbacks: call `Recorder.close` at the end.

    Arguments and errors are those of `record`.

    Returns:
        A recorder whose hooks are in place.

    Raises:
        RunExistsError: If something stands at ``path`` and ``resume`` is False, or another recorder is at work there.
    """
    folder = Path(path)
    if not resume and (folder.exists() or folder.is_symlink()):
        raise RunExistsError(_something_there(folder))
    check_optimizer(optimizer, model)
    examples = as_examples(train_data)
    found = training_loss(loss, model, examples)
    check_copied(model)
    cadence = Cadence(snapshots_of(folder), snapshot_every, disk_budget)
    if not Manifest.exists(folder):
        check_beginning(folder)
    lock = RunLock.take(folder)
    try:
        if Manifest.exists(folder):
            if not resume:  # made by another process just now
                raise RunExistsError(_something_there(folder))
            random = resume_training(folder, model, optimizer, examples, found)
        else:
            random = RandomState.read(device_of(model))
            make_run(folder, describe(model, optimizer, examples, found), read_state(model, optimizer, random))
        cadence.begin()
        table = StepTable.append_to(table_path(folder))
        return Recorder(model, optimizer, examples, table=table, cadence=cadence, random=random, lock=lock)
    except BaseException:
        if Manifest.exists(folder):
            lock.release()
        else:
            lock.discard()
        raise


def _something_there(folder: Path) -> str:
    return (
        f"There is something at {folder} already, and nothing of it was touched. Choose another path, "
        "go on with that run by resume=True, or delete it."
    )
