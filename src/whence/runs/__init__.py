"""Recorded runs: record a training loop, open the run, walk its steps again."""

from whence.runs.facts import run_facts
from whence.runs.huggingface import cross_entropy_of_logits, huggingface_recorder
from whence.runs.lightning import lightning_recorder
from whence.runs.loss import TrainingLoss, training_loss
from whence.runs.manifest import Manifest
from whence.runs.pieces import pieces_of, size
from whence.runs.record import record, start_recording
from whence.runs.recorder import Recorder
from whence.runs.run import ModelState, Run, Segment, open_run
from whence.runs.settings import GroupSettings, unsupported
from whence.runs.statistics import GradientStatistics, GradientTable
from whence.runs.step_record import StepRecord
from whence.runs.verification import Verification
from whence.runs.walker import Around, ReplayedStep

__all__ = (
    "Around",
    "GradientStatistics",
    "GradientTable",
    "GroupSettings",
    "Manifest",
    "ModelState",
    "Recorder",
    "ReplayedStep",
    "Run",
    "Segment",
    "StepRecord",
    "TrainingLoss",
    "Verification",
    "cross_entropy_of_logits",
    "huggingface_recorder",
    "lightning_recorder",
    "open_run",
    "pieces_of",
    "record",
    "run_facts",
    "size",
    "start_recording",
    "training_loss",
    "unsupported",
)
