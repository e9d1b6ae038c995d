"""Recorded runs: record a training loop, open the run, walk its steps again."""

from whence.runs.facts import run_facts
from whence.runs.huggingface import cross_entropy_of_logits, huggingface_recorder
from whence.runs.lightning import lightning_recorder
from whence.runs.loss import TrainingLoss, training_loss
from whence.runs.manifest import Manifest
from whence.runs.modes import Modes
from whence.runs.opening import check_run, open_run
from whence.runs.pieces import pieces_of, size
from whence.runs.private import model_copy
from whence.runs.randomness import RandomState, kept_randomness
from whence.runs.record import record, start_recording
from whence.runs.recorder import Recorder
from whence.runs.retraining import as_weights, in_processes, prepare, retrain
from whence.runs.rule import CLIP_EPS, Clipping, NormClip, by_parameter, is_plain
from whence.runs.run import Run, Segment
from whence.runs.settings import GroupSettings, unsupported
from whence.runs.share import check_shared, share_of
from whence.runs.snapshots import ModelState
from whence.runs.statistics import GradientStatistics, GradientTable
from whence.runs.step_record import StepRecord
from whence.runs.trees import cast_floating, cast_model, leaves, to_device, transform
from whence.runs.verification import Verification
from whence.runs.walker import Around, ReplayedStep

__all__ = (
    "CLIP_EPS",
    "Around",
    "Clipping",
    "GradientStatistics",
    "GradientTable",
    "GroupSettings",
    "Manifest",
    "ModelState",
    "Modes",
    "NormClip",
    "RandomState",
    "Recorder",
    "ReplayedStep",
    "Run",
    "Segment",
    "StepRecord",
    "TrainingLoss",
    "Verification",
    "as_weights",
    "by_parameter",
    "cast_floating",
    "cast_model",
    "check_run",
    "check_shared",
    "cross_entropy_of_logits",
    "huggingface_recorder",
    "in_processes",
    "is_plain",
    "kept_randomness",
    "leaves",
    "lightning_recorder",
    "model_copy",
    "open_run",
    "pieces_of",
    "prepare",
    "record",
    "retrain",
    "run_facts",
    "share_of",
    "size",
    "start_recording",
    "to_device",
    "training_loss",
    "transform",
    "unsupported",
)
