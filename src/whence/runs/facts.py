"""What a run on disk says of itself, without its model or data."""

import math
from pathlib import Path
from typing import Any

from whence.runs.layout import snapshots_of, table_path
from whence.runs.manifest import Manifest
from whence.runs.steps import StepTable


def run_facts(path: str | Path) -> dict[str, Any]:
    """Return what a run is: model, optimizer, loss, number of steps, epochs and snapshots, versions.

    Args:
        path: Folder of the run.

    Raises:
        RunNotFoundError: If there is no run at ``path``.
        RunFormatError: If a file of it cannot be read.
    """
    folder = Path(path)
    manifest = Manifest.load(folder)
    with StepTable.closing(table_path(folder)) as table:
        steps, epochs = len(table), table.last_epoch() + 1
    trained = [form for form in manifest.parameters if form.name in set(manifest.trained)]
    return {
        "run": folder,
        "model": manifest.model,
        "trained_parameters": sum(math.prod(form.shape) for form in trained),
        "optimizer": manifest.optimizer,
        "loss": manifest.loss,
        "training_examples": manifest.examples,
        "steps": steps,
        "epochs": epochs,
        "snapshots": len(snapshots_of(folder).steps()),
        "versions": dict(manifest.versions),
    }
