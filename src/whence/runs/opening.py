"""Open a recorded run."""

from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from whence._errors import ArgumentError
from whence.datasets import as_examples
from whence.runs.loss import training_loss
from whence.runs.manifest import Manifest, check_data, check_model
from whence.runs.private import private_copy
from whence.runs.run import Run


def open_run(path: str | PathLike[str], model: nn.Module, train_data: Any, *, loss: Any) -> Run:
    """Open a recorded run.

    Args:
        path: The folder that `record` made.
        model: A model built as the recorded one; its values do not matter, and it is not changed.
        train_data: The training data; see `whence.datasets.as_examples`.
        loss: The loss of the training, as given to `record`.

    Raises:
        RunNotFoundError: If there is no run at ``path``.
        RunFormatError: If a file of it cannot be read.
        ModelMismatchError: If the model has other parameters or buffers; the differences are listed.
        ArgumentError: If the model cannot be copied.
        ChangedDataError: If the data is not that of the run.
        UnsupportedLossError: If the loss is not a mean or sum over examples.
    """
    folder = Path(path)
    manifest = Manifest.load(folder)
    check_model(manifest, model)
    examples = as_examples(train_data)
    check_data(manifest, examples)
    private = private_copy(model)
    return Run(folder, manifest, private, examples, training_loss(loss, private, examples))


def check_run(run: Any, what: str) -> None:
    """Refuse what is no recorded run.

    Args:
        run: What was given.
        what: What needs the run, for the message.

    Raises:
        ArgumentError: If it is none.
    """
    if not isinstance(run, Run):
        raise ArgumentError(
            f"{what} needs a recorded run; got {type(run).__name__}. Record the training (whence.record), open the run "
            "(whence.open_run) and give that."
        )
