"""Bring a training to the last whole step of a run, to go on from there."""

from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer

from whence._errors import ModelMismatchError
from whence.datasets import Examples
from whence.runs.epochs import Epochs
from whence.runs.layout import clean, table_path
from whence.runs.loss import TrainingLoss
from whence.runs.manifest import Manifest, check_data, check_model
from whence.runs.private import own_memory, private_copy
from whence.runs.randomness import RandomState
from whence.runs.run import Run
from whence.runs.settings import apply_settings, decode_settings, parameter_names, trained_names
from whence.runs.snapshots import apply_state
from whence.runs.steps import StepTable


def resume_training(
    folder: Path, model: nn.Module, optimizer: Optimizer, examples: Examples, loss: TrainingLoss
) -> RandomState:
    """Set model, optimizer and torch's random state to the run's last whole step.

    Returns:
        The random state that a replay stands at there.

    Raises:
        ModelMismatchError: If model or optimizer are not those of the run.
        ChangedDataError: If the training data is another.
        ReplayError: If the run cannot be walked to its last step.
    """
    manifest = Manifest.load(folder)
    check_model(manifest, model)
    _check_optimizer(manifest, model, optimizer)
    check_data(manifest, examples)
    with StepTable.closing(table_path(folder)) as table:
        clean(folder, len(table))
    own_memory(model)  # it is written to, too
    run = Run(folder, manifest, private_copy(model), examples, loss)
    try:
        return _restore(run, model, optimizer)
    finally:
        run.close()


def _restore(run: Run, model: nn.Module, optimizer: Optimizer) -> RandomState:
    state = run.training_state_at(run.steps)
    settings = run.record_of(run.steps - 1).settings if run.steps else decode_settings(run.manifest.groups)
    apply_settings(optimizer, settings, dict(model.named_parameters()))
    apply_state(state, model, optimizer)
    device = next(model.parameters()).device
    _live_random(run, state.random, device).restore(device)
    return state.random


def _live_random(run: Run, replayed: RandomState, device: torch.device) -> RandomState:
    """Return torch's random state where the training stopped, as far as it was seen."""
    with StepTable.closing(table_path(run.path)) as table:
        finished = Epochs(table, device).finished()
    if finished is not None:
        return finished.random
    after = run.record_of(run.steps - 1).after if run.steps else None
    return after or replayed


def _check_optimizer(manifest: Manifest, model: nn.Module, optimizer: Optimizer) -> None:
    """Check that an optimizer has the class and groups of the recorded one.

    Raises:
        ModelMismatchError: If not.
    """
    kind = type(optimizer).__name__
    if kind != manifest.optimizer:
        raise ModelMismatchError(
            f"The run was recorded with {manifest.optimizer}; the optimizer given is {kind}. "
            "Make the optimizer as in the training."
        )
    names = trained_names(optimizer, parameter_names(model))
    if names[: len(manifest.trained)] != manifest.trained:
        raise ModelMismatchError(
            f"The run's optimizer has the parameters {', '.join(manifest.trained[:6])}, ...; the one given has "
            f"{', '.join(names[:6])}, .... Make the optimizer with the same groups in the same order."
        )
